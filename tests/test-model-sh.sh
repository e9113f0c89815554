#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A plugin that is a shell script: no parallel requests, no trim, no
# block status, no flush, its own errors.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_plugin sh
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 8M -t ext4 -O ^has_journal -d "$tmp/src"
cat > "$tmp/plugin.sh" <<END
#!/bin/sh
case "\$1" in
    thread_model) echo serialize_all_requests ;;
    get_size) stat -c %s "$img" ;;
    pread) dd iflag=skip_bytes,count_bytes skip="\$4" count="\$3" \
              if="$img" bs=64k 2>/dev/null ;;
    can_write) exit 0 ;;
    pwrite) dd oflag=seek_bytes seek="\$4" conv=notrunc \
               of="$img" bs=64k 2>/dev/null ;;
    *) exit 2 ;;
esac
END
chmod +x "$tmp/plugin.sh"
serve --filter=ext2 sh "$tmp/plugin.sh" ext2file=/vm.raw
shadow -c 4 -n "$(scaled 40)" -i "$tmp/src/vm.raw" -o "$tmp/shadow" "$uri"
stop
check_file "$img" /vm.raw "$tmp/shadow"

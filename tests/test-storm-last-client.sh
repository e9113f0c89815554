#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# With the server still running, the image is clean on disk soon after
# the last client left, and the next client finds all that was written.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
make_raw "$tmp/vm.raw" 4M 0:1M
mkdir "$tmp/src"
cp --sparse=always "$tmp/vm.raw" "$tmp/src/vm.raw"
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
serve_file "$img" /vm.raw
for i in 1 2 3 4 5; do
    # The first round overwrites, so its metadata may wait for the end.
    nbd_script <<END
h.pwrite(bytes([$i]) * 100000, $i * 600000)
h.flush()
h.pwrite(bytes([$i]) * 100000, $i * 600000)
with open("$img", "rb") as f:
    f.seek(1024 + 0x60)
    needs_recovery = bool(f.read(1)[0] & 4)
assert needs_recovery or $i == 1
END
    wait_clean "$img"
    cp --sparse=always "$img" "$tmp/copy.img"
    python - "$tmp/vm.raw" "$i" <<'END'
import sys
i = int(sys.argv[2])
with open(sys.argv[1], "r+b") as f:
    f.seek(i * 600000)
    f.write(bytes([i]) * 100000)
END
    check_file "$tmp/copy.img" /vm.raw "$tmp/vm.raw"
done
stop
check_file "$img" /vm.raw "$tmp/vm.raw"

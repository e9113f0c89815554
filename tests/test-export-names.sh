#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# ext2file=exportname: every client gets the file it names, several at
# once; a name without a file is an error for that client only.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdinfo nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
mkdir "$tmp/src/sub"
make_raw "$tmp/src/two.raw" 123456
make_raw "$tmp/src/sub/with space.raw" 4321
make_fs "$img" 16M -t ext4 -d "$tmp/src"
serve_file "$img" exportname
copies=()
for name in vm.raw two.raw "sub/with%20space.raw" /vm.raw; do
    bounded nbdcopy "nbd+unix:///$name?socket=$sock" \
            "$tmp/out${#copies[@]}" &
    copies+=($!)
done
for name in missing.raw sub ""; do
    if bounded nbdinfo "$(uri_of "$name")" >"$tmp/nbdinfo" 2>&1; then
        fail "the export '$name' was found"
    fi
done
for c in "${copies[@]}"; do
    wait "$c"
done
same "$tmp/out0" "$tmp/src/vm.raw"
same "$tmp/out1" "$tmp/src/two.raw"
same "$tmp/out2" "$tmp/src/sub/with space.raw"
same "$tmp/out3" "$tmp/src/vm.raw"
stop
grep -q "error: .*missing.raw.*[Nn]o such file" "$log" ||
    fail "the missing file is not named"

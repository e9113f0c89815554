#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Zeroes and trims of more than 64 MiB at once cover all of their range
# and nothing else.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 300M every=1M:5000
for fs in "ext4 -b 4096" "ext4 -b 1024" "ext2 -b 1024"; do
    for how in "h.zero(n, o)" "h.zero(n, o, nbd.CMD_FLAG_NO_HOLE)" \
               "h.trim(n, o)"; do
        # shellcheck disable=SC2086
        make_fs "$img" 360M -t $fs -N 64 -d "$tmp/src"
        serve_file "$img" /vm.raw
        nbd_script <<END
import nbd
edge, n, o = 5000, (200 << 20) + 3000, (17 << 20) + 1000
before = h.pread(1000, 17 << 20)
head, tail = h.pread(edge, 16 << 20), h.pread(edge, 218 << 20)
$how
assert h.pread(1000, 17 << 20) == before
assert h.pread(edge, 16 << 20) == head and h.pread(edge, 218 << 20) == tail
for i in range(18, 217):
    assert h.pread(edge, i << 20) == bytes(edge), i
# 217 MiB + 4000 is the end of the range.
assert h.pread(1000, (217 << 20) + 4000) != bytes(1000)
END
        stop
        check_clean "$img"
    done
done

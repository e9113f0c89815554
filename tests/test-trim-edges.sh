#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Trim rounds inwards: bytes outside of whole blocks keep their values,
# whole blocks become holes and read as zeros.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 300001
for bs in 1024 4096; do
    for fs in ext4 ext2; do
        make_fs "$img" 32M -t $fs -b $bs -d "$tmp/src"
        serve_file "$img" /vm.raw
        nbd_script <<END
bs = $bs
expected = bytearray(h.pread(300001, 0))
for offset, count in ((1, bs - 1), (bs, bs), (3 * bs - 1, bs + 1),
                      (5 * bs - 1, bs + 2), (100000, 50000),
                      (200001, 100), (290000, 10001)):
    h.trim(count, offset)
    first = -(-offset // bs) * bs
    last = (offset + count) // bs * bs
    if offset + count == 300001:
        last = 300001           # nothing behind it to preserve
    if first < last:
        got = h.pread(last - first, first)
        tail = last % bs
        assert got[:len(got) - tail] == bytes(len(got) - tail), (offset, count)
        expected[first:last] = got
    assert h.pread(300001, 0) == expected, (offset, count)
with open("$tmp/expected", "wb") as f:
    f.write(expected)
END
        stop
        check_file "$img" /vm.raw "$tmp/expected"
    done
done

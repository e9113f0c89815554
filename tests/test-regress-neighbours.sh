#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Zeroes and trims at file offsets stay inside the file: the other
# files of the filesystem keep every byte.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/a.raw" 3M
make_raw "$tmp/src/vm.raw" 8M
make_raw "$tmp/src/z.raw" 3M
for fs in ext4 ext2; do
    make_fs "$img" 32M -t $fs -b 1024 -d "$tmp/src"
    serve_file "$img" /vm.raw
    nbd_script <<END
import nbd
with open("$tmp/src/vm.raw", "rb") as f:
    expected = bytearray(f.read())
for i in range(0, 8):
    o = i << 20
    h.zero(100000, o + 1)
    h.zero(100000, o + 200001, nbd.CMD_FLAG_NO_HOLE)
    h.trim(102400, o + 400 * 1024)
    h.cache(100000, o)
    for s, n in ((1, 100000), (200001, 100000), (409600, 102400)):
        expected[o + s:o + s + n] = bytes(n)
assert h.pread(8 << 20, 0) == expected
with open("$tmp/expected", "wb") as f:
    f.write(expected)
END
    stop
    check_file "$img" /vm.raw "$tmp/expected"
    for f in a z; do
        check_file "$img" /$f.raw "$tmp/src/$f.raw"
    done
done

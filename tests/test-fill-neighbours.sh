#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Writes of less than a block into holes: the rest of the block is
# zeros, never what the free block held before.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 70M 0:0
for fs in "ext4 -b 4096" "ext4 -b 1024" "ext3 -b 1024" "ext2 -b 4096"; do
    # shellcheck disable=SC2086
    make_fs "$img" 48M -t $fs -d "$tmp/src"
    dirty_free "$img"
    serve_file "$img" /vm.raw
    nbd_script <<END
import os, random
seed = int(os.environ.get("NBD_TEST_SEED", "0")) or random.randrange(1 << 32)
print("seed", seed)
rng = random.Random(seed)
size = h.get_size()
expected = bytearray(size)
for i in range(400):
    count = rng.choice((1, 3, 100, 511, 1025, 4095, 5000, 20000))
    offset = rng.randrange(size - count)
    data = bytes([rng.randint(1, 255)]) * count
    h.pwrite(data, offset)
    expected[offset:offset + count] = data
    start = max(0, offset - 9000)
    got = h.pread(min(size - start, count + 18000), start)
    assert got == expected[start:start + len(got)], (offset, count)
with open("$tmp/expected", "wb") as f:
    f.write(expected)
END
    stop
    check_file "$img" /vm.raw "$tmp/expected"
done

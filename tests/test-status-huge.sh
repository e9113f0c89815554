#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A 6 TiB file with a few blocks in it: block status for up to 4 GiB -
# 1 at once, and reads far out.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 6T 0:4096 3T:8192 5T:4096 6597069762560:4096 ||
    skip "the temporary directory cannot hold a 6 TiB sparse file"
make_fs "$img" 32M -t ext4 -b 4096 -d "$tmp/src"
serve_file "$img" /vm.raw
expect_map "0 4096 0
4096 3298534879232 3
3298534883328 8192 0
3298534891520 2199023247360 3
5497558138880 4096 0
5497558142976 1099511619584 3
6597069762560 4096 0"
nbd_script <<END
T = 1 << 40
def status(offset, count):
    out = []
    h.block_status(count, offset, lambda c, o, e, err: out.extend(e) or 0)
    return out
most = (1 << 32) - 1
for offset in (4096, T, 2 * T + 1, 3 * T - most, 4 * T, 5 * T - most + 5):
    got = status(offset, most)
    assert got[1] == 3 and got[0] > 0, got
    assert sum(got[::2]) >= min(most, 1 << 31), got
assert status(3 * T - 100, most)[:4] == [100, 3, 8192, 0]
assert h.pread(4096, 5 * T - 4096) == bytes(4096)
assert h.pread(4096, 5 * T) != bytes(4096)
h.pwrite(b"far", 4 * T + 3)
h.zero(most, 2 * T)
h.trim(most, 2 * T + 12345)
assert h.pread(9, 4 * T) == b"\0\0\0far\0\0\0"
assert status(4 * T, 8192)[:4] == [4096, 0, 4096, 3]
END
stop
check_clean "$img"

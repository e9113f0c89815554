#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Zeroing without MAY_TRIM reads back as zeros and keeps, or gets, its
# blocks; with MAY_TRIM whole blocks become holes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 4M 0:2M
for fs in "ext4 -b 4096" "ext4 -b 1024" "ext2 -b 1024"; do
    # shellcheck disable=SC2086
    make_fs "$img" 32M -t $fs -d "$tmp/src"
    dirty_free "$img"
    serve_file "$img" /vm.raw
    nbd_script <<END
import nbd
def status(offset, count):
    out = []
    h.block_status(count, offset, lambda c, o, e, err: out.extend(e) or 0)
    return [f for n, f in zip(out[::2], out[1::2]) for i in range(n // 1024)]
# Data, then a hole, then both.
for offset in (0, 3 << 20, (2 << 20) - 65536):
    h.zero(131072, offset, nbd.CMD_FLAG_NO_HOLE)
    assert h.pread(131072, offset) == bytes(131072)
    assert set(status(offset, 131072)[:128]) <= {0, 2}, offset
before = h.pread(65536, 1 << 20)
h.zero(40000, (1 << 20) + 5000)
after = h.pread(65536, 1 << 20)
assert after == before[:5000] + bytes(40000) + before[45000:]
assert set(status((1 << 20) + 8192, 36864 - 8192)[:28]) == {3}
h.zero(4 << 20, 0)
assert set(status(0, 4 << 20)[:4096]) == {3}
END
    stop
    truncate -s 0 "$tmp/zeros"
    truncate -s 4M "$tmp/zeros"
    check_file "$img" /vm.raw "$tmp/zeros"
done

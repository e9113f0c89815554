#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# FAST_ZERO is advertised; it either zeroes, or says ENOTSUP and leaves
# the data alone.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 4M 0:2M
for fs in "ext4 -b 4096" "ext2 -b 1024"; do
    # shellcheck disable=SC2086
    make_fs "$img" 32M -t $fs -d "$tmp/src"
    for filters in "" "--filter=nozero"; do
        # shellcheck disable=SC2086
        serve --filter=ext2 $filters file "$img" ext2file=/vm.raw
        nbd_script <<END
import errno, nbd
assert h.can_fast_zero()
for offset, count in ((0, 65536), (100, 1000), (70001, 300000),
                      (3 << 20, 4096), ((2 << 20) - 777, 5000)):
    for flags in (0, nbd.CMD_FLAG_NO_HOLE):
        h.pwrite(b"z" * 100, offset + 50)
        before = h.pread(count + 200, max(0, offset - 100))
        skip = offset - max(0, offset - 100)
        try:
            h.zero(count, offset, flags | nbd.CMD_FLAG_FAST_ZERO)
            want = before[:skip] + bytes(count) + before[skip + count:]
        except nbd.Error as e:
            assert e.errnum in (errno.ENOTSUP, errno.EOPNOTSUPP), e
            want = before
        assert h.pread(count + 200, max(0, offset - 100)) == want, offset
END
        stop
        check_clean "$img"
    done
done

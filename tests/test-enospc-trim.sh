#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# In a full filesystem trimming, or zeroing with MAY_TRIM, makes room
# that can be written again.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
make_fs "$img" 16M -t ext4 -b 1024 -m 5 -O ^has_journal
debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 40000000"
dirty_free "$img"
serve_file "$img" /vm.raw
nbd_script <<END
import errno, nbd
def fill(offset, end):
    while offset < end:
        try:
            h.pwrite(b"f" * 100000, offset)
        except nbd.Error as e:
            assert e.errnum == errno.ENOSPC, e
            return offset
        offset += 100000
    return offset
full = fill(0, 40000000)
assert full < 40000000
for how in (h.trim, h.zero):
    how(5000000, 1000000)
    h.flush()
    assert h.pread(4000000, 1500000) == bytes(4000000)
    assert fill(1000000, 5800000) == 5800000
    h.trim(100000, 5900000)
    full = fill(30000000, 40000000)
    h.trim(1000000, 30000000)
    h.flush()
assert h.pread(4800000, 1000000) == b"f" * 4800000
END
stop
check_clean "$img"

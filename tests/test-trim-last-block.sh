#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A file that owns the last block of the filesystem: it can be written,
# trimmed, and written again.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
for fs in ext4 ext2; do
    make_fs "$img" 8M -t $fs -b 1024 -m 0 -O ^has_journal
    debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 20000000"
    serve_file "$img" /vm.raw
    nbd_script <<END
import errno, nbd
full = 0
try:
    while True:
        h.pwrite(b"\1" * 1024, full)
        full += 1024
except nbd.Error as e:
    assert e.errnum == errno.ENOSPC
last = full - 1024
for i in range(3):
    for offset in range(0, full, 1024 * 50):
        h.trim(1024, offset)
    h.trim(100 * 1024, last - 99 * 1024)
    assert h.pread(1024, last) == bytes(1024)
    for offset in range(0, full, 1024 * 50):
        h.pwrite(b"\2" * 1024, offset)
    h.pwrite(b"\3" * 1024, last)
assert h.pread(1024, last) == b"\3" * 1024
assert h.pread(1024, 1024) == b"\1" * 1024
END
    stop
    check_clean "$img"
    serve_file "$img" /vm.raw
    nbd_script <<END
h.trim(20000000, 0)
END
    stop
    check_clean "$img"
done

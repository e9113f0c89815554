#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A file with more holes than the filesystem has room: writes fail with
# ENOSPC, all that was written stays readable and writable, the
# reserved blocks stay free.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
make_fs "$img" 16M -t ext4 -b 1024 -m 5 -O ^has_journal
debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 40000000"
dirty_free "$img"
reserved=$(superblock "$img" "Reserved block count")
[ "$reserved" -gt 0 ]
serve_file "$img" /vm.raw
nbd_script <<END
import errno, nbd
b = nbd.NBD()
b.connect_uri("$uri")
def fill(step, offset):
    while True:
        try:
            h.pwrite(bytes([offset // step % 250 + 1]) * step, offset)
        except nbd.Error as e:
            assert e.errnum == errno.ENOSPC, e
            return offset
        offset += step
end = fill(300000, 0)
assert end > 10000000, end
end = fill(1000, end)           # 1000 bytes: within one or two blocks
for offset in range(0, end // 300000 * 300000, 300000):
    v = offset // 300000 % 250 + 1
    got = b.pread(300000, offset)
    if offset + 300000 < 10000000:
        assert got == bytes([v]) * 300000, offset
assert b.pread(1000000, 39000000) == bytes(1000000)
h.pwrite(b"again" * 1000, 123)
h.flush()
assert b.pread(5000, 123) == b"again" * 1000
with open("$tmp/expected", "wb") as f:
    for offset in range(0, 40000000, 1000000):
        f.write(b.pread(1000000, offset))
END
stop
check_file "$img" /vm.raw "$tmp/expected"
free=$(superblock "$img" "Free blocks")
echo "reserved $reserved, free $free"
[ "$free" -ge "$reserved" ] || fail "reserved blocks were used"
[ "$free" -le $((reserved + 200)) ] || fail "ENOSPC came too early"

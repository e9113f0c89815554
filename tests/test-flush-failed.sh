#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The device fails to flush once.  Flushes then fail for the rest of the
# server's life: also for a client that comes back after all have left, and
# the filesystem was closed and opened again.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck
requires_plugin eval
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 8M -t ext4 -d "$tmp/src"
start ()
{
    serve --filter=ext2 eval ext2file=/vm.raw \
          get_size="stat -c %s $img" \
          pread="dd iflag=skip_bytes,count_bytes skip=\$4 count=\$3 \
                    if=$img bs=64k 2>/dev/null" \
          can_write='exit 0' can_flush='exit 0' \
          pwrite="dd oflag=seek_bytes seek=\$4 conv=notrunc of=$img \
                     bs=64k 2>/dev/null" \
          flush="if rm $tmp/fail 2>/dev/null; then echo EIO bad >&2; exit 1; fi"
}
closed ()
{
    [ "$(grep -c 'could not be closed' "$log")" -eq "$1" ]
}

start
touch "$tmp/fail"
nbd_script <<'SCRIPT'
import errno
for i in range(2):
    h.pwrite(b"a" * 4096, 0)
    try:
        h.flush()
    except nbd.Error as e:
        assert e.errnum == errno.EIO, e
    else:
        raise SystemExit("a flush succeeded")
assert h.pread(4096, 0) == b"a" * 4096
SCRIPT
[ ! -e "$tmp/fail" ] || fail "the plugin was never asked to flush"
# The last client has left: a new one finds a filesystem opened anew.
wait_until closed 1
nbd_script <<'SCRIPT'
import errno
h.pread(4096, 0)
h.pwrite(b"b" * 4096, 4096)
try:
    h.flush()
except nbd.Error as e:
    assert e.errnum == errno.EIO, e
else:
    raise SystemExit("a flush succeeded after the filesystem was reopened")
SCRIPT
wait_until closed 2
grep -q 'one has failed since the server was started' "$log" ||
    fail "the second opening did not say why flushes fail"
stop

# A server started anew knows nothing of it.
e2fsck -fp "$img" >/dev/null || [ $? -eq 1 ] || fail "e2fsck"
start
nbd_script <<'SCRIPT'
h.pwrite(b"c" * 4096, 8192)
h.flush()
SCRIPT
stop
check_clean "$img"

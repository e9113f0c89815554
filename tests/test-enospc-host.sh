#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A sparse image on a host that is full: writes to holes are refused, trims
# and flushes are not, and once there is room again everything goes on.  The
# filesystem is never marked as having errors.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs
requires_nbdsh
requires_mount

mkdir "$tmp/src" "$tmp/host"
make_raw "$tmp/src/full.raw" 8M 0:8M
truncate -s 64M "$tmp/src/vm.raw"
mount -t tmpfs -o size=20M none "$tmp/host" || skip "cannot mount a tmpfs"
mounts+=("$tmp/host")
img=$tmp/host/disk.img
make_fs "$img" 128M -t ext4 -b 1024 -J size=4 -d "$tmp/src"
serve --filter=ext2 file "$img" ext2file=exportname
host=$tmp/host
full=$(uri_of full.raw)
export host full
uri=$(uri_of vm.raw) nbd_script <<'SCRIPT'
import errno, os, subprocess
f = nbd.NBD()
f.connect_uri(os.environ["full"])
MIB = 1 << 20
written = {}

def try_write(at):
    try:
        h.pwrite(bytes([at % 251 + 1]) * 65536, at * 65536)
    except nbd.Error as e:
        assert e.errnum == errno.ENOSPC, e
        return False
    written[at] = at % 251 + 1
    return True

h.pwrite(b"x", 0)
h.flush()
written[0] = None
at = 1
while try_write(at):
    at += 1
assert at > 20, at
# The host is full.  What needs no room goes on, flushes and FUA too.
h.flush()
h.pwrite(b"y" * 65536, 65536, nbd.CMD_FLAG_FUA)
written[1] = ord("y")
assert not try_write(at + 1)
# A trim gives room back to the host: that is enough to go on.
f.trim(4 * MIB, 0)
h.flush()
for i in range(200):
    if try_write(at + 2):
        break
else:
    raise SystemExit("no room after a trim")
while try_write(at + 3):
    at += 1
# More room.
subprocess.check_call(["mount", "-o", "remount,size=120M",
                       os.environ["host"]])
for i in range(900, 950):
    assert try_write(i)
h.flush()
for at, byte in written.items():
    if byte:
        assert h.pread(65536, at * 65536) == bytes([byte]) * 65536, at
SCRIPT
stop
check_clean "$img"
[ "$(superblock "$img" 'Filesystem state')" = clean ] || fail "not clean"
! grep -q 'no more changes' "$log" || fail "changes were given up"

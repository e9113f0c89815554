#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A client hangs up while its flush is being carried out.  The delay
# filter then fails the calls of that client's thread; the commit is
# everybody's, so the others must not notice.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck
requires_filter delay
requires_nbdsh

mkdir "$tmp/src"
truncate -s 8M "$tmp/src/vm.raw"
make_fs "$tmp/disk.img" 64M -t ext4 -d "$tmp/src"
serve --filter=ext2 --filter=delay file "$tmp/disk.img" ext2file=/vm.raw \
      wdelay=300ms
export uri img="$tmp/disk.img"
nbd_script <<'SCRIPT'
import os, time
uri = os.environ["uri"]
a = nbd.NBD()
a.connect_uri(uri)
b = nbd.NBD()
b.connect_uri(uri)
a.pwrite(b"a" * 65536, 0)
a.aio_flush()
# Push the request out, wait until the commit has begun, and vanish.
for i in range(1000):
    a.poll(10)
    with open(os.environ["img"], "rb") as f:
        f.seek(1024 + 0x60)
        if f.read(1)[0] & 4:    # needs_recovery
            break
time.sleep(0.1)
del a
b.pwrite(b"b" * 65536, 65536)
b.flush()
b.pwrite(b"c" * 65536, 131072, nbd.CMD_FLAG_FUA)
c = nbd.NBD()
c.connect_uri(uri)
assert c.pread(196608, 0) == b"a" * 65536 + b"b" * 65536 + b"c" * 65536
SCRIPT
# The close takes several slow writes; after a signal they would fail.
wait_clean "$tmp/disk.img"
stop
check_clean "$tmp/disk.img"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# SIGTERM while clients are connected and idle: what they wrote is
# there, the image is clean.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh
no_leak_check

img=$tmp/disk.img
make_raw "$tmp/vm.raw" 8M 0:2M
mkdir "$tmp/src"
cp --sparse=always "$tmp/vm.raw" "$tmp/src/vm.raw"
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
serve_file "$img" /vm.raw
nbd_script <<END
import nbd, os, signal, time
clients = [h]
for i in range(5):
    c = nbd.NBD()
    c.connect_uri("$uri")
    clients.append(c)
with open("$tmp/vm.raw", "r+b") as f:
    for i in range(60):
        offset, data = 1500000 + i * 100003, bytes([i + 1]) * 40000
        clients[i % 6].pwrite(data, offset)
        f.seek(offset)
        f.write(data)
os.kill($pid, signal.SIGTERM)
time.sleep(1)
# Stay until the server says that it ends, or has gone.
try:
    while True:
        h.pread(512, 0)
        time.sleep(0.1)
except nbd.Error:
    pass
END
ended
check_file "$img" /vm.raw "$tmp/vm.raw"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# What one client wrote, a second one flushes and a third one reads.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 8M 1M:1M
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
serve_file "$img" /vm.raw
nbd_script <<END
import nbd
a = h
b, c = nbd.NBD(), nbd.NBD()
b.connect_uri("$uri")
c.connect_uri("$uri")
assert a.can_multi_conn() and b.can_multi_conn()
for i in range(50):
    # A hole, written blocks, an unaligned piece of both.
    for offset, size in ((i * 8192, 4096), (1 << 20, 65536),
                         ((2 << 20) - 513 + i, 1111)):
        data = bytes([i + 1]) * size
        a.pwrite(data, offset)
        b.flush()
        assert c.pread(size, offset) == data
b.zero(1 << 20, 1 << 20)
a.flush()
assert c.pread(1 << 20, 1 << 20) == bytes(1 << 20)
END
stop
check_clean "$img"

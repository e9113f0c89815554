#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Two names of one file, by a link and by a symbolic link, are one file
# for their clients.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
ln -s vm.raw "$tmp/src/soft.raw"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ln /vm.raw hard.raw" "sif /vm.raw links_count 2"
check_clean "$img"
serve_file "$img" exportname
uri=$(uri_of vm.raw)
nbd_script <<END
import nbd
others = []
for name in ("soft.raw", "hard.raw"):
    c = nbd.NBD()
    c.connect_uri("nbd+unix:///%s?socket=$sock" % name)
    others.append(c)
for i in range(100):
    offset = i * 9999
    h.pwrite(bytes([i + 1]) * 5000, offset)
    for c in others:
        assert c.pread(5000, offset) == bytes([i + 1]) * 5000
    others[i % 2].pwrite(b"other", offset + 77)
    assert h.pread(5, offset + 77) == b"other"
END
stop
check_clean "$img"

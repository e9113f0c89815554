#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Somebody truncates the image beneath the server: reads of what is gone
# fail, all others go on, and the server ends when it is told to.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 9M 0:9M

for options in -r ""; do
    for fs in "ext4 -b 4096" "ext2 -b 1024"; do
        # shellcheck disable=SC2086
        make_fs "$img" 16M -t $fs -d "$tmp/src"
        # shellcheck disable=SC2086
        serve_file "$img" /vm.raw $options
        nbd_script <<END
import os, nbd
size = h.get_size()
data = h.pread(size, 0)
os.truncate("$img", 6 << 20)
readable = 0
for at in range(0, size, 65536):
    try:
        assert h.pread(65536, at) == data[at:at + 65536]
        readable += 1
    except nbd.Error as e:
        assert e.errno == "EIO", e
assert 0 < readable < size // 65536, readable
if not h.is_read_only():
    for at in range(0, size, 1 << 20):
        for call in (lambda: h.pwrite(b"x" * 5000, at),
                     lambda: h.zero(5000, at + 10000),
                     lambda: h.trim(65536, at + 65536),
                     lambda: h.flush()):
            try:
                call()
            except nbd.Error as e:
                assert e.errnum, e
END
        stop
        rm -f "$img"
    done
done

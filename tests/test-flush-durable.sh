#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# After FLUSH on any connection the image itself, as copied at that
# moment with the server still running, has the data and metadata that
# are consistent.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

for fs in "ext4 -b 4096" "ext4 -b 1024" "ext3 -b 1024" "ext2 -b 1024"; do
    img=$tmp/disk.img
    make_raw "$tmp/vm.raw" 9M 2M:900001
    mkdir -p "$tmp/src"
    cp --sparse=always "$tmp/vm.raw" "$tmp/src/vm.raw"
    # shellcheck disable=SC2086
    make_fs "$img" 48M -t $fs -d "$tmp/src"
    dirty_free "$img"
    serve_file "$img" /vm.raw
    nbd_script <<END
import nbd, shutil
b = nbd.NBD()
b.connect_uri("$uri")
with open("$tmp/vm.raw", "rb") as f:
    expected = bytearray(f.read())
for i, (offset, size) in enumerate(((0, 5000), (3 << 20, 1 << 20),
                                    ((1 << 20) + 77, 300000),
                                    ((9 << 20) - 100, 100))):
    data = bytes([65 + i]) * size
    expected[offset:offset + size] = data
    h.pwrite(data, offset)
    b.flush()
    shutil.copyfile("$img", "$tmp/copy%d.img" % i)
    with open("$tmp/expected%d" % i, "wb") as f:
        f.write(expected)
# Zeroes may make holes: what they free is free on disk.
h.zero(200 * 1024, 3 << 20)
h.trim(64 * 1024, (3 << 20) + (600 << 10))
expected[3 << 20:(3 << 20) + (200 << 10)] = bytes(200 << 10)
start = (3 << 20) + (600 << 10)
expected[start:start + (64 << 10)] = h.pread(64 << 10, start)
b.flush()
shutil.copyfile("$img", "$tmp/copy4.img")
with open("$tmp/expected4", "wb") as f:
    f.write(expected)
END
    for i in 0 1 2 3 4; do
        check_consistent "$tmp/copy$i.img"
        dump "$tmp/copy$i.img" /vm.raw "$tmp/out"
        same "$tmp/out" "$tmp/expected$i"
    done
    stop
    check_file "$img" /vm.raw "$tmp/expected4"
    echo "$fs: flushed writes are in the image"
done

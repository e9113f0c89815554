#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# With -r clients see a read-only export, the right bytes and block
# status, and not a byte of the image changes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdcopy
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
for fs in ext4 ext2; do
    make_fs "$img" 16M -t $fs -d "$tmp/src"
    before=$(sum_of "$img")
    serve_file "$img" /vm.raw -r
    bounded nbdinfo --is readonly "$uri"
    for what in write trim zero; do
        if bounded nbdinfo --can $what "$uri"; then
            fail "clients can $what"
        fi
    done
    shadow -f rbc -i "$tmp/src/vm.raw" -n "$(scaled 100)" "$uri"
    bounded nbdcopy "$uri" "$tmp/out"
    same "$tmp/out" "$tmp/src/vm.raw"
    unchanged "$img" "$before"
    stop
    unchanged "$img" "$before"
done

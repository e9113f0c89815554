#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients on a file of thousands of extents, with next to no room
# for its tree in the cache: blocks of it are evicted and read again all
# the time, and changed in between.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 24M 0:1M every=3K:1K
make_fs "$tmp/disk.img" 96M -t ext4 -b 1024 -d "$tmp/src"
dirty_free "$tmp/disk.img"
serve --filter=ext2 file "$tmp/disk.img" ext2file=/vm.raw ext2cache=1
shadow -i "$tmp/src/vm.raw" -o "$tmp/shadow" -n "$(scaled 400)" -S 5000 "$uri"
stop
check_file "$tmp/disk.img" /vm.raw "$tmp/shadow"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Block status at file offsets: holes, unwritten extents and data,
# exactly, to the last odd byte.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1000001 8K:4K 100K:8K 976K:24K
for fs in "ext4 -b 4096" "ext4 -b 1024" "ext2 -b 4096" "ext3 -b 1024"; do
    # shellcheck disable=SC2086
    make_fs "$img" 16M -t $fs -d "$tmp/src"
    dirty_free "$img"
    serve_file "$img" /vm.raw
    expect_map "0 8192 3
8192 4096 0
12288 90112 3
102400 8192 0
110592 888832 3
999424 577 0"
    stop
done

# 64 blocks of data, of which 16 to 31 and 40 to 47 become unwritten.
make_raw "$tmp/src/mixed.raw" 64K
make_fs "$img" 16M -t ext4 -b 1024 -d "$tmp/src"
p=$(debugfs -R "bmap /mixed.raw 0" "$img" 2>/dev/null)
debug "$img" "extent_open /mixed.raw" "root" "next" "replace_node 0 16 $p" \
      "insert_node --after --uninit 16 16 $((p + 16))" \
      "insert_node --after 32 8 $((p + 32))" \
      "insert_node --after --uninit 40 8 $((p + 40))" "extent_close" \
      "sif /mixed.raw size 65000"
serve_file "$img" /mixed.raw
expect_map "0 16384 0
16384 16384 2
32768 8192 0
40960 8192 2
49152 15848 3"
stop

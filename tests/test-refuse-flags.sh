#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Files whose bytes are not what clients would expect to see are
# refused by name.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
for case in "0x80800 encrypted" "0x80200 compressed" "0x80204 compressed" \
            "0x280000 ea_inode"; do
    make_fs "$img" 16M -t ext4 -d "$tmp/src"
    debug "$img" "sif /vm.raw flags ${case% *}"
    refused "${case#* }" "$img" /vm.raw
    refused "${case#* }" "$img" /vm.raw -r
done

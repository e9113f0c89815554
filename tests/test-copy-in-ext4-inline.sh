#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Files of every kind (ext4 with inline data), overwritten by a sparse
# copy, hold its bytes for e2fsprogs and for Linux, in a clean
# filesystem.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdcopy python3

make_kinds_fs "$tmp/disk.img" 4096 -t ext4 -J size=4 -O inline_data -I 256
copy_in "$tmp/disk.img"

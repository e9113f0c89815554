#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Filesystems that can be read safely but not written are served
# read-only, with a warning, and not a byte of them changes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
ro ()
{
    served_readonly "$1" "$img" /vm.raw "$tmp/src/vm.raw"
}

make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "feature read-only"
ro "read-only"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "feature shared_blocks"
ro "shared_blocks"
make_fs "$img" 16M -t ext4 -O quota -d "$tmp/src"
ro "quota"
make_fs "$img" 16M -t ext4 -O quota,project -I 256 -d "$tmp/src"
ro "quota|project"
make_fs "$img" 64M -t ext4 -O bigalloc -d "$tmp/src"
ro "bigalloc"
make_fs "$img" 16M -t ext4 -O ^metadata_csum -d "$tmp/src"
or_super32 "$img" 0x64 0x40000000
ro "feature"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv last_orphan 7"
ro "orphan"

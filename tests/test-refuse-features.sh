#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Filesystems that cannot be served, whether or not for writing.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
head -c 2M /dev/zero > "$img"
refused "not an ext2/3/4 filesystem" "$img" /vm.raw
refused "not an ext2/3/4 filesystem" "$img" /vm.raw -r
head -c 700 /dev/urandom > "$img"
refused "not an ext2/3/4 filesystem" "$img" /vm.raw

make_fs "$img" 16M -O journal_dev -b 4096
refused "journal device" "$img" /vm.raw

make_fs "$img" 16M -t ext4 -O ^metadata_csum -d "$tmp/src"
or_super32 "$img" 0x60 0x40000000
refused "unknown incompatible feature" "$img" /vm.raw
refused "unknown incompatible feature" "$img" /vm.raw -r

make_fs "$img" 16M -t ext4 -d "$tmp/src"
truncate -s 12M "$img"
refused "larger than" "$img" /vm.raw
refused "larger than" "$img" /vm.raw -r

# An external journal: a UUID, no inode.
make_fs "$img" 16M -t ext4 -O ^metadata_csum -d "$tmp/src"
poke "$img" $((1024 + 0xd0)) 0102030405060708090a0b0c0d0e0f1000000000
refused "external journal" "$img" /vm.raw

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Trimming gives blocks back: to the filesystem, and through the plugin
# to the host.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 32M
make_fs "$img" 64M -t ext4 -b 4096 -d "$tmp/src"
sync "$img"
free=$(superblock "$img" "Free blocks")
host=$(stat -c %b "$img")
serve_file "$img" /vm.raw
nbd_script <<END
h.trim(30 << 20, 1 << 20)
h.flush()
END
stop
check_clean "$img"
freed=$(($(superblock "$img" "Free blocks") - free))
[ $freed -eq 7680 ] || fail "$freed blocks were freed, not 7680"
sync "$img"
punched=$(((host - $(stat -c %b "$img")) / 8))
echo "freed $freed blocks, $punched on the host"
[ $punched -ge 7000 ] || fail "the host got $punched of 7680 blocks back"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Over a plugin that only takes 4 KiB pieces, on a filesystem with 1
# KiB blocks, clients may still do anything.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_filter blocksize-policy
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 4000001 0:1M every=300K:30K
make_fs "$img" 32M -t ext4 -b 1024 -d "$tmp/src"
dirty_free "$img"
serve --filter=ext2 --filter=blocksize-policy file "$img" ext2file=/vm.raw \
      blocksize-minimum=4096 blocksize-preferred=4096 \
      blocksize-maximum=64K blocksize-error-policy=error
shadow -n "$(scaled 150)" -i "$tmp/src/vm.raw" -o "$tmp/shadow" "$uri"
stop
check_file "$img" /vm.raw "$tmp/shadow"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients at once on a file with inline data.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 101
make_fs "$img" 16M -t ext4 -O inline_data -I 256 -d "$tmp/src"
debugfs -R "stat /vm.raw" "$img" 2>/dev/null | grep -q 'Flags: 0x1' ||
    skip "mke2fs did not make inline data"
dirty_free "$img"
shadow_run "$img" /vm.raw "$tmp/src/vm.raw" -S 9

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients read, write, zero and trim one file (ext4, two
# connections per client and eight commands in flight) at once; a
# shadow copy knows every byte of it.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 33333333 0:7M 9M:70001 every=256K:40K
make_fs "$tmp/disk.img" 96M -t ext4 -b 4096 -d "$tmp/src"
dirty_free "$tmp/disk.img"
shadow_run "$tmp/disk.img" /vm.raw "$tmp/src/vm.raw" -2 2 -l 8 -n "$(scaled 150)"

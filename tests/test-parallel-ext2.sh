#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients read, write, zero and trim one file (ext2, 1k blocks:
# indirect, double and triple) at once; a shadow copy knows every byte
# of it.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 70000001 0:7M 62M:5000 every=1M:100K
make_fs "$tmp/disk.img" 96M -t ext2 -b 1024 -d "$tmp/src"
dirty_free "$tmp/disk.img"
shadow_run "$tmp/disk.img" /vm.raw "$tmp/src/vm.raw" 

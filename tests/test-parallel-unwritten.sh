#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients at once on a file of unwritten extents over old bytes:
# no old byte may show, every converted piece keeps its bytes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

img=$tmp/disk.img
make_fs "$img" 96M -t ext4 -b 1024 -J size=4
dirty_free "$img"
debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 30000000" \
      "fallocate /vm.raw 0 29296"
make_raw "$tmp/vm.raw" 30000000 0:0
shadow_run "$img" /vm.raw "$tmp/vm.raw" -f rwzfcb

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients in a filesystem too small for them: nothing worse than
# ENOSPC happens to any of them.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

for fs in "ext4 -b 1024" "ext2 -b 1024" "ext4 -b 4096"; do
    img=$tmp/disk.img
    mkdir -p "$tmp/src"
    make_raw "$tmp/src/vm.raw" 24M every=1M:200K
    # shellcheck disable=SC2086
    make_fs "$img" 16M -t $fs -O ^has_journal -d "$tmp/src"
    reserved=$(superblock "$img" "Reserved block count")
    dirty_free "$img"
    shadow_run "$img" /vm.raw "$tmp/src/vm.raw" -e
    [ "$(superblock "$img" "Free blocks")" -ge "$reserved" ] ||
        fail "reserved blocks were used"
done

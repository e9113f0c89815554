#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Filesystems that need e2fsck first are not written to, and the
# message says so.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "feature needs_recovery"
refused "needs_recovery.*e2fsck" "$img" /vm.raw

make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv state 3"
refused "e2fsck" "$img" /vm.raw
served_readonly "e2fsck|error" "$img" /vm.raw "$tmp/src/vm.raw" -r

make_fs "$img" 16M -t ext2 -d "$tmp/src"
debug "$img" "ssv state 0"
refused "e2fsck" "$img" /vm.raw
served_readonly "e2fsck|unmounted|unclean|clean" "$img" /vm.raw \
                "$tmp/src/vm.raw" -r

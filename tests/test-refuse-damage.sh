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
# A log that cannot be read: its superblock is gone.
make_fs "$img" 16M -t ext4 -b 4096 -d "$tmp/src"
debug "$img" "feature needs_recovery"
at=$(debugfs -R "bmap <8> 0" "$img" 2>/dev/null)
poke "$img" $((at * 4096)) 00000000
refused "journal.*e2fsck" "$img" /vm.raw
refused "journal.*e2fsck" "$img" /vm.raw -r

# A log that holds something although the superblock denies it.
make_fs "$img" 16M -t ext4 -O ^metadata_csum -b 4096 -d "$tmp/src"
at=$(debugfs -R "bmap <8> 0" "$img" 2>/dev/null)
poke "$img" $((at * 4096 + 28)) 00000001
refused "needs_recovery is not set.*e2fsck" "$img" /vm.raw
refused "needs_recovery is not set.*e2fsck" "$img" /vm.raw -r

make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv state 3"
refused "e2fsck" "$img" /vm.raw
served_readonly "e2fsck|error" "$img" /vm.raw "$tmp/src/vm.raw" -r

make_fs "$img" 16M -t ext2 -d "$tmp/src"
debug "$img" "ssv state 0"
refused "e2fsck" "$img" /vm.raw
served_readonly "e2fsck|unmounted|unclean|clean" "$img" /vm.raw \
                "$tmp/src/vm.raw" -r

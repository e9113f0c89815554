#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Filesystems that can be read safely but not written are served
# read-only, with a warning, and not a byte of them changes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
ro ()
{
    served_readonly "$1" "$img" /vm.raw "$tmp/src/vm.raw"
}

make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "feature read-only"
ro "read-only"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "feature shared_blocks"
ro "shared_blocks"
make_fs "$img" 16M -t ext4 -O quota -d "$tmp/src"
ro "quota"
make_fs "$img" 16M -t ext4 -O quota,project -I 256 -d "$tmp/src"
ro "quota"
make_fs "$img" 64M -t ext4 -O bigalloc -d "$tmp/src"
ro "bigalloc"
make_fs "$img" 16M -t ext4 -O ^metadata_csum -d "$tmp/src"
or_super32 "$img" 0x64 0x40000000
ro "feature"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv last_orphan 7"
ro "orphan"

# Errors that were counted, in a filesystem that is marked clean; and the
# message's advice helps.
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv error_count 3"
ro "errors on record.*e2fsck -f"
served_readonly "errors on record" "$img" /vm.raw "$tmp/src/vm.raw" -r
e2fsck -f -y "$img" >/dev/null
serve_file "$img" /vm.raw
bounded nbdinfo --is readonly "$uri" && fail "still read-only"
stop

# Projects without quota are nobody's business.
make_fs "$img" 16M -t ext4 -O project -I 256 -d "$tmp/src"
serve_file "$img" /vm.raw
bounded nbdinfo --is readonly "$uri" && fail "read-only with project alone"
make_raw "$tmp/new" 1M 100K:500K
bounded nbdcopy "$tmp/new" "$uri"
stop
check_clean "$img"
dump "$img" /vm.raw "$tmp/out"  # not every Linux has project quotas
same "$tmp/out" "$tmp/new"

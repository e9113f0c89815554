#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Filesystems that can be read safely but not written are served
# read-only, with a warning, and not a byte of them changes; and what the
# warning says to do helps.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs tune2fs nbdinfo python3 nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
ro ()
{
    served_readonly "$1" "$img" /vm.raw "$tmp/src/vm.raw"
}


# written: the image can be written, and holds what was written.
written ()
{
    make_raw "$tmp/new" 1M 100K:500K
    serve_file "$img" /vm.raw
    bounded nbdinfo --is readonly "$uri" && fail "still read-only"
    bounded nbdcopy "$tmp/new" "$uri"
    stop
    check_clean "$img"
    dump "$img" /vm.raw "$tmp/out"
    same "$tmp/out" "$tmp/new"
}

# helps COMMAND...: the server has said to run that on the image.
helps ()
{
    grep -F -q -- "$*" "$log" || fail "no '$*' in the log"
    "$@" "$img" >"$tmp/remedy" 2>&1 || [ $? -eq 1 ] ||
        fail "$*: $(cat "$tmp/remedy")"
    written
}

make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "feature read-only"
ro "read-only"
helps tune2fs -O ^read-only

# Two files share a block.
cp "$tmp/src/vm.raw" "$tmp/src/b.raw"
make_fs "$img" 16M -t ext4 -O ^extents,^64bit -d "$tmp/src"
debug "$img" "feature shared_blocks" \
      "sif /b.raw block[0] $(debugfs -R "bmap /vm.raw 0" "$img" 2>/dev/null)"
ro "shared_blocks"
helps e2fsck -fy -E unshare_blocks
dump "$img" /b.raw "$tmp/out"
same "$tmp/out" "$tmp/src/b.raw"
rm "$tmp/src/b.raw"

make_fs "$img" 16M -t ext4 -O quota -d "$tmp/src"
ro "quota"
helps tune2fs -O ^quota
make_fs "$img" 16M -t ext4 -O quota,project -I 256 -d "$tmp/src"
ro "quota"
helps tune2fs -O ^quota

# tune2fs does not turn it off, so nothing like that is said.
make_fs "$img" 64M -t ext4 -O bigalloc -d "$tmp/src"
ro "bigalloc.*write to it with Linux, or copy the files"
grep tune2fs "$log" && fail "advice that does not help"
make_raw "$tmp/new" 1M 100K:500K
if can_mount; then
    with_mount "$img" cp "$tmp/new" "$tmp/mnt/vm.raw"
    check_file "$img" /vm.raw "$tmp/new"
fi

make_fs "$img" 16M -t ext4 -O ^metadata_csum -d "$tmp/src"
or_super32 "$img" 0x64 0x40000000
ro "feature"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv last_orphan 7"
ro "orphan.*run e2fsck -f"
e2fsck -f -y "$img" >/dev/null || [ $? -eq 1 ]
written

# Errors that were counted, in a filesystem that is marked clean; and the
# message's advice helps.
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv error_count 3"
ro "errors on record.*e2fsck -f"
served_readonly "errors on record" "$img" /vm.raw "$tmp/src/vm.raw" -r
e2fsck -f -y "$img" >/dev/null
written

# Projects without quota are nobody's business; not every Linux can mount
# them.
make_fs "$img" 16M -t ext4 -O project -I 256 -d "$tmp/src"
written

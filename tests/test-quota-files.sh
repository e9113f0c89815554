#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Quotas in files, as they were before the feature of that name: whoever
# writes is warned that they go stale, and quotacheck puts them right.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck nbdinfo nbdcopy python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:100K

# warned WANT ARGUMENTS...: whether a client causes the warning.
warned ()
{
    local want=$1
    shift
    serve_file "$img" /vm.raw "$@"
    bounded nbdinfo --size "$uri" >/dev/null
    stop
    if grep "warning.*quota.*goes stale.*quotacheck -ugm" "$log"; then
        [ "$want" = yes ] || fail "a warning about quotas"
    else
        [ "$want" = no ] || fail "no warning about quotas"
    fi
}

make_fs "$img" 16M -t ext4 -d "$tmp/src"
warned no
for f in quota.group aquota.user; do
    : > "$tmp/src/$f"
    make_fs "$img" 16M -t ext2 -d "$tmp/src"
    warned yes
    warned no -r
    rm "$tmp/src/$f"
done
[ "$(id -u)" = 0 ] && can_mount || skip "no loop mount here"
command -v quotacheck >/dev/null || skip "quotacheck is not installed"

# used: how many KiB root uses, as the file says.
used ()
{
    dump "$img" /aquota.user "$tmp/quota"
    python - "$tmp/quota" <<'END'
import struct, sys
# Version 1 of the format: a tree of blocks of 1024 bytes; root is the first
# entry of the first block of entries, behind its header of 16 bytes.
b = open(sys.argv[1], "rb").read()[1024:]
block = lambda i: b[(i - 1) * 1024:i * 1024]
n = 1
for level in range(4):
    n = struct.unpack("<I", block(n)[:4])[0]
print(struct.unpack("<Q", block(n)[16 + 48:16 + 56])[0] // 1024)
END
}

make_fs "$img" 16M -t ext4 -d "$tmp/src"
check ()
{
    mkdir -p "$tmp/mnt"
    mount -o loop,usrquota,grpquota "$img" "$tmp/mnt" ||
        skip "this Linux has no quotas"
    mounts+=("$tmp/mnt")
    quotacheck "$@" "$tmp/mnt" 2>"$tmp/quotacheck" || {
        cat "$tmp/quotacheck" >&2
        fail "quotacheck"
    }
    umount "$tmp/mnt"
    unset 'mounts[-1]'
}
check -F vfsv1 -cugm
before=$(used)
make_raw "$tmp/new" 1M 0:900K
serve_file "$img" /vm.raw
bounded nbdcopy "$tmp/new" "$uri"
stop
[ "$(used)" = "$before" ] || fail "the quota file has changed by itself"
check -F vfsv1 -ugm
[ "$(used)" -ge $((before + 700)) ] || fail "quotacheck has not helped"
check_file "$img" /vm.raw "$tmp/new"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Trimming single blocks of a file mapped by indirect blocks frees
# these and no others.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 70M 0:4M 65700K:1M
for fs in ext2 ext3; do
    make_fs "$img" 96M -t $fs -b 1024 -d "$tmp/src"
    before=$(superblock "$img" "Free blocks")
    serve_file "$img" /vm.raw
    nbd_script <<END
with open("$tmp/src/vm.raw", "rb") as f:
    expected = bytearray(f.read())
blocks = (2060, 11, 12, 267, 268, 523, 524, 3000, 65803, 65804, 65900)
for block in blocks:
    h.trim(1024, block * 1024)
    expected[block * 1024:block * 1024 + 1024] = bytes(1024)
for offset in range(0, len(expected), 1 << 20):
    assert h.pread(1 << 20, offset) == expected[offset:offset + (1 << 20)]
with open("$tmp/expected", "wb") as f:
    f.write(expected)
END
    stop
    check_file "$img" /vm.raw "$tmp/expected"
    freed=$(($(superblock "$img" "Free blocks") - before))
    [ $freed -eq 11 ] || fail "$freed blocks were freed, not 11"

    # All of it: nothing stays but the inode.
    serve_file "$img" /vm.raw
    nbd_script <<END
h.trim(70 << 20, 0)
END
    stop
    check_clean "$img"
    debugfs -R "stat /vm.raw" "$img" 2>/dev/null | grep -q 'Blockcount: 0$' ||
        fail "indirect blocks are left of an empty file"
done

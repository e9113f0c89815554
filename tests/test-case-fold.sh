#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# In directories where Linux does not look at the case of names, the filter
# does, and says so; what it says to run shows the name.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs nbdinfo nbdcopy python3

img=$tmp/disk.img
mkdir -p "$tmp/src/Disks"
make_raw "$tmp/src/Disks/Vm.Raw" 300K 0:100K
mke2fs -q -F -t ext4 -O casefold -d "$tmp/src" "$img" 16M >/dev/null 2>&1 ||
    skip "this mke2fs does not know casefold"
debug "$img" "sif /Disks flags 0x40080000"

refused "case-insensitive.*exactly as debugfs -R 'ls -l DIRECTORY' shows" \
        "$img" /Disks/VM.RAW
# Elsewhere the case is not what is wrong.
refused "no such file.*debugfs -R 'ls -l /'" "$img" /disks/Vm.Raw

name=$(debugfs -R 'ls -l /Disks' "$img" 2>/dev/null |
           grep -i -o 'vm\.raw') || fail "debugfs does not show it"
serve_file "$img" "/Disks/$name"
bounded nbdcopy "$uri" "$tmp/out"
stop
same "$tmp/out" "$tmp/src/Disks/Vm.Raw"

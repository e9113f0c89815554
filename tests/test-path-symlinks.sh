#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Symbolic links inside the image are followed, inside it.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
mkdir -p "$tmp/src/a/b/c"
long=$(printf 'x%.0s' {1..70})
mkdir "$tmp/src/$long"
ln -s vm.raw "$tmp/src/relative"
ln -s /vm.raw "$tmp/src/absolute"
ln -s relative "$tmp/src/chain"
ln -s ../../../chain "$tmp/src/a/b/c/up"
ln -s a/b "$tmp/src/dirlink"
ln -s "/$long/../vm.raw" "$tmp/src/slow"
ln -s ../../../../../../vm.raw "$tmp/src/above"
make_fs "$img" 16M -t ext4 -d "$tmp/src"
serve_file "$img" exportname
for name in relative absolute chain a/b/c/up dirlink/c/up slow above \
            a/../vm.raw ./a/./b/../../vm.raw; do
    rm -f "$tmp/out"
    bounded nbdcopy "$(uri_of $name)" "$tmp/out"
    same "$tmp/out" "$tmp/src/vm.raw"
    echo "$name: right"
done
stop

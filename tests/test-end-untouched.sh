#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A writable server that nobody writes to does not change a byte of the
# image, nor does a read-only one.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3 nbdinfo nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 8M 0:2M 5M:1M
for fs in ext4 ext3 ext2; do
    make_fs "$img" 32M -t $fs -d "$tmp/src"
    before=$(sum_of "$img")
    for option in "" -r; do
        # shellcheck disable=SC2086
        serve_file "$img" /vm.raw $option
        bounded nbdinfo "$uri" >/dev/null
        bounded nbdinfo --map "$uri" >/dev/null
        bounded nbdcopy "$uri" "$tmp/out"
        unchanged "$img" "$before"
        stop
        unchanged "$img" "$before"
    done
done

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Names that cannot be served: each gets a message of its own and
# nothing is written.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "mkdir /dir" "mknod fifo p" "mknod char c 1 3" \
      "mknod block b 8 0" "write /dev/null socket" \
      "sif /socket mode 0140644" "symlink /one two" "symlink /two one" \
      "symlink /dangling nowhere" "symlink /fifolink fifo"
refused "[Nn]o such file" "$img" /missing.raw
refused "[Nn]o such file" "$img" /dir/missing.raw
refused "[Nn]o such file" "$img" /nodir/vm.raw
refused "[Nn]o such file" "$img" /dangling
refused "[Nn]o such file|[Nn]ot a directory" "$img" /vm.raw/x
refused "is a directory" "$img" /dir
refused "is a directory" "$img" /
for f in fifo char block socket fifolink; do
    refused "not a regular file" "$img" /$f
done
refused "symbolic link" "$img" /one

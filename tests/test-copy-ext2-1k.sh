#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Every kind of file (ext2, 1k blocks), read by sparse-aware and other
# clients, has the bytes that went into the image.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdcopy qemu-img python3

make_kinds_fs "$tmp/disk.img" 1024 -t ext2
copy_out "$tmp/disk.img" all

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Thousands of requests from one client that reads no answer: reads and
# block status of a file in many pieces: all are answered rightly once it
# does, others are served meanwhile, and the memory is that of the server's
# workers.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 8M
make_raw "$tmp/src/known.raw" 8M
make_raw "$tmp/src/pieces.raw" 32M every=2K:1K
make_fs "$img" 64M -t ext4 -b 1024 -d "$tmp/src"
cp "$tmp/src/vm.raw" "$tmp/vm.shadow"
serve_file "$img" exportname
be_steady
abuse inflight known.raw "$tmp/src/known.raw"
abuse status pieces.raw
end_steady
stop
check_file "$img" /vm.raw "$tmp/vm.shadow"

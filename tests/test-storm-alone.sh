#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# One client after the other, each the first and the last: the
# filesystem is opened and closed every time, often while it is still
# being closed for the one before.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3 nbdinfo
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 4M 0:1M
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
serve_file "$img" /vm.raw
shadow -i "$tmp/src/vm.raw" -o "$tmp/shadow" -c 1 -l 4 -R 10 \
       -n "$(scaled 300)" "$uri"
wait_clean "$img"
for ((i = 0; i < $(scaled 40 5); i++)); do
    bounded nbdinfo "$uri" >/dev/null &
    a=$!
    bounded nbdinfo --size "$uri" >/dev/null
    wait $a
done
stop
check_file "$img" /vm.raw "$tmp/shadow"

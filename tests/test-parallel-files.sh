#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Clients on three files of one filesystem at once, each with a shadow
# copy of its own.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/a.raw" 9000001 0:2M every=1M:30K
make_raw "$tmp/src/b.raw" 9000002 0:0
make_raw "$tmp/src/c.raw" 9000003
make_fs "$img" 64M -t ext4 -b 1024 -J size=4 -d "$tmp/src"
dirty_free "$img"
serve_file "$img" exportname
clients=()
for f in a b c; do
    shadow -c 4 -n "$(scaled 500)" -i "$tmp/src/$f.raw" -o "$tmp/$f" \
           "$(uri_of $f.raw)" &
    clients+=($!)
done
for c in "${clients[@]}"; do
    wait "$c"
done
stop
for f in a b c; do
    check_file "$img" /$f.raw "$tmp/$f"
done

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Twelve clients over plugins that serialise requests or connections:
# right bytes all the same.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_filter noparallel
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 9M 0:2M every=1M:30K
for model in all-requests requests connections; do
    clients=12
    # There only one client can be connected at a time.
    [ $model != connections ] || clients=1
    make_fs "$img" 32M -t ext4 -d "$tmp/src"
    dirty_free "$img"
    serve --filter=ext2 --filter=noparallel file "$img" \
          ext2file=/vm.raw serialize=$model
    shadow -c $clients -n "$(scaled 200)" -i "$tmp/src/vm.raw" \
           -o "$tmp/shadow" "$uri"
    stop
    check_file "$img" /vm.raw "$tmp/shadow"
    echo "serialize=$model: right"
done

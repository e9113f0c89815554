#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Clients that come and go all the time, some without a goodbye, some
# only to ask (nbdinfo), while others do I/O: nothing is lost.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3 nbdinfo
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 16M 0:4M every=1M:30K
make_fs "$img" 64M -t ext4 -d "$tmp/src"
dirty_free "$img"
serve_file "$img" /vm.raw
shadow -i "$tmp/src/vm.raw" -o "$tmp/shadow" -R 7 -n "$(scaled 300)" "$uri" &
client=$!
for ((i = 0; i < $(scaled 60 5); i++)); do
    bounded nbdinfo "$uri" >/dev/null
    bounded nbdinfo --list "$uri" >/dev/null
done
wait $client
stop
check_file "$img" /vm.raw "$tmp/shadow"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Devices with odd limits: the smallest unit is larger than a block of the
# filesystem, or the largest call is no larger than the smallest.  They get
# no call that breaks them.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1200001 0:300K every=200K:30K

for limits in "512 512 512" "4096 4096 12288" "65536 65536 65536" \
              "1 4096 4096" "1024 33554432 67108864"; do
    read -r min pref max <<< "$limits"
    make_fs "$img" 8M -t ext4 -b 1024 -d "$tmp/src"
    serve_faulty "$img" /vm.raw minimum="$min" preferred="$pref" \
                 maximum="$max"
    shadow -c 4 -n "$(scaled 50)" -i "$tmp/src/vm.raw" -o "$tmp/shadow" \
           "$uri"
    stop
    [ ! -e "$rules.broken" ] || fail "$limits: a call that breaks them"
    check_file "$img" /vm.raw "$tmp/shadow"
done

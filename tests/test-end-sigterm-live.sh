#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# SIGTERM in the middle of twelve clients' I/O: every write that was
# replied to is there, the image is clean.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow
no_leak_check

for fs in ext4 ext2; do
    img=$tmp/disk.img
    rm -rf "$tmp/src"
    mkdir "$tmp/src"
    make_raw "$tmp/src/vm.raw" 32M 0:2M every=1M:100K
    make_fs "$img" 64M -t $fs -d "$tmp/src"
    dirty_free "$img"
    serve_file "$img" /vm.raw
    rm -f "$tmp/at-work"
    shadow -k -n 1000000 -t 60 -i "$tmp/src/vm.raw" -o "$tmp/shadow" \
           -m "$tmp/mask" -w "$tmp/at-work" "$uri" &
    client=$!
    while [ ! -e "$tmp/at-work" ]; do
        kill -0 $client || fail "the clients have ended"
        sleep 0.1
    done
    sleep 0.5
    kill -TERM "$pid"
    ended
    wait $client
    check_clean "$img"
    dump "$img" /vm.raw "$tmp/out"
    same "$tmp/out" "$tmp/shadow" mask="$tmp/mask"
done

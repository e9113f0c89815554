#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The server is killed while clients write to two files, again and again.
# What was written to the image stays, so this is about what the server had
# in memory: all that clients were promised must be there, and the next
# round goes on with what was found.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs e2fsck debugfs
requires_client client-crash
requires_client test-crash

crash=$abs_top_builddir/tests/test-crash
client=$abs_top_builddir/tests/client-crash
seed=${NBD_TEST_SEED:-$RANDOM}
echo "NBD_TEST_SEED=$seed"
RANDOM=$seed
no_leak_check

# recover CONFIG IMAGE: what an administrator has to do before the server
# can go on; nothing if it recovers by itself.
recover ()
{
    if [ "$("$crash" --expectation "$1")" = repair ]; then
        local rc=0
        e2fsck -fp "$2" >"$tmp/fsck" 2>&1 || rc=$?
        [ $rc -le 1 ] || { cat "$tmp/fsck"; fail "e2fsck -fp: $rc"; }
    fi
}

for config in ext2-1k ext4-1k; do
    img=$tmp/disk.img
    "$crash" --make="$img" $config
    replies=0 rounds=$(scaled 10 3)
    # More of them if these were short.
    for ((round = 1; round <= rounds || (replies <= 100 && round <= 50);
          round++)); do
        cp "$img" "$tmp/before.img"
        serve --filter=ext2 file "$img" ext2file=exportname
        clients=()
        for f in 0 1; do
            names=(hole full)
            bounded "$client" -k -c 3 -n 100000 -s $((seed + round * 2 + f)) \
                    -f $f -i $((f * 500000 + 1)) -o "$tmp/$f.crash" \
                    "$(uri_of "${names[f]}")" &
            clients+=($!)
        done
        # From its first steps to some hundreds of commits.
        sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
        kill -KILL "$pid"
        for c in "${clients[@]}"; do
            wait "$c"
        done
        wait "$job" 2>/dev/null || :
        forget_job "$pid"
        "$crash" --like=$config --image="$tmp/before.img" --found="$img" \
                 "$tmp"/{0,1}.crash
        # Of 48 bytes each, see crash-log.h.
        replies=$((replies + $(stat -c %s "$tmp"/{0,1}.crash |
                               awk '{ n += $1 } END { print int (n / 48) }')))
        recover $config "$img"
    done
    [ $replies -gt 100 ] || fail "$config: only $replies requests"
    echo "$config: killed $((round - 1)) times, $replies requests"
done

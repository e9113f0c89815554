#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Power cuts beneath the whole chain: clients write to two files, a plugin
# logs what reaches it and when; whatever a power cut leaves of that can be
# recovered, and has all that clients were promised.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs e2fsck debugfs
requires_client client-crash
requires_client test-crash

plugin=$abs_top_builddir/tests/.libs/crash-plugin.so
crash=$abs_top_builddir/tests/test-crash
client=$abs_top_builddir/tests/client-crash
seed=${NBD_TEST_SEED:-$RANDOM}
echo "NBD_TEST_SEED=$seed"

for config in ext2-1k ext4-1k ext4-4k; do
    "$crash" --make="$tmp/base.img" $config
    cp "$tmp/base.img" "$tmp/disk.img"
    serve --filter=ext2 "$plugin" file="$tmp/disk.img" log="$tmp/device.crash" \
          ext2file=exportname
    n=$(scaled 60 15)
    bounded "$client" -s "$seed" -n "$n" -f 0 -i 1 -o "$tmp/0.crash" \
            "$(uri_of hole)" &
    other=$!
    bounded "$client" -s $((seed + 1)) -n "$n" -f 1 -i 100001 \
            -o "$tmp/1.crash" "$(uri_of full)"
    wait "$other"
    stop
    e2fsck -fn "$tmp/disk.img" >"$tmp/fsck" 2>&1 ||
        { cat "$tmp/fsck"; fail "$config: not clean after a proper end"; }
    "$crash" --like=$config --seed="$seed" --points="$(scaled 150 30)" \
             --image="$tmp/base.img" "$tmp"/{device,0,1}.crash
done

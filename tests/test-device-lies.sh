#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A device that says that it can trim, zero, cache and flush, and then
# cannot: what can be done without is done, what cannot fails, and no other
# byte changes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 600001 0:90K every=40K:9000

for fs in "ext4 -b 4096" "ext3 -b 1024" "ext2 -b 1024"; do
    # shellcheck disable=SC2086
    make_fs "$img" 8M -t $fs -d "$tmp/src"
    dirty_free "$img"

    # Not needed for anything but zeros, or not at all.
    serve_faulty "$img" /vm.raw
    shadow_script <<END
import nbd
errors = ["EIO", "ENOSPC", "EINVAL", "ENOTSUP", "EPERM"]
calls = ["trim", "cache", "extents", "zero", "fast"]
B = 4096
for i, (call, error) in enumerate((c, e) for c in calls for e in errors):
    at = 5 * B * i
    rule(call + " " + error)
    for k in range(2):
        none = [s.write(at + 100, b"w" * 5000),
                s.trim(at + 2 * B, B), s.write(at + B, b"x" * B),
                s.write(at + 3 * B, b"y" * B, nbd.CMD_FLAG_FUA), s.flush()]
        zeros = [s.zero(at + 2 * B, 2 * B - 100),
                 s.zero(at + 1000, 6000, nbd.CMD_FLAG_NO_HOLE),
                 s.zero(at + B, 2 * B, nbd.CMD_FLAG_NO_HOLE)]
        s.zero(at, 2 * B, nbd.CMD_FLAG_FAST_ZERO)
        # No other way is tried than the one that was promised.
        if call not in ("zero", "fast") or error == "ENOTSUP":
            none += zeros
        assert none == [None] * len(none), (call, error, none)
        try:
            h.cache(2 * B, at)
        except nbd.Error:
            assert call == "cache"
        h.block_status(5 * B, at, lambda *a: 0)
        s.check()
        rule("")
s.zero(0, 300000)
s.write(1000, b"z" * 100000)
s.check()
s.save("$tmp/now")
END
    stop
    check_clean "$img"
    dump "$img" /vm.raw "$tmp/out"
    same "$tmp/out" "$tmp/now" mask="$tmp/now.mask"

    # A flush that fails is told.
    for error in EIO ENOSPC EINVAL ENOTSUP EPERM; do
        serve_faulty "$img" /vm.raw
        shadow_script <<END
s.write(5000, b"$error" * 5000)
assert s.flush() is None
rule("flush $error")
assert s.write(100000, b"$error" * 5000) is None
assert s.flush(), "a flush that failed was said to have succeeded"
s.check()
rule("")
s.check()
s.forget(100000, len("$error") * 5000)
s.save("$tmp/now")
END
        stop
        e2fsck -fp "$img" >"$tmp/fsck" 2>&1 || [ $? -eq 1 ] ||
            { cat "$tmp/fsck"; fail "flush $error: e2fsck -p does not do"; }
        check_clean "$img"
        dump "$img" /vm.raw "$tmp/out"
        same "$tmp/out" "$tmp/now" mask="$tmp/now.mask"
    done
done

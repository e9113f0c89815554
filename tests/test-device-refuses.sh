#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A device that says that it can be written, and refuses whatever would
# change it: it can be read, clients are told of each request that could
# not be done, and the image stays as it is.

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
    before=$(sum_of "$img")
    for error in EROFS EPERM ENOSPC EIO ENOTSUP; do
        serve_faulty "$img" /vm.raw
        # nbdkit writes where a plugin cannot zero, and aborts if that is not
        # supported either.
        printf '%s\n' "pwrite $error" "zero ${error/ENOTSUP/EIO}" \
               "trim $error" > "$rules"
        shadow_script <<END
import nbd
assert s.write(0, b"over") and s.write(130000, b"in a hole")
assert s.zero(0, 5000) or s.flush()
assert s.zero(8192, 8192, nbd.CMD_FLAG_NO_HOLE) or s.flush()
s.trim(40960, 8192)
assert s.write(4096, b"over", nbd.CMD_FLAG_FUA)
assert s.flush()
assert s.flush()
s.check()
END
        stop
        unchanged "$img" "$before"
        check_clean "$img"
    done
done

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# nbdkit --run, which ends the server when its command ends, with
# several clients in it: nothing is lost, the image is clean.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 8M 0:2M every=1M:30K
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
export client=$abs_top_builddir/tests/client-shadow tmp
n=$(scaled 100)
export n
log=$tmp/log-run
# shellcheck disable=SC2016
bounded "$NBDKIT" -U - --filter=ext2 file "$img" ext2file=/vm.raw \
    --run '"$client" -f rwztfcb -n "$n" -o "$tmp/one" "$uri" &&
           nbdinfo "$uri" >/dev/null &&
           "$client" -i "$tmp/one" -n "$n" -o "$tmp/two" "$uri"' 2>"$log"
check_log
check_file "$img" /vm.raw "$tmp/two"

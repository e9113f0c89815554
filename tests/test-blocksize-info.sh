#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The block sizes are the file's: any offset and length will do, whole
# filesystem blocks are preferred.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdinfo
requires_filter blocksize-policy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
for bs in 1024 4096; do
    for filter in "" "--filter=blocksize-policy"; do
        args=()
        [ -z "$filter" ] || args=(blocksize-minimum=4096
            blocksize-preferred=8192 blocksize-maximum=1M
            blocksize-error-policy=error)
        make_fs "$img" 16M -t ext4 -b $bs -d "$tmp/src"
        # shellcheck disable=SC2086
        serve --filter=ext2 $filter file "$img" ext2file=/vm.raw "${args[@]}"
        bounded nbdinfo --json "$uri" > "$tmp/json"
        stop
        python - "$tmp/json" $bs <<'END'
import json, sys
with open(sys.argv[1]) as f:
    e = json.load(f)["exports"][0]
least, best, most = (e["block_size_" + k] for k in
                     ("minimum", "preferred", "maximum"))
print(least, best, most)
assert least == 1, "minimum"
assert best >= int(sys.argv[2]) and best & (best - 1) == 0, "preferred"
assert most >= 32 << 20, "maximum"
END
    done
done

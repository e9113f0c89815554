#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Nobody flushes, and the server is killed: what was written into a hole is
# there if it was longer ago than ext2commit, or else reads as zeros.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs e2fsck debugfs cmp python3
requires_nbdsh
no_leak_check

make_raw "$tmp/zeros" 8M 0:0
make_raw "$tmp/data" 8M 0:0
printf '%300000s' '' | tr ' ' d |
    dd of="$tmp/data" bs=1M seek=3 conv=notrunc status=none

# write_and_stay: the client does not go away before the server does.
write_and_stay ()
{
    rm -f "$tmp/written" "$tmp/killed"
    nbd_script <<END &
import os, time
h.pwrite(b"d" * 300000, 3 << 20)
open("$tmp/written", "w").close()
while not os.path.exists("$tmp/killed"):
    time.sleep(0.05)
END
    client=$!
    wait_until [ -e "$tmp/written" ]
}

# committed IMAGE: whether a crash now would leave the data.
committed ()
{
    # The server may be writing just now.
    cp "$1" "$tmp/copy.img"
    rm -f "$tmp/out"
    e2fsck -fp "$tmp/copy.img" >/dev/null 2>&1 || :
    debugfs -R "dump /vm.raw $tmp/out" "$tmp/copy.img" >/dev/null 2>&1 || :
    cmp -s "$tmp/out" "$tmp/data"
}

# killed IMAGE FILE: after that a new server has this file.
killed ()
{
    kill -KILL "$pid"
    wait "$job" 2>/dev/null || :
    forget_job "$pid"
    touch "$tmp/killed"
    wait "$client" || :
    # Only without a journal this is needed.
    has_journal "$1" || e2fsck -fp "$1" >/dev/null || [ $? = 1 ]
    serve_file "$1" /vm.raw
    bounded nbdcopy "$uri" "$tmp/out"
    same "$tmp/out" "$2"
    stop
    check_clean "$1"
}

for kind in ext4 ext2; do
    img=$tmp/$kind.img
    make_fs "$img" 32M -t $kind -b 1024
    debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 8388608"
    serve --filter=ext2 file "$img" ext2file=/vm.raw ext2commit=1
    write_and_stay
    wait_until committed "$img"
    killed "$img" "$tmp/data"

    make_fs "$img" 32M -t $kind -b 1024
    debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 8388608"
    serve --filter=ext2 file "$img" ext2file=/vm.raw ext2commit=0
    write_and_stay
    killed "$img" "$tmp/zeros"
    echo "$kind: what was committed was there"
done

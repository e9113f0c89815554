#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Multiple mount protection: of two servers on one image the second is
# refused and told who has it; a reader is not.  Ending a server that still
# waits does not take the whole wait.  The times are the real ones.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs e2fsck dumpe2fs nbdinfo nbdcopy python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 16M -t ext4 -O mmp -E mmp_update_interval=1 -d "$tmp/src"

# Its client stays until told to go.
serve_file "$img" /vm.raw
first_pid=$pid first_job=$job first_log=$log
mkfifo "$tmp/go"
start=$SECONDS
nbd_script <<EOS &
assert not h.is_read_only()
h.pwrite(b"x" * 4096, 0)
h.flush()
open("$tmp/here", "w").close()
open("$tmp/go").read()
EOS
client=$!
jobs+=("$client")
for ((i = 0; i < limit * 10; i++)); do
    [ -e "$tmp/here" ] && break
    kill -0 "$client" || fail "the first client was not served"
    sleep 0.1
done
took=$((SECONDS - start))
[ $took -ge 10 ] || fail "opening took only $took s: nobody could be noticed"
dumpe2fs "$img" 2>&1 | grep -E "^ *mmp_node_name: *$(hostname)" ||
    fail "the block does not name this machine"

# A second one that is told to end while it waits.
serve_file "$img" /vm.raw
bounded nbdinfo --size "$uri" >/dev/null 2>&1 &
jobs+=($!)
wait_until holds "$img"
sleep 1
kill -TERM "$pid"
ended
grep "opening was given up" "$log" ||
    fail "ending waited for the protection"

# A second one that waits to the end.
serve_file "$img" /vm.raw
if bounded nbdinfo --size "$uri" >"$tmp/out" 2>&1; then
    fail "a second server was let in"
fi
grep -E "in use by somebody else.*\"$(hostname)\".*pid $first_pid" "$log" ||
    fail "the holder is not named"
stop
serve_file "$img" /vm.raw -r
bounded nbdinfo --size "$uri" || fail "a reader was refused"
stop

echo > "$tmp/go"
wait "$client" || fail "the first client"
pid=$first_pid job=$first_job log=$first_log
stop
if grep "multiple mount" "$log"; then
    fail "the first server was disturbed"
fi
dumpe2fs "$img" 2>&1 | grep -E "^ *mmp_sequence: *0xff4d4d50" ||
    fail "the protection was not cleared"
check_clean "$img"

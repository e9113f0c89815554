#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A filesystem without mmp is written by one server on this machine at a
# time: the second is told who has it, and what it can do; what it is told
# works.  A reader is warned.  A killed server is in nobody's way.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs e2fsck dumpe2fs debugfs tune2fs nbdinfo nbdcopy
requires_nbdsh
requires_plugin nbd

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 16M -t ext4 -d "$tmp/src"
cp "$img" "$tmp/copy.img"
serve file "$tmp/copy.img"
copy=$sock

# stay NAME: a client of the last server that has written and stays; sets
# held, its job.
stay ()
{
    mkfifo "$tmp/go.$1"
    nbd_script <<EOS &
h.pwrite(b"$1" * 4096, 0)
h.flush()
open("$tmp/here.$1", "w").close()
open("$tmp/go.$1").read()
h.pwrite(b"$1" * 4096, 500000)
h.flush()
EOS
    held=$!
    jobs+=("$held")
    wait_until test -e "$tmp/here.$1"
}

# lets_in NBDKIT-ARGUMENTS...: whether a server serves a client.
lets_in ()
{
    local rc=0
    serve --filter=ext2 "$@" ext2file=/vm.raw
    bounded nbdinfo --size "$uri" >"$tmp/out" 2>&1 || rc=1
    stop
    return $rc
}

serve_file "$img" /vm.raw
first_pid=$pid first_job=$job first_log=$log
stay a
first=$held
! lets_in file "$img" || fail "a second server was let in"
grep "error: .*$img is being written by pid $first_pid (nbdkit, $img)" "$log"
ln -s disk.img "$tmp/link.img"
! lets_in file file="$tmp/link.img" || fail "let in by another name"
lets_in file "$img" -r || fail "a reader was refused"
grep "warning: .* written by pid $first_pid .*old, or wrong" "$log"
lets_in --filter=cow file "$img" || fail "refused, and would change nothing"
grep "warning: .* written by pid $first_pid .*old, or wrong" "$log"

# A copy in a file can be told; what is behind a socket cannot.
lets_in file "$tmp/copy.img" || fail "a copy was taken for the same"
! lets_in nbd socket="$copy" || fail "unknown, and let in"
grep "error: .*$(superblock "$img" 'Filesystem UUID') is being written by" \
     "$log"
grep "run e2fsck -f and tune2fs -U random on it.*ext2lock=DIR" "$log"
mkdir "$tmp/lock"
lets_in nbd socket="$copy" ext2lock="$tmp/lock" || fail "ext2lock=DIR"
lets_in nbd socket="$copy" ext2lock=off || fail "ext2lock=off"
e2fsck -fy "$tmp/copy.img" >/dev/null || [ $? -le 1 ] || fail "e2fsck"
tune2fs -U random "$tmp/copy.img"
lets_in nbd socket="$copy" || fail "with a UUID of its own"

# The first was not disturbed.
echo > "$tmp/go.a"
wait "$first" || fail "the first client"
pid=$first_pid job=$first_job log=$first_log
stop
check_clean "$img"
dump "$img" /vm.raw "$tmp/dumped"
for at in 0 500000; do
    cmp <(head -c 4096 /dev/zero | tr '\0' a) \
        <(tail -c +$((at + 1)) "$tmp/dumped" | head -c 4096) ||
        fail "what the first wrote is not there"
done

# Killed: the next one comes in.
serve_file "$img" /vm.raw
stay b
kill -KILL "$pid"
wait "$job" || :
forget_job "$pid"
echo > "$tmp/go.b"
wait "$held" && fail "the client of a killed server"
lets_in file "$img" || fail "after a server was killed"
check_clean "$img"

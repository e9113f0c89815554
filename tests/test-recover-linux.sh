#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Journals that Linux has written, as a crash would leave them: replayed
# to disk and, for readers, in memory, they give what e2fsck makes of
# them; with -r not a byte of the image changes.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdcopy nbdinfo python3 sync
requires_mount

img=$tmp/disk.img
live=$tmp/live.img
mnt=$tmp/mnt
mkdir "$mnt"

# snapshot: the disk as a power cut would leave it now.  Linux may write
# while it is copied: then again.
snapshot ()
{
    local i
    for ((i = 0; i < 20; i++)); do
        cp --sparse=always "$img" "$live"
        if cmp -s "$img" "$live"; then
            return 0
        fi
    done
    fail "the disk does not come to rest"
}

# churn FILES: metadata of every kind, in many transactions; some of it
# deleted, so that blocks are revoked.
churn ()
{
    python - "$mnt" "$1" <<'END'
import os
import shutil
import sys

mnt, n = sys.argv[1], int(sys.argv[2])
vm = os.open(mnt + "/vm.raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
pieces = os.open(mnt + "/pieces", os.O_WRONLY | os.O_CREAT, 0o644)
for i in range(n):
    d = "%s/d%d/e%d" % (mnt, i % 7, i)
    os.makedirs(d)
    for j in range(5):
        with open("%s/a-file-with-a-long-name-%d" % (d, j), "wb") as f:
            f.write(os.urandom(i * 331 % 9000))
    os.write(vm, os.urandom(3000))
    # Pieces that need tree blocks of their own.
    os.pwrite(pieces, os.urandom(1024), i * 37 % 500 * 2048)
    if i % 4 == 3:
        os.fsync(vm)
    if i % 6 == 5:
        shutil.rmtree("%s/d%d" % (mnt, (i - 3) % 7), ignore_errors=True)
os.fsync(vm)
END
}

# compare_replayed A B: the same but for the superblock and the journal.
compare_replayed ()
{
    local b
    b=$(superblock "$1" 'Block size')
    debugfs -R 'blocks <8>' "$1" 2>/dev/null | tr -s ' ' '\n' |
        grep -v '^$' > "$tmp/journal"
    [ -s "$tmp/journal" ] || fail "no journal in ${1##*/}"
    python - "$1" "$2" "$b" "$tmp/journal" <<'END'
import sys
a, b = (open(f, "rb").read() for f in sys.argv[1:3])
bs = int(sys.argv[3])
skip = set(int(x) for x in open(sys.argv[4]))
assert len(a) == len(b)
bad = [i for i in range(len(a) // bs)
       if i not in skip and a[i * bs:i * bs + bs] != b[i * bs:i * bs + bs]]
if 1024 // bs in bad:
    i = 1024 // bs
    x, y = (bytearray(d[i * bs:i * bs + bs]) for d in (a, b))
    s = 1024 % bs
    x[s:s + 1024] = y[s:s + 1024] = bytes(1024)
    if x == y:
        bad.remove(i)
if bad:
    sys.exit("blocks differ: %s" % bad[:20])
END
}

# replayed: how many blocks the server's log says.
replayed ()
{
    sed -n 's/.*replayed the journal[^:]*: [0-9]* transactions, \([0-9]*\).*/\1/p' \
        "$log" | head -n 1
}

# wraps IMAGE: does its log go on at the journal's beginning?
wraps ()
{
    debugfs -R logdump "$1" 2>/dev/null |
        sed -n -e 's/^Journal starts at block \([0-9]*\).*/\1/p' \
            -e 's/.*sequence [0-9]*,* *(*type.* at block \([0-9]*\).*/\1/p' |
        awk '$1 < last { w = 1 } { last = $1 } END { exit !w }'
}

# try OPTIONS... -- MKE2FS-ARGUMENTS...: mounted with the options.
try ()
{
    local options=() before n total=0 round
    wrapped=no
    while [ "$1" != -- ]; do
        options+=(-o "$1")
        shift
    done
    shift
    make_fs "$img" 48M "$@"
    for round in 1 2; do
        mount -o loop "${options[@]}" "$img" "$mnt" ||
            fail "Linux cannot mount it: ${options[*]} $*"
        mounts+=("$mnt")
        churn "$files"
        # What the loop device has got is in the file.
        snapshot
        cp "$mnt/vm.raw" "$tmp/vm.raw"
        umount "$mnt"
        unset 'mounts[-1]'
        [ "$(fs_state "$live")" = needs_recovery ] ||
            fail "the copy is not dirty"
        if wraps "$live"; then
            wrapped=yes
        fi

        cp --sparse=always "$live" "$tmp/ref.img"
        e2fsck -E journal_only -y "$tmp/ref.img" >"$tmp/e2fsck" 2>&1 ||
            [ $? -eq 1 ] || fail "e2fsck: $(cat "$tmp/e2fsck")"

        # A reader: the file's bytes, and the image as it was.
        before=$(sum_of "$live")
        serve_file "$live" /vm.raw -r
        bounded nbdcopy "$uri" "$tmp/out"
        stop
        same "$tmp/out" "$tmp/vm.raw"
        unchanged "$live" "$before"
        grep -q 'replayed the journal in memory' "$log" ||
            fail "nothing was replayed for a reader"

        # A writer.
        serve_file "$live" /vm.raw
        bounded nbdcopy "$uri" "$tmp/out"
        stop
        same "$tmp/out" "$tmp/vm.raw"
        n=$(replayed)
        total=$((total + n))
        compare_replayed "$live" "$tmp/ref.img"
        check_clean "$live"
        # Once is enough.
        serve_file "$live" /vm.raw
        bounded nbdinfo "$uri" >/dev/null
        stop
        if grep -q 'replayed' "$log"; then
            fail "the journal was replayed again"
        fi
        check_linux "$live" vm.raw "$tmp/vm.raw"
        echo "$* ${options[*]}: round $round: $n blocks"
    done
    [ $total -gt 20 ] || fail "only $total blocks replayed"
}

files=$(scaled 100)
try -- -t ext4 -b 4096
try -- -t ext4 -b 1024 -J size=1
try -- -t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=1
files=800
try -- -t ext4 -b 1024 -J size=1
[ $wrapped = yes ] || fail "no log wraps around"
files=$(scaled 100)
try -- -t ext3 -b 1024
try data=journal -- -t ext4 -b 4096 -J size=4
try data=journal -- -t ext3 -b 1024 -J size=2
try journal_async_commit,data=writeback -- -t ext4 -b 4096
try journal_checksum -- -t ext4 -b 2048 -O ^metadata_csum

# Fast commits: refused until Linux has replayed them.
make_fs "$img" 48M -t ext4 -O fast_commit
mount -o loop "$img" "$mnt" || fail "cannot mount"
mounts+=("$mnt")
churn 5
sync -f "$mnt"
for i in 1 2 3; do
    echo "$i" > "$mnt/fast$i"
    sync "$mnt/fast$i"
done
commits=$(sed -n 's/^\([0-9]*\) commits.*/\1/p' \
              "/proc/fs/ext4/$(basename "$(findmnt -n -o SOURCE "$mnt")")/fc_info" \
              2>/dev/null || :)
snapshot
cp "$mnt/vm.raw" "$tmp/vm.raw"
umount "$mnt"
unset 'mounts[-1]'
if [ "${commits:-0}" -gt 0 ]; then
    refused "fast commits.*mount.*only if Linux refuses.*on a copy" \
            "$live" /vm.raw
    refused "fast commits.*mount" "$live" /vm.raw -r
    cp --sparse=always "$live" "$tmp/ref.img"
    with_mount "$live" test -e "$mnt/fast3"
    echo 3 > "$tmp/three"
    check_file "$live" /fast3 "$tmp/three"
    e2fsck -fy "$tmp/ref.img" >"$tmp/e2fsck" 2>&1 || [ $? -eq 1 ] ||
        fail "e2fsck: $(cat "$tmp/e2fsck")"
    for f in "$live" "$tmp/ref.img"; do
        serve_file "$f" /vm.raw
        bounded nbdcopy "$uri" "$tmp/out"
        stop
        same "$tmp/out" "$tmp/vm.raw"
    done
else
    echo "this Linux makes no fast commits"
fi

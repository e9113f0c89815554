#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# nbdkit-ext2-confined: the server works under a full load, and what a
# client that had taken it over would try, it cannot.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3 bwrap pgrep setpriv
requires_client client-shadow
[ -z "${EXT2_SANITIZER:-}" ] || skip "a sanitizer needs more than is allowed"
/usr/bin/python3 -c 'import seccomp' 2>/dev/null ||
    skip "Python's module seccomp is not installed"

# A user of its own, if there is a choice.
own=()
if [ "$(id -u)" = 0 ]; then
    own=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi
bounded "${own[@]}" bwrap --unshare-all --ro-bind / / true 2>/dev/null ||
    skip "bubblewrap cannot make namespaces here"

# Where that user can reach them, whatever the build tree's modes are.
chmod 711 "$tmp"
mkdir -m 755 "$tmp/bin" "$tmp/vm" "$tmp/src"
cp "$abs_top_builddir/contrib/nbdkit-ext2-confined" \
   "$abs_top_builddir/filters/ext2/.libs/nbdkit-ext2-filter.so" \
   "$abs_top_builddir/tests/.libs/probe-filter.so" "$tmp/bin"
img=$tmp/vm/disk.img
make_raw "$tmp/src/vm.raw" 16M 0:4M every=1M:30K
make_fs "$img" 64M -t ext4 -d "$tmp/src"
[ ${#own[@]} = 0 ] || chown -R 65534:65534 "$tmp/vm"
program=${NBDKIT_PROGRAM:-$(sed -n 's/^program=.*:-\(.*\)}$/\1/p' "$NBDKIT")}

# confined ENVIRONMENT... -- ARGUMENTS...: in the background; sets job.
confined ()
{
    local environment=()
    while [ "$1" != -- ]; do
        environment+=("$1")
        shift
    done
    shift
    sock=$tmp/vm/sock
    log=$tmp/log
    : > "$log"
    "${own[@]}" env NBDKIT_PROGRAM="$program" "${environment[@]}" \
        "$tmp/bin/nbdkit-ext2-confined" "$img" "$sock" "$@" 2>>"$log" &
    job=$!
    jobs+=("$job")
}

# confined_ended: by itself, or because it was told to.
confined_ended ()
{
    wait "$job" || fail "the confined server ended with status $?"
    forget_job "$job"
}

# server_runs: sets pid.
server_runs ()
{
    local bwrap
    kill -0 "$job" || fail "the confined server has ended"
    bwrap=$(pgrep -P "$job" bwrap) || return 1
    pid=$(pgrep -P "$bwrap" nbdkit)
}

confined NBDKIT_EXT2_FILTER="$tmp/bin/nbdkit-ext2-filter.so" -- \
         ext2file=/vm.raw
wait_until server_runs
jobs+=("$pid")
wait_until [ -S "$sock" ]
uri="nbd+unix:///?socket=$sock"
shadow -i "$tmp/src/vm.raw" -o "$tmp/shadow" -c 4 -l 4 -R 10 \
       -n "$(scaled 80)" "$uri"

grep -E '^(Uid|Cap...|NoNewPrivs|Seccomp):' "/proc/$pid/status"
has () { grep -q -x "$1" "/proc/$pid/status" || fail "not '$1'"; }
[ ${#own[@]} = 0 ] || has $'Uid:\t65534\t65534\t65534\t65534'
for set in Inh Prm Eff Bnd Amb; do
    has "Cap$set:"$'\t0*'
done
has $'NoNewPrivs:\t1'
has $'Seccomp:\t2'

# Of all that it sees it can change the image, and the lock on it.
awk '$6 ~ /^rw/ { print $5 }' "/proc/$pid/mountinfo" > "$tmp/writable"
grep -v -x -F -e "$img" -e /dev/null "$tmp/writable" |
    grep -v -E -x '/(run/lock|tmp)/nbdkit-ext2-[0-9]+' &&
    fail "it may write elsewhere"
grep -q -x -F "$img" "$tmp/writable" || fail "no image among its mounts"
! grep "nothing keeps a second server" "$log" || fail "it takes no lock"
[ "$(grep -c : "/proc/$pid/net/dev")" -le 1 ] ||
    fail "it has a network"

kill -TERM "$job"
confined_ended
forget_job "$pid"
! [ -e "$sock" ] || fail "the socket is still there"
check_log
check_file "$img" /vm.raw "$tmp/shadow"

# probe LOG: how many attempts it says succeeded.
probe ()
{
    grep '^probe: ' "$1" >&2
    sed -n 's/^probe: \([0-9]*\) of .*/\1/p' "$1"
}

"${own[@]}" "$program" -f -U - --filter="$tmp/bin/probe-filter.so" null \
            2>"$tmp/free" || fail "the probe without confinement"
[ "$(probe "$tmp/free")" -ge 6 ] || fail "the probe finds nothing anywhere"
confined NBDKIT_EXT2_FILTER="$tmp/bin/probe-filter.so" --
confined_ended
[ "$(probe "$log")" = 0 ] || fail "the confined server can do too much"

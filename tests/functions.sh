# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
# shellcheck shell=bash

# Shared by every test-*.sh: sourced, never run.  A test that cannot run
# says why and exits 77; everything a test makes lives in $tmp, and goes
# away with the servers and mounts it started, however it ends.
#
# From the environment (all optional):
#   abs_top_builddir  the built tree          NBDKIT          the server
#   NBD_TEST_SEED     repeat a random run     NBD_TEST_KEEP   keep $tmp
#   NBD_TEST_SCALE    size of the load in percent (EXT2_SANITIZER: 20)
#   NBD_TEST_LIMIT    seconds after which anything is taken to hang

set -e -u -o pipefail
export LC_ALL=C
unset MKE2FS_SYNC MKE2FS_FIRST_META_BG
export NBDKIT_EXT2_QUIET=1
PATH=$PATH:/usr/sbin:/sbin

srcdir=$(cd "${srcdir:-$(dirname "${BASH_SOURCE[0]}")}" && pwd)
if [ -z "${abs_top_builddir:-}" ]; then
    abs_top_builddir=$(cd "$srcdir/.." && pwd)
    for d in "$srcdir/.." . .. "$srcdir/../build"; do
        if [ -x "$d/nbdkit" ]; then
            abs_top_builddir=$(cd "$d" && pwd)
            break
        fi
    done
fi
NBDKIT=${NBDKIT:-$abs_top_builddir/nbdkit}
limit=${NBD_TEST_LIMIT:-300}
if [ -n "${EXT2_SANITIZER:-}" ]; then
    : "${NBD_TEST_SCALE:=20}"
fi
: "${NBD_TEST_SCALE:=100}"

tmp=$(mktemp -d "${TMPDIR:-/tmp}/nbdkit-ext2.XXXXXX")
tmp=$(cd "$tmp" && pwd -P)      # as /proc has it: see holds
servers=0
jobs=()
mounts=()

# --- endings ----------------------------------------------------------

skip ()
{
    echo "SKIP: $*"
    exit 77
}

fail ()
{
    echo "FAIL: $*" >&2
    exit 1
}

cleanup ()
{
    local rc=$? i
    trap '' INT TERM
    for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do
        umount "${mounts[i]}" || umount -l "${mounts[i]}" || :
    done
    for i in "${jobs[@]}"; do
        if kill -0 "$i" 2>/dev/null; then
            kill -KILL "$i" 2>/dev/null || :
        fi
    done
    if [ $rc -ne 0 ] && [ $rc -ne 77 ]; then
        for i in "$tmp"/log*; do
            [ -s "$i" ] && { echo "--- ${i##*/}"; tail -n 60 "$i"; } >&2
        done
    fi
    if [ -n "${NBD_TEST_KEEP:-}" ]; then
        echo "kept: $tmp"
    else
        rm -rf "$tmp"
    fi
    exit $rc
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# --- what a test needs ------------------------------------------------

# requires PROGRAM...: skip unless all of them are installed.
requires ()
{
    local p
    for p in "$NBDKIT" "$@"; do
        command -v "$p" >/dev/null || skip "$p is not installed"
    done
}

# requires_plugin NAME..., requires_filter NAME...: of the nbdkit in use.
requires_plugin ()
{
    local p
    for p; do
        "$NBDKIT" --dump-plugin "$p" >/dev/null 2>&1 ||
            skip "nbdkit's $p plugin is not installed"
    done
}

requires_filter ()
{
    local p
    for p; do
        "$NBDKIT" --filter="$p" null --dump-plugin >/dev/null 2>&1 ||
            skip "nbdkit's $p filter is not installed"
    done
}

# requires_nbdsh: a Python with libnbd's module, not always the first one.
requires_nbdsh ()
{
    for nbd_python in "${PYTHON:-python3}" python3 /usr/bin/python3; do
        if "$nbd_python" -c 'import nbd' 2>/dev/null; then
            return 0
        fi
    done
    skip "Python's nbd module (python3-libnbd) is not installed"
}

# requires_client NAME: one of our own C clients.
requires_client ()
{
    local p=$abs_top_builddir/tests/$1
    [ -x "$p" ] || skip "$1 is not built (libnbd is missing?)"
}

# nbdkit_outlives_clients: whether it is not one of the versions that abort
# when a client goes away with requests in flight, of which ./nbdkit warns.
nbdkit_outlives_clients ()
{
    local warning
    warning=$(NBDKIT_EXT2_QUIET='' "$NBDKIT" --version 2>&1)
    [[ $warning != *"goes away"* ]]
}

requires_mount ()
{
    can_mount || skip "needs root and loop devices"
}

# can_mount: whether Linux lets us mount an ext4 image; asked once.
can_mount ()
{
    if [ -z "${mountable:-}" ]; then
        mountable=no
        if [ "$(id -u)" = 0 ] && [ -z "${NBD_TEST_NO_MOUNT:-}" ] &&
           mke2fs -q -F -t ext4 "$tmp/probe" 2M >/dev/null &&
           mkdir -p "$tmp/probed" &&
           mount -o loop,ro "$tmp/probe" "$tmp/probed" 2>/dev/null; then
            umount "$tmp/probed"
            mountable=yes
        fi
        rm -f "$tmp/probe"
    fi
    [ "$mountable" = yes ]
}

# python ARGUMENTS...: python3, which may be a slow wrapper, found once.
python ()
{
    if [ -z "${python_found:-}" ]; then
        python_found=$(python3 -c 'import sys; print(sys.executable)')
    fi
    "$python_found" "$@"
}

# scaled N [MINIMUM]: N, less of it when each step is slow.
scaled ()
{
    local n=$(($1 * NBD_TEST_SCALE / 100))
    [ $n -ge "${2:-1}" ] || n=${2:-1}
    echo "$n"
}

# bounded COMMAND...: fails with 124 instead of hanging.
bounded ()
{
    timeout -k 10 "$limit" "$@"
}

# --- servers ----------------------------------------------------------

# serve NBDKIT-ARGUMENTS...: nbdkit in the background on a Unix socket.
# Sets sock, uri, log (its messages), pid and job for this server.
serve ()
{
    local i
    servers=$((servers + 1))
    sock=$tmp/sock$servers
    log=$tmp/log$servers
    uri="nbd+unix:///?socket=$sock"
    "$NBDKIT" -f --exit-with-parent -U "$sock" -P "$tmp/pid$servers" "$@" \
              2>"$log" &
    job=$!
    for ((i = 0; i < limit * 20; i++)); do
        if [ -s "$tmp/pid$servers" ]; then
            pid=$(cat "$tmp/pid$servers")
            jobs+=("$pid")
            threads > "$tmp/threads$pid"
            return 0
        fi
        if ! kill -0 "$job" 2>/dev/null; then
            fail "nbdkit $* did not start"
        fi
        sleep 0.05
    done
    kill -KILL "$job"
    fail "nbdkit $* did not start in time"
}

# serve_file IMAGE PATH [NBDKIT-ARGUMENTS...]: the usual chain.
serve_file ()
{
    local img=$1 path=$2
    shift 2
    serve --filter=ext2 "$@" file "$img" ext2file="$path"
}

# uri_of EXPORT: the same server, another export.
uri_of ()
{
    echo "nbd+unix:///${1#/}?socket=$sock"
}

# ended: waits for the last server to end by itself; checks how it did.
ended ()
{
    local i rc=0
    for ((i = 0; i < limit * 20; i++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    if kill -0 "$pid" 2>/dev/null; then
        kill -KILL "$pid"
        fail "nbdkit did not end"
    fi
    wait "$job" || rc=$?
    forget_job "$pid"
    [ $rc -eq 0 ] || fail "nbdkit ended with status $rc"
    check_log
}

# forget_job PID: has been waited for; the number may soon be another's.
forget_job ()
{
    local i
    for i in "${!jobs[@]}"; do
        [ "${jobs[i]}" != "$1" ] || unset "jobs[i]"
    done
}

# settle: gives the server time to see its clients leave, shown by the
# end of their threads.  (To a server told to end before that, nbdkit gives
# no .close, and loses a little memory at its end.)
settle ()
{
    local i most
    most=$(cat "$tmp/threads$pid")
    # ThreadSanitizer starts one of its own with the first.
    [ "${EXT2_SANITIZER:-}" != tsan ] || most=$((most + 1))
    for ((i = 0; i < 40; i++)); do
        [ "$(threads)" -gt "$most" ] || return 0
        sleep 0.05
    done
}

threads ()
{
    find "/proc/$pid/task" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l
}

# no_leak_check: for tests that end servers whose clients are still there.
no_leak_check ()
{
    export ASAN_OPTIONS=exitcode=99:detect_leaks=0
}

# stop: SIGTERM to the last server, by its pid.
stop ()
{
    settle
    kill -TERM "$pid" || fail "nbdkit is gone"
    ended
}

# check_log: no sanitizer report, no failed assertion.
check_log ()
{
    if grep -E 'Sanitizer|runtime error:|Assertion|double free' "$log"; then
        fail "the server reported an error of its own"
    fi
}

# wait_clean IMAGE: waits until what the server does after its last client
# left has been done, which no reply tells, but the end of it does: the
# server lets go of the image.  (The image's own state does not: it is clean
# as well before the first change of metadata is committed.)
wait_clean ()
{
    wait_until lets_go "$1"
    [ "$(fs_state "$1")" = clean ] ||
        fail "$1 is not clean after the last client left"
}

# wait_until COMMAND...: looks again until it succeeds, or fails.
wait_until ()
{
    local i
    for ((i = 0; i < limit * 10; i++)); do
        ! "$@" || return 0
        sleep 0.1
    done
    fail "waited in vain: $*"
}

lets_go ()
{
    ! holds "$1"
}

# holds FILE: whether the last server has it open.
holds ()
{
    [ -n "$(find "/proc/$pid/fd" -lname "$1" 2>/dev/null)" ]
}

# shadow ARGUMENTS...: our checking client (client-shadow.c).
shadow ()
{
    bounded "$abs_top_builddir/tests/client-shadow" "$@"
}

# nbd_script: runs the Python on stdin with a handle h connected to $uri.
nbd_script ()
{
    bounded "$nbd_python" -m nbd --base-allocation -u "$uri" -c -
}

# serve_faulty IMAGE PATH [ARGUMENTS...]: over our plugin that breaks the
# rules in $rules (fault-plugin.c); at first there are none.
serve_faulty ()
{
    local img=$1 path=$2
    shift 2
    rules=$tmp/rules
    : > "$rules"
    rm -f "$rules".*
    serve --filter=ext2 "$abs_top_builddir/tests/.libs/fault-plugin.so" \
          file="$img" rules="$rules" ext2file="$path" "$@"
}

# shadow_script: nbd_script with a Shadowed s of h (shadowed.py), and rule
# TEXT, which sets the rules of the server.
shadow_script ()
{
    {
        cat <<END
import os, sys
sys.path.insert(0, "$srcdir")
sys.dont_write_bytecode = True
from shadowed import Shadowed
def rule(text):
    with open("$rules.new", "w") as f:
        f.write(text + "\n")
    os.rename("$rules.new", "$rules")
s = Shadowed(h)
END
        cat
    } | nbd_script
}

# --- images -----------------------------------------------------------

# make_fs IMAGE SIZE [MKE2FS-ARGUMENTS...]
make_fs ()
{
    local img=$1 size=$2
    shift 2
    rm -f "$img"
    mke2fs -q -F "$@" "$img" "$size" >"$tmp/mke2fs" 2>&1 || {
        cat "$tmp/mke2fs" >&2
        fail "mke2fs $*"
    }
}

# make_raw OUT SIZE [OFFSET:LENGTH...] [every=STEP:LENGTH]
make_raw ()
{
    python "$srcdir/make-raw.py" "$@"
}

# dirty_free IMAGE: 0xDEADBEEF into every free block, so that a block
# handed out without being filled gives itself away.
dirty_free ()
{
    python "$srcdir/dirty-free.py" "$1"
}

# debug IMAGE COMMAND...: one writing debugfs command per argument.
debug ()
{
    local img=$1 out
    shift
    printf '%s\n' "$@" > "$tmp/debugfs.cmd"
    out=$(debugfs -w -f "$tmp/debugfs.cmd" "$img" 2>&1)
    # debugfs succeeds whatever its commands do.
    if grep -v -e '^debugfs' -e '^Allocated inode' <<< "$out" |
       grep -E -i 'error|not found|invalid|while|usage|unknown|bad' >&2; then
        fail "debugfs: $*"
    fi
}

# dump IMAGE PATH OUT: the file's bytes according to debugfs.
dump ()
{
    local size
    rm -f "$3"
    debugfs -R "dump $2 $3" "$1" 2>/dev/null
    [ -e "$3" ] || fail "debugfs cannot dump $2"
    # It writes all the room there is for inline data, whatever the size.
    size=$(debugfs -R "stat $2" "$1" 2>/dev/null | sed -n 's/.*Size: //p' |
           head -n 1)
    if [ "$size" -lt "$(stat -c %s "$3")" ] && [ "$size" -lt 1024 ]; then
        truncate -s "$size" "$3"
    fi
}

# same A B [padded | mask=FILE]: equal bytes; huge sparse files cost little,
# with "padded" A may have up to 511 zeros more, and what the mask marks is
# not compared.
same ()
{
    if [ $# -eq 2 ] && [ "$(stat -c %s "$2")" -lt 100000000 ]; then
        cmp "$1" "$2" || fail "$1 differs from $2"
    else
        python "$srcdir/compare.py" "$@" || fail "$1 differs from $2"
    fi
}

# sum_of IMAGE; unchanged IMAGE SUM: whether it has that sum still.
sum_of ()
{
    sha256sum < "$1" | cut -d' ' -f1
}

unchanged ()
{
    [ "$(sum_of "$1")" = "$2" ] || fail "the image ${1##*/} was changed"
}

# superblock IMAGE FIELD: a line of dumpe2fs -h.
superblock ()
{
    dumpe2fs -h "$1" 2>/dev/null | sed -n "s/^$2: *//p"
}

fs_state ()
{
    # Not by "| grep -q", which may end before what it reads from has.
    case $(superblock "$1" 'Filesystem features') in
        *needs_recovery*) echo needs_recovery ;;
        *) superblock "$1" 'Filesystem state' ;;
    esac
}

# check_clean IMAGE: a filesystem that was unmounted properly.
check_clean ()
{
    if ! e2fsck -fn "$1" > "$tmp/e2fsck" 2>&1; then
        cat "$tmp/e2fsck" >&2
        fail "e2fsck finds fault with ${1##*/}"
    fi
    [ "$(fs_state "$1")" = clean ] ||
        fail "the image is left in state '$(fs_state "$1")'"
}

has_journal ()
{
    [[ $(superblock "$1" 'Filesystem features') = *has_journal* ]]
}

# check_consistent COPY: as found after a crash: not unmounted, perhaps
# with a journal to replay, but no structural error.  Blocks marked as used
# that are free are no error without a journal: to free them only after
# nothing points at them any more is the safe order.  With one, e2fsck must
# find nothing; the count in the superblock, which Linux does not keep
# either, it corrects by the way.
check_consistent ()
{
    if [ "$(fs_state "$1")" = needs_recovery ]; then
        e2fsck -E journal_only -y "$1" > "$tmp/e2fsck" 2>&1 || :
    fi
    if has_journal "$1"; then
        e2fsck -fn "$1" > "$tmp/e2fsck" 2>&1 || {
            cat "$tmp/e2fsck" >&2
            fail "the flushed image is inconsistent"
        }
        return
    fi
    e2fsck -fn "$1" > "$tmp/e2fsck" 2>&1 || :
    sed -E '/^Block bitmap differences:( +-[-0-9()]+)+$/,/^Fix\? no/d' \
        "$tmp/e2fsck" > "$tmp/e2fsck.rest"
    if grep -E '\? no|ABORT|corrupt' "$tmp/e2fsck.rest"; then
        cat "$tmp/e2fsck" >&2
        fail "the flushed image is inconsistent"
    fi
}

# with_mount IMAGE COMMAND...: runs it with $mnt mounted read-write; to be
# called only where can_mount said yes.
with_mount ()
{
    local img=$1
    shift
    mnt=$tmp/mnt
    mkdir -p "$mnt"
    mount -o loop "$img" "$mnt" || fail "Linux cannot mount ${img##*/}"
    mounts+=("$mnt")
    "$@"
    umount "$mnt"
    unset 'mounts[-1]'
}

# check_linux IMAGE PATH FILE: Linux sees the same bytes.
check_linux ()
{
    if can_mount; then
        with_mount "$1" linux_same "$2" "$3"
    else
        echo "no loop mount here: Linux was not asked"
    fi
}

linux_same ()
{
    same "$mnt/$1" "$2"
}

# check_file IMAGE PATH FILE: image clean, bytes right, for e2fsprogs and
# for Linux.
check_file ()
{
    check_clean "$1"
    dump "$1" "$2" "$tmp/dumped"
    same "$tmp/dumped" "$3"
    rm -f "$tmp/dumped"
    check_linux "$1" "$2" "$3"
}

# refused MESSAGE IMAGE PATH [NBDKIT-ARGUMENTS...]: no client gets in, the
# server says why on one line, and not a byte of the image changes.
refused ()
{
    local message=$1 img=$2 path=$3 before
    shift 3
    before=$(sum_of "$img")
    serve_file "$img" "$path" "$@"
    if bounded nbdinfo --size "$uri" >"$tmp/nbdinfo" 2>&1; then
        fail "$path: a client was let in, expected: $message"
    fi
    stop
    grep -E -q "error: .*$message" "$log" ||
        fail "$path: no '$message' among the server's errors"
    unchanged "$img" "$before"
    echo "refused: $(grep -E -m1 "error: .*$message" "$log")"
}

# served_readonly MESSAGE IMAGE PATH FILE: the server warns, lets clients
# read the right bytes, refuses writes, and leaves the image alone.
served_readonly ()
{
    local message=$1 img=$2 path=$3 file=$4 before
    shift 4
    before=$(sum_of "$img")
    serve_file "$img" "$path" "$@"
    bounded nbdinfo --is readonly "$uri" || fail "$path: expected read-only"
    bounded nbdcopy "$uri" "$tmp/out"
    same "$tmp/out" "$file"
    stop
    # Whoever said -r need not be told, but warned of damage.
    case "$*" in
        *-r*) grep -q "warning" "$log" || fail "$path: no warning" ;;
        *) grep -q "read-only" "$log" ||
               fail "$path: no warning with 'read-only'" ;;
    esac
    grep -E -i -q "$message" "$log" || fail "$path: no '$message' in the log"
    unchanged "$img" "$before"
    echo "read-only: $(grep -E -i -m1 "$message" "$log")"
}

# --- parallel clients -------------------------------------------------

# shadow_run IMAGE PATH INITIAL [CLIENT-ARGUMENTS...]: twelve clients on one
# file; then the image is clean and everybody sees what they wrote.
shadow_run ()
{
    local img=$1 path=$2 initial=$3
    shift 3
    serve_file "$img" "$path"
    shadow -i "$initial" -o "$tmp/shadow" -n "$(scaled 400)" "$@" "$uri"
    stop
    check_file "$img" "$path" "$tmp/shadow"
}

# --- every kind of file -----------------------------------------------

# make_kinds BLOCKSIZE: $tmp/src with a file of every kind of mapping; the
# files are what the image's must read as.
make_kinds ()
{
    local b=$1 p=$(($1 / 4)) t
    t=$(((12 + p + p * p) * b)) # where triple indirection starts
    mkdir -p "$tmp/src"
    python --version >/dev/null
    (
        cd "$tmp/src"
        make_raw one.raw 1
        make_raw odd.raw 12345
        make_raw data.raw $((3 * 1048576 + 17))
        make_raw sparse.raw 20000000 3M:70000 5000001:1 9M:2M 19M:4096
        make_raw holetail.raw 9M 0:1048577
        make_raw allhole.raw 5M 0:0
        make_raw deep.raw $((8000 * b + 1)) every="$((2 * b)):$b"
        make_raw mixed.raw $((64 * b))
        make_raw triple.raw $((t + 100 * b + 123)) 0:1 $((11 * b)):$((3 * b)) \
                 $(((11 + p) * b)):$((2 * b)) $((t - b)):$((3 * b)) \
                 $((t + 90 * b)):700
        make_raw unwritten.raw 300001 0:0
        make_raw inline.raw 100
    )
}

# make_kinds_fs IMAGE BLOCKSIZE [MKE2FS-ARGUMENTS...]: a filesystem with
# those files, its free space full of 0xDEADBEEF.
make_kinds_fs ()
{
    local img=$1 b=$2 f
    shift 2
    make_kinds "$b"
    case "$*" in
        # mke2fs 1.47.0 makes 60 bytes of inline data of it.
        *inline_data*) rm "$tmp/src/allhole.raw" ;;
    esac
    make_fs "$img" 64M -b "$b" -d "$tmp/src" "$@"
    case "$*" in
        # Nor does it see holes at the end there.
        *inline_data*)
            for f in "$tmp"/src/*.raw; do
                debug "$img" "sif /${f##*/} size $(stat -c %s "$f")"
            done ;;
    esac
    if superblock "$img" 'Filesystem features' | grep -qw extent; then
        debugfs -R "ex /deep.raw" "$img" 2>/dev/null > "$tmp/ex"
        grep -q '^ *[0-3]/ *[2-5] ' "$tmp/ex" || fail "deep.raw is not deep"
        unwritten_parts "$img" "$b"
        dirty_free "$img"
        # Not a new file, which would have inline data where it can.
        debug "$img" "rm /unwritten.raw" \
              "write $tmp/src/odd.raw unwritten.raw" \
              "punch /unwritten.raw 0" "sif /unwritten.raw size 300001" \
              "fallocate /unwritten.raw 0 $((300001 / b))"
    else
        dirty_free "$img"
    fi
    check_clean "$img"
}

# The second quarter of mixed.raw becomes unwritten over its old bytes.
unwritten_parts ()
{
    local img=$1 b=$2 p
    p=$(debugfs -R "bmap /mixed.raw 0" "$img" 2>/dev/null)
    [ "$(debugfs -R "bmap /mixed.raw 63" "$img" 2>/dev/null)" = $((p + 63)) ] ||
        fail "mixed.raw is not contiguous"
    debug "$img" "extent_open /mixed.raw" "root" "next" \
          "replace_node 0 16 $p" \
          "insert_node --after --uninit 16 16 $((p + 16))" \
          "insert_node --after 32 32 $((p + 32))" "extent_close"
    dd if=/dev/zero of="$tmp/src/mixed.raw" bs="$b" seek=16 count=16 \
       conv=notrunc status=none
}

# copy_out IMAGE [all]: every file of it is served with the right bytes; with
# "all" to each kind of client.
copy_out ()
{
    local img=$1 f name before all=${EXT2_THOROUGH:+all}
    all=${2:-$all}
    before=$(sum_of "$img")
    serve_file "$img" exportname
    for f in "$tmp"/src/*.raw; do
        name=${f##*/}
        if [ "$all" ] && [ "$(stat -c %s "$f")" -lt 100000000 ]; then
            dump "$img" "/$name" "$tmp/out"
            same "$tmp/out" "$f"
            rm -f "$tmp/out"
            bounded nbdcopy --no-extents "$(uri_of "$name")" "$tmp/out"
            same "$tmp/out" "$f"
        fi
        rm -f "$tmp/out"
        bounded nbdcopy "$(uri_of "$name")" "$tmp/out"
        same "$tmp/out" "$f"
        rm -f "$tmp/out"
        if [ "$all" ]; then
            bounded qemu-img convert -f raw -O raw "$(uri_of "$name")" \
                    "$tmp/out"
            same "$tmp/out" "$f" padded
        fi
        echo "$name: $(stat -c '%s bytes' "$f")"
    done
    stop
    unchanged "$img" "$before"
}

# copy_in IMAGE: every file is overwritten by other bytes and holes.
copy_in ()
{
    local img=$1 f name size
    mkdir -p "$tmp/new"
    serve_file "$img" exportname
    for f in "$tmp"/src/*.raw; do
        name=${f##*/}
        size=$(stat -c %s "$f")
        make_raw "$tmp/new/$name" "$size" 0:50001 200000:1 "every=700K:30K:7M" \
                 $((size - size / 9)):77777
        bounded nbdcopy "$tmp/new/$name" "$(uri_of "$name")"
    done
    stop
    check_clean "$img"
    for f in "$tmp"/new/*.raw; do
        name=${f##*/}
        if [ "$(stat -c %s "$f")" -lt 100000000 ]; then
            dump "$img" "/$name" "$tmp/out"
            same "$tmp/out" "$f"
        fi
    done
    if can_mount; then
        with_mount "$img" linux_same_dir "$tmp/new"
    fi
}

linux_same_dir ()
{
    local f
    for f in "$1"/*.raw; do
        same "$mnt/${f##*/}" "$f"
    done
}

# --- odd images -------------------------------------------------------

# poke IMAGE OFFSET HEX: bytes at an offset, for what debugfs refuses.
poke ()
{
    python - "$@" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2], 0))
    f.write(bytes.fromhex(sys.argv[3]))
END
}

# or_super32 IMAGE OFFSET MASK: bits into a 32-bit field of a superblock
# that has no checksum.
or_super32 ()
{
    python - "$@" <<'END'
import struct, sys
offset, mask = (int(x, 0) for x in sys.argv[2:])
with open(sys.argv[1], "r+b") as f:
    f.seek(1024 + offset)
    v = struct.unpack("<I", f.read(4))[0] | mask
    f.seek(1024 + offset)
    f.write(struct.pack("<I", v))
END
}

# map_of: "OFFSET LENGTH TYPE" of $uri, 0 data, 2 unwritten, 3 hole.
map_of ()
{
    bounded nbdinfo --map "${1:-$uri}" | awk '{ print $1, $2, $3 }'
}

# expect_map LINES: the map is exactly that.
expect_map ()
{
    local got
    got=$(map_of "$uri")
    if [ "$got" != "$1" ]; then
        printf 'expected:\n%s\ngot:\n%s\n' "$1" "$got" >&2
        fail "wrong block status"
    fi
}

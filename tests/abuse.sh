# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
# shellcheck shell=bash
# shellcheck disable=SC2154 # those of functions.sh

# What the tests with rude clients share: sourced after functions.sh.

# With few arenas the server's memory is what it has asked for.
export MALLOC_ARENA_MAX=2
export PYTHONDONTWRITEBYTECODE=1

# rude_image: vm.raw is the well-behaved client's, rude.raw, which is more
# than one request can name and of an odd size, the rude one's.
rude_image ()
{
    requires mke2fs debugfs e2fsck dumpe2fs python3
    img=$tmp/disk.img
    mkdir -p "$tmp/src/sub"
    make_raw "$tmp/src/vm.raw" 8M
    make_raw "$tmp/src/rude.raw" $(((5 << 30) + 777)) 0:200001 5M:3M \
             4G:1M 5368000000:90000
    make_fs "$img" 64M -t ext4 -d "$tmp/src"
    cp --sparse=always "$tmp/src/vm.raw" "$tmp/vm.shadow"
    cp --sparse=always "$tmp/src/rude.raw" "$tmp/rude.shadow"
}

# be_steady: the well-behaved client begins.
be_steady ()
{
    export ABUSE_PROGRESS=$tmp/progress
    : > "$ABUSE_PROGRESS"
    python --version >/dev/null # finds it
    # Not by that function, or $! would be a subshell.
    "$python_found" "$srcdir/steady.py" "$sock" vm.raw "$tmp/vm.shadow" \
                    "$ABUSE_PROGRESS" "${pause:-0.002}" &
    steady=$!
    jobs+=("$steady")
    wait_until steady_runs
}

steady_runs ()
{
    kill -0 "$steady" || fail "the well-behaved client has ended"
    [ -n "$(tr -d '\0' < "$ABUSE_PROGRESS")" ]
}

# end_steady: it got on until now, and every byte was right.
end_steady ()
{
    kill -TERM "$steady"
    wait "$steady" || fail "the well-behaved client failed"
    forget_job "$steady"
    unset ABUSE_PROGRESS
}

# abuse CASE [ARGUMENTS...]: of the last server.
abuse ()
{
    python --version >/dev/null # finds it
    ABUSE_SOCKET=$sock ABUSE_PID=$pid ABUSE_FILE=$tmp/src/vm.raw \
        bounded "$python_found" "$srcdir/abuse.py" "$@" || fail "abuse $*"
}

# short_lines: no client can make the server's log lines long.
short_lines ()
{
    local n
    n=$(LC_ALL=C awk '{ if (length > most) most = length }
                      END { print most + 0 }' "$log")
    # LINE in lib/errors.c, and what nbdkit puts before it.
    [ "$n" -le 2200 ] || fail "a line of $n bytes in the log"
}

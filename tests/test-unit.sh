#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The systemd unit: systemd finds no fault with it, it allows the same system
# calls as nbdkit-ext2-confined, and leaves the server no more than it needs.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"

# The same system calls, and none by which a server could get out.
calls ()
{
    sed -n "$1" "$2" | tr ' ' '\n' | sort
}
contrib=$abs_top_builddir/contrib
calls 's/^SystemCallFilter=//p' "$contrib/nbdkit-ext2@.service" > "$tmp/unit"
calls 's/^SYSCALLS = "\(.*\)"\.split.*/\1/p' \
      "$contrib/nbdkit-ext2-confined" > "$tmp/command"
same "$tmp/unit" "$tmp/command"
[ "$(wc -l < "$tmp/unit")" -gt 50 ] || fail "the list of calls is too short"
for call in clone3 connect socket bind listen kill ptrace mount unshare setns \
            chmod link symlink rename keyctl bpf io_uring_setup userfaultfd \
            process_vm_writev memfd_create setuid perf_event_open; do
    ! grep -q -x "$call" "$tmp/unit" || fail "the server may call $call"
done

requires systemd-analyze
cp "$contrib/"nbdkit-ext2@.* "$tmp"
cd "$tmp"
unit=nbdkit-ext2@srv-disk.img
bounded systemd-analyze verify --man=no "./$unit.service" "./$unit.socket" \
        >"$tmp/verify" 2>&1 || :
# What other units of this machine lack is not its fault.
if grep -F nbdkit-ext2 "$tmp/verify"; then
    fail "systemd finds fault with the unit"
fi

bounded systemd-analyze security --offline=yes --no-pager "./$unit.service" \
        >"$tmp/security" 2>&1 || skip "systemd is too old to judge a unit"
tail -n 1 "$tmp/security"
# Of 10; from 2 on systemd no longer calls it safe.  252 says 0.9.
awk '/Overall exposure level/ { found = 1; ok = $(NF - 2) <= 1.5 }
     END { exit !(found && ok) }' "$tmp/security" || {
    cat "$tmp/security" >&2
    fail "the unit leaves the server too much"
}

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# What a client calls a file cannot look like another line of the log, nor
# like a command to the terminal that shows it.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs nbdinfo
requires_nbdsh

img=$tmp/disk.img
make_fs "$img" 4M -t ext4
serve_file "$img" exportname
"$nbd_python" - "$sock" <<'END'
import nbd, sys
for name in ("x\nnbdkit: ext2: error: the disk is on fire\r\x1b[2J\x07\x7f",
             "\u009b31m\u202ereversed", "\t" * 4000, "back\\slash"):
    h = nbd.NBD()
    h.set_export_name(name)
    try:
        h.connect_unix(sys.argv[1])
        sys.exit("a client got " + repr(name))
    except nbd.Error:
        pass
END
stop
if tr -d '\n' < "$log" | grep -n '[^ -~]'; then
    fail "raw bytes in the log"
fi
if grep '^nbdkit: ext2:' "$log"; then
    fail "a client wrote a line of the log"
fi
grep -F 'x\x0anbdkit: ext2: error: the disk is on fire\x0d\x1b[2J\x07\x7f' \
     "$log" || fail "the first name is not told"
grep -F '\xc2\x9b31m\xe2\x80\xaereversed' "$log" || fail "nor the second"
grep -F 'back\\slash' "$log" || fail "nor the last"

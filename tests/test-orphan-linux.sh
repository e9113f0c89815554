#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A file deleted under Linux while it was open, and the machine gone: the
# filesystem is served and written, and Linux frees the file afterwards.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs e2fsck debugfs dumpe2fs nbdinfo python3
requires_nbdsh
requires_mount

# The first of the list of orphans; with a file of orphans whether there may
# be any.  Nothing if there are none.
orphan ()
{
    superblock "$1" 'First orphan inode'
    superblock "$1" 'Filesystem features' | grep -o orphan_present || :
}

# The image as it is while Linux has it, with the journal replayed but
# nothing else done to it.
delete_while_open ()
{
    exec 9<"$mnt/gone.raw"
    rm "$mnt/gone.raw"
    sync -f "$mnt"
    cp --sparse=always "$tmp/live.img" "$tmp/disk.img"
    exec 9<&-
}

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/gone.raw" 4M 0:4M

# check FEATURE: where Linux keeps orphans with FEATURE.
check ()
{
    local first free

    make_raw "$tmp/src/vm.raw" 1M 0:300K
    make_fs "$tmp/live.img" 32M -t ext4 -O "$1" -d "$tmp/src"
    with_mount "$tmp/live.img" delete_while_open
    # (e2fsck -E journal_only would also finish the orphan.)
    debug "$img" journal_run
    first=$(orphan "$img")
    [ -n "$first" ] || skip "this Linux left no orphan inode ($1)"
    free=$(superblock "$img" 'Free blocks')

    serve_file "$img" /vm.raw
    nbd_script <<'EOS'
h.pwrite(b"x" * 500000, 400000)
h.zero(65536, 65536)
h.flush()
EOS
    wait_clean "$img"
    stop
    grep "1 orphan inode" "$log" || fail "$1: not a word of the orphan"
    [ "$(orphan "$img")" = "$first" ] ||
        fail "$1: the orphan is not where it was"

    # Linux frees what it was, and finds the rest right.
    python - "$tmp/src/vm.raw" <<'EOS'
import sys
f = open(sys.argv[1], "r+b")
f.seek(400000)
f.write(b"x" * 500000)
f.seek(65536)
f.write(bytes(65536))
EOS
    with_mount "$img" linux_same vm.raw "$tmp/src/vm.raw"
    [ -z "$(orphan "$img")" ] || fail "$1: Linux did not finish the orphan"
    [ "$(superblock "$img" 'Free blocks')" -gt $((free + 700)) ] ||
        fail "$1: the orphan's blocks are not free"
    check_file "$img" /vm.raw "$tmp/src/vm.raw"
}

check ^orphan_file
check orphan_file

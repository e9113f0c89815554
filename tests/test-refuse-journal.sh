#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Where the journal is: what Linux takes for an internal one is served,
# and for what is refused, the message's advice helps and loses nothing.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs tune2fs nbdinfo nbdcopy python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K

# written: the image can be written, and holds what was written.
written ()
{
    make_raw "$tmp/new" 1M 100K:500K
    serve_file "$img" /vm.raw
    bounded nbdcopy "$tmp/new" "$uri"
    stop
    check_file "$img" /vm.raw "$tmp/new"
}

# A UUID beside an internal journal's inode means nothing; only e2fsck looks
# for another journal then.
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv journal_uuid 11111111-2222-3333-4444-555555555555"
make_raw "$tmp/new" 1M 100K:500K
serve_file "$img" /vm.raw
bounded nbdcopy "$tmp/new" "$uri"
stop
check_linux "$img" /vm.raw "$tmp/new"
debug "$img" "ssv journal_uuid null"
check_file "$img" /vm.raw "$tmp/new"

# Two journals: Linux refuses that as well.
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv journal_dev 0x0801"
refused "debugfs -w -R 'ssv journal_dev 0'" "$img" /vm.raw
refused "debugfs -w -R 'ssv journal_dev 0'" "$img" /vm.raw -r
debugfs -w -R 'ssv journal_dev 0' "$img" 2>/dev/null
written

# None.
make_fs "$img" 16M -t ext4 -d "$tmp/src"
debug "$img" "ssv journal_inum 0"
refused "run e2fsck -f" "$img" /vm.raw
e2fsck -fy "$img" >/dev/null || [ $? -eq 1 ]
written

# The oldest kind can be read.
make_fs "$img" 16M -t ext3 -b 1024 -d "$tmp/src"
python - "$img" "$(debugfs -R 'bmap <8> 0' "$img" 2>/dev/null)" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(int(sys.argv[2]) * 1024 + 7)
    f.write(b"\x03")
END
served_readonly "tune2fs -O \\^has_journal, then tune2fs -j" \
                "$img" /vm.raw "$tmp/src/vm.raw"
tune2fs -O ^has_journal "$img" >/dev/null
tune2fs -j "$img" >/dev/null
written

can_mount || { echo "no loop mount here: no external journals"; exit 0; }

# External ones, of which the second copy is as after a power cut: with a
# file that is only in the journal's device and the image together.
make_raw "$tmp/synced" 200K 0:200K
truncate -s 8M "$tmp/journal"
mke2fs -q -F -O journal_dev -b 4096 "$tmp/journal"
d=$(losetup -f --show "$tmp/journal") || skip "no loop device"
mke2fs -q -F -t ext4 -b 4096 -J device="$d" -d "$tmp/src" "$img" 16M ||
    { losetup -d "$d"; fail "mke2fs -J device"; }
use ()
{
    losetup -d "$d"             # when it is unmounted
    cp "$tmp/synced" "$mnt/synced"
    sync "$mnt/synced"
    cp "$img" "$tmp/cut.img"
    cp "$tmp/journal" "$tmp/cut.journal"
}
with_mount "$img" use

refused "tune2fs -f -O \\^has_journal removes it" "$img" /vm.raw
refused "tune2fs -f -O \\^has_journal removes it" "$img" /vm.raw -r
tune2fs -f -O ^has_journal "$img" >/dev/null 2>&1
written
dump "$img" /synced "$tmp/out"
same "$tmp/out" "$tmp/synced"

mv "$tmp/cut.img" "$img"
refused "e2fsck -fy -j JOURNAL-DEVICE .*tune2fs -f" "$img" /vm.raw
# Half of the advice does no harm.
if tune2fs -f -O ^has_journal "$img" >/dev/null 2>&1; then
    fail "tune2fs has removed a journal that holds something"
fi
e2fsck -fy -j "$tmp/cut.journal" "$img" >/dev/null 2>&1 || [ $? -eq 1 ]
tune2fs -f -O ^has_journal "$img" >/dev/null 2>&1
written
dump "$img" /synced "$tmp/out"
same "$tmp/out" "$tmp/synced"

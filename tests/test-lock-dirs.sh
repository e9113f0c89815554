#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Whose locks see each other: those of root and of the owner of the image's
# file.  Where there is no directory for them the image is served with a
# warning; where there is none that was asked for, not at all.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs nbdinfo
requires_nbdsh
[ "$(id -u)" = 0 ] || skip "needs root, to be others"
command -v unshare >/dev/null && command -v setpriv >/dev/null ||
    skip "needs unshare and setpriv (util-linux)"
unshare -m true 2>/dev/null || skip "needs a mount namespace of its own"

img=$tmp/disk.img
mkdir "$tmp/src"
truncate -s 1M "$tmp/src/vm.raw"
make_fs "$img" 8M -t ext4 -d "$tmp/src"
chmod 755 "$tmp"
chown 65534 "$img"
mkfifo "$tmp/go"

# ask EXPECTED [NBDKIT-ARGUMENTS...]: a server, and whether it serves.
ask ()
{
    local expected=$1 got=served
    shift
    serve --filter=ext2 file "$img" ext2file=/vm.raw "$@"
    bounded nbdinfo --size "$uri" >"$tmp/out" 2>&1 || got=refused
    stop
    [ $got = "$expected" ] || fail "$got, expected $expected: $*"
}

# A server of nobody's, with a client that stays.
cat > "$tmp/as-nobody" <<EOS
#!/bin/sh
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$NBDKIT" "\$@"
EOS
chmod +x "$tmp/as-nobody"
mkdir -m 777 "$tmp/sockets"
"$tmp/as-nobody" -f -U "$tmp/sockets/sock" -P "$tmp/sockets/pid" \
    --filter=ext2 file "$img" ext2file=/vm.raw 2>"$tmp/log.nobody" &
jobs+=($!)
wait_until test -s "$tmp/sockets/pid"
other=$(cat "$tmp/sockets/pid")
uri="nbd+unix:///?socket=$tmp/sockets/sock"
nbd_script <<EOS &
h.pwrite(b"x", 0)
open("$tmp/here", "w").close()
open("$tmp/go").read()
EOS
client=$!
jobs+=("$client")
wait_until test -e "$tmp/here"

ask refused
grep "written by pid $other " "$log" || fail "root is not told who"
ask served ext2lock=off
mkdir "$tmp/lock"
ask served ext2lock="$tmp/lock"
[ -z "$(ls "$tmp/lock")" ] || fail "the lock's file was left"
ask refused ext2lock="$tmp/missing"
grep "ext2lock=.*missing: No such file or directory" "$log"
echo > "$tmp/go"
wait "$client"
kill -TERM "$other"
wait_until eval "! kill -0 $other 2>/dev/null"

# Nobody else may have made the directory.
cat > "$tmp/bare" <<EOS
#!/bin/sh
exec unshare -m sh -c 'mount -t tmpfs -o ro none /run && exec "\$@"' - \
     "$NBDKIT" "\$@"
EOS
cat > "$tmp/hostile" <<EOS
#!/bin/sh
exec unshare -m sh -c 'mount -t tmpfs none /run &&
    ln -s "$tmp/lock" /run/nbdkit-ext2 && exec "\$@"' - "$NBDKIT" "\$@"
EOS
chmod +x "$tmp/bare" "$tmp/hostile"
NBDKIT=$tmp/bare
ask served
grep "warning: nothing keeps a second server .*/run/nbdkit-ext2: .*: ext2lock" \
     "$log" || fail "no warning"
ask served -r
if grep warning "$log"; then
    fail "a reader needs no lock"
fi
NBDKIT=$tmp/hostile
ask served
grep "warning: nothing keeps a second server" "$log" || fail "no warning"
[ -z "$(ls "$tmp/lock")" ] || fail "a link was followed"

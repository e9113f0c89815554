#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The damaged images of e2fsprogs' own tests, some two hundred: each is
# served read-only and writable, and judged like ours (damage.h).  Some of
# them, or with EXT2_EVERY_IMAGE in the environment all, through nbdkit too.
#
# They come from Debian's source package, with an apt configuration of our
# own, and are kept in ${TMPDIR:-/var/tmp}; or from the directory
# EXT2_E2FSPROGS, an unpacked source of e2fsprogs.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_client test-damage
requires_nbdsh

damage=$abs_top_builddir/tests/test-damage
kept=${TMPDIR:-/var/tmp}/nbdkit-ext2-e2fsprogs.$(id -u)

# apt_source WORD...: apt-get in directory $apt, which touches nothing else.
apt_source ()
{
    timeout 300 apt-get -q -o Dir::Etc::SourceList="$apt/sources.list" \
            -o Dir::Etc::SourceParts=/dev/null -o Dir::State="$apt/state" \
            -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache" \
            -o Acquire::http::Timeout=20 -o Acquire::Retries=0 \
            -o APT::Sandbox::User=root "$@" >> "$apt/log" 2>&1
}

# fetch DIR: tests/ of e2fsprogs into it, if it can be reached.
fetch ()
{
    local to=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    apt=$tmp/apt
    command -v apt-get >/dev/null || skip "no apt-get, and no EXT2_E2FSPROGS"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    [ -e "$keyring" ] && keyring="[signed-by=$keyring]" || keyring=
    # The sources of what the system has its binaries from.
    # shellcheck disable=SC2016 # apt-get's own variables
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' \
            'Created-By: Packages' 2>/dev/null | sort -u |
        awk -v k="$keyring" '$3 == "main" { print "deb-src", k, $1, $2, $3 }' \
            > "$apt/sources.list"
    apt_source update || :
    (cd "$apt" && apt_source source --download-only e2fsprogs) ||
        skip "Debian's source of e2fsprogs cannot be reached"
    mkdir -p "$to.new"
    tar -xf "$(find "$apt" -maxdepth 1 -name 'e2fsprogs_*.orig.tar.*z')" \
        -C "$to.new" --strip-components=1 --wildcards '*/tests/*/image*'
    mv -T "$to.new" "$to"
}

if [ -z "${EXT2_E2FSPROGS:-}" ]; then
    [ -d "$kept/tests" ] || { rm -rf "$kept" "$kept.new"; fetch "$kept"; }
    [ -O "$kept" ] || skip "$kept belongs to somebody else"
    EXT2_E2FSPROGS=$kept
fi

mkdir "$tmp/images"
for i in "$EXT2_E2FSPROGS"/tests/*/image.{gz,bz2}; do
    name=${i%/*}
    name=$tmp/images/${name##*/}
    case $i in
        *.gz) gzip -dc "$i" > "$name" ;;
        *.bz2) command -v bzip2 >/dev/null || continue
               bzip2 -dc "$i" > "$name" ;;
    esac
done
images=("$tmp"/images/*)
[ ${#images[@]} -gt 100 ] || fail "where are e2fsprogs' images?"
echo "${#images[@]} images"
bounded "$damage" --most=1000 --image "${images[@]}"

# Through nbdkit.  names_in IMAGE: "INODE PATH" of some of its files.
names_in ()
{
    debugfs -R "ncheck $(echo {11..60})" "$1" 2>/dev/null |
        awk -F '\t' '$1 + 0 { print $1, $2 }' | head -n 8
}

# use_names: each name on stdin that is served is read, into $tmp/read.INODE,
# and written to if it can be; prints their inodes.
use_names ()
{
    cat > "$tmp/names"
    bounded "$nbd_python" - "$uri" "$tmp/names" "$tmp/read" <<'END'
import os, sys
import nbd
uri, names, out = sys.argv[1:]
MOST = 1 << 20

def attempt(call, *args):
    try:
        return call(*args)
    except nbd.Error:
        return None

for line in open(names, "rb"):
    ino, path = line.rstrip(b"\n").split(b" ", 1)
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    try:
        h.set_export_name(os.fsdecode(path))
        h.connect_uri(uri)
    except (nbd.Error, UnicodeEncodeError):
        continue
    size = h.get_size()
    if size:
        data = attempt(h.pread, min(size, MOST), 0)
        if data is not None and size <= MOST:
            with open(out + "." + ino.decode(), "wb") as f:
                f.write(data)
        attempt(h.block_status, min(size, MOST), 0, lambda *a: 0)
    if not h.is_read_only():
        print(ino.decode())
        for at in range(0, min(size, MOST), 70000):
            n = min(size - at, 20000)
            attempt(h.pwrite, b"x" * n, at)
            attempt(h.zero, n // 2, at)
            attempt(h.trim, n, at)
            attempt(h.flush)
    attempt(h.shutdown)
END
}

# no_file_lies IMAGE: what was read is what debugfs reads, if it can.
no_file_lies ()
{
    local f ino
    for f in "$tmp"/read.*; do
        [ -e "$f" ] || continue
        ino=${f##*.}
        rm -f "$tmp/out"
        debugfs -R "dump <$ino> $tmp/out" "$1" > "$tmp/dumped" 2>&1
        if [ "$(grep -c . "$tmp/dumped")" = 1 ] &&
           [ -z "$(debugfs -R "stat <$ino>" "$1" 2>/dev/null |
                   grep -i inline)" ]; then
            truncate -s "$(stat -c %s "$f")" "$tmp/out"
            same "$tmp/out" "$f"
        fi
        rm -f "$f"
    done
}

every=${EXT2_EVERY_IMAGE:+1}
for ((i = 0; i < ${#images[@]}; i += ${every:-16})); do
    img=${images[i]}
    before=$(sum_of "$img")
    serve --filter=ext2 -r file "$img" ext2file=exportname
    names_in "$img" | use_names
    stop
    unchanged "$img" "$before"
    no_file_lies "$img"

    cp "$img" "$tmp/served"
    serve --filter=ext2 file "$tmp/served" ext2file=exportname
    # shellcheck disable=SC2046 # numbers
    set -- $(names_in "$img" | use_names)
    stop
    "$damage" --served "$img" "$tmp/served" "$@" || fail "$img"
    rm -f "$tmp"/read.*
done

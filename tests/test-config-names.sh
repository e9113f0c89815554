#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Plugins that let clients choose the image by name are refused when the
# server starts: the image is opened once for all clients, and some of these
# plugins end the server when there is no name.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs nbdinfo

mkdir "$tmp/dir" "$tmp/src"
truncate -s 1M "$tmp/src/vm.raw"
make_fs "$tmp/dir/disk.img" 8M -t ext4 -d "$tmp/src"

# not_started NBDKIT-ARGUMENTS...
not_started ()
{
    if bounded "$NBDKIT" -U - --filter=ext2 "$@" ext2file=/vm.raw \
               --run "nbdinfo --size \"\$uri\"" >"$tmp/out" 2>&1; then
        fail "$*: a client was served"
    fi
    cat "$tmp/out"
    grep "error: ext2: .* run one nbdkit for each" "$tmp/out" ||
        fail "$*: no word why"
    if grep -e signal -e nbdinfo: -e "no connection" "$tmp/out"; then
        fail "$*: refused too late"
    fi
}

not_started file dir="$tmp/dir"
not_started file directory="$tmp/dir"
not_started --filter=partition file dir="$tmp/dir" partition=1
if "$NBDKIT" --dump-plugin ondemand >/dev/null 2>&1; then
    not_started ondemand dir="$tmp/dir" size=8M
fi

# Other plugins have a dir= of another meaning.
if "$NBDKIT" --dump-plugin floppy >/dev/null 2>&1; then
    serve --filter=ext2 floppy dir="$tmp/dir" ext2file=/vm.raw
    stop
fi

# The name "" is a good one for the nbd plugin, if it gets it.
if "$NBDKIT" --dump-plugin nbd >/dev/null 2>&1; then
    serve file "$tmp/dir/disk.img"
    lower=$sock
    if ! bounded "$NBDKIT" -U - --filter=ext2 nbd socket="$lower" \
         dynamic-export=true ext2file=/vm.raw \
         --run "nbdinfo --size \"\$uri\"" >"$tmp/out" 2>&1; then
        not_started nbd socket="$lower" dynamic-export=true
    fi
    bounded "$NBDKIT" -U - --filter=ext2 nbd socket="$lower" \
            dynamic-export=false ext2file=/vm.raw \
            --run "nbdinfo --size \"\$uri\"" || fail "nbd was not served"
fi

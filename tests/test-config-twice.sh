#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The filter twice in one chain is refused at start: both would be the
# same object, and the inner one would wait for the outer one for ever.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs timeout

mkdir "$tmp/src"
truncate -s 1M "$tmp/src/vm.raw"
make_fs "$tmp/disk.img" 16M -t ext4 -d "$tmp/src"
if timeout "$limit" "$NBDKIT" -U - --filter=ext2 --filter=ext2 \
           file "$tmp/disk.img" ext2file=/vm.raw --run true 2>"$tmp/log"; then
    fail "nbdkit started"
fi
cat "$tmp/log"
grep -q "only once" "$tmp/log" || fail "the message does not say why"

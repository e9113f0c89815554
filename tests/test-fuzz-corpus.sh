#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The fuzzers' saved inputs, and what they have found once, end no harness.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"

fuzz=$abs_top_builddir/fuzz
[ -x "$fuzz/fuzz-open" ] || skip "the harnesses of fuzz/ are not built"

for harness in "$fuzz"/fuzz-*; do
    [ -x "$harness" ] && [ -f "$harness" ] || continue
    name=${harness##*/fuzz-}
    if ! "$harness" "$srcdir/../fuzz/corpus/$name"/* >"$tmp/out" 2>"$tmp/log"
    then
        fail "fuzz-$name: $(tail -n 20 "$tmp/log")"
    fi
    tail -n 1 "$tmp/out"
done

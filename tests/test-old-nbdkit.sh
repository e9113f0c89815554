#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# ./nbdkit warns of an nbdkit that one client can end for all: of no other
# version, and not where the bug cannot be met.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"

# warns VERSION [ARGUMENT...]
warns ()
{
    printf '#!/bin/sh\necho "nbdkit %s"\n' "$1" > "$tmp/nbdkit"
    chmod +x "$tmp/nbdkit"
    shift
    NBDKIT_PROGRAM=$tmp/nbdkit "$NBDKIT" "$@" 2>&1 >/dev/null |
        grep "goes away with requests in flight"
}

export NBDKIT_EXT2_QUIET=
for version in 1.32.4 1.32.5 "1.32.5 (distribution-1)" 1.33.3 1.33.9; do
    warns "$version" || fail "no warning of $version"
done
for version in 1.32.3 1.33.2 1.33.10 1.34.0 1.42.3 1.32.40; do
    ! warns "$version" || fail "a warning of $version"
done
for option in -t1 "-t 1" --threads=1 "--threads 1"; do
    # shellcheck disable=SC2086 # two words
    ! warns 1.32.5 -f $option --no-sr file x || fail "a warning with $option"
    # shellcheck disable=SC2086 # two words
    warns 1.32.5 -f $option file x || fail "no warning with only $option"
done
warns 1.32.5 --no-sr file x || fail "no warning with only --no-sr"
warns 1.32.5 -t 16 --no-sr file x || fail "no warning with -t 16"
export NBDKIT_EXT2_QUIET=1
! warns 1.32.5 || fail "a warning although not wanted"

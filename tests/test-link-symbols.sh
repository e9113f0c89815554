#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The filter links although a library is missing, as the server's functions
# are not there either; then nbdkit cannot load it.  So: whatever it leaves
# undefined is the server's, or in a library that it asks for.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires nm ldd

filter=$abs_top_builddir/filters/ext2/.libs/nbdkit-ext2-filter.so

# symbols FILE OPTION: with neither types nor versions.
symbols ()
{
    nm -D "$2" "$1" | awk '$(NF - 1) != "w" { sub (/@.*/, "", $NF); print $NF }'
}

symbols "$filter" --undefined-only | sort -u > "$tmp/wanted"
grep -q -x nbdkit_error "$tmp/wanted" || fail "this is not a filter"
ldd "$filter" > "$tmp/ldd"
while read -r lib; do
    symbols "$lib" --defined-only
done < <(awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/" { print $1 }' \
             "$tmp/ldd") | sort -u > "$tmp/offered"
lost=$(comm -23 "$tmp/wanted" "$tmp/offered" | grep -v '^nbdkit_') || :
[ -z "$lost" ] || fail "in no library that the filter asks for: $lost"
echo "$(wc -l < "$tmp/wanted") symbols, all of them found"

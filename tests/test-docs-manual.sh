#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The manual is sound POD, it and --help name the same parameters, and the
# tests it names exist.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires podchecker grep sed sort

pod=$srcdir/../docs/nbdkit-ext2-filter.pod
podchecker -warnings -warnings "$pod"

bounded "$NBDKIT" --filter=ext2 null --help |
    grep -o '^ext2[a-z]*=' | sort -u > "$tmp/help"
sed -n '/^=head1 PARAMETERS/,/^=head1 WHAT/p' "$pod" |
    grep -o '^=item B<ext2[a-z]*=' | sed 's/.*<//' | sort -u > "$tmp/pod"
cat "$tmp/help"
[ -s "$tmp/help" ] || fail "--help names no parameter"
diff "$tmp/pod" "$tmp/help" || fail "the manual and --help differ"

# The tests that the manual calls to witness exist, and are run.
sed -n '/^=head2 What survives a crash/,/^=head2 Multiple/p' "$pod" |
    grep -o 'test-[a-z0-9-]*\(\.sh\)\?' | sort -u > "$tmp/witnesses"
[ "$(wc -l < "$tmp/witnesses")" -ge 8 ] || fail "few tests are named"
while read -r name; do
    grep -q "^	$name\( \\\\\)\?$" "$srcdir/Makefile.am" ||
        fail "the manual names $name, which is not run"
done < "$tmp/witnesses"

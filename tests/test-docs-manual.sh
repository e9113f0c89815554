#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The manual is sound POD, and it and --help name the same parameters.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires podchecker grep sort

pod=$srcdir/../docs/nbdkit-ext2-filter.pod
podchecker -warnings -warnings "$pod"

bounded "$NBDKIT" --filter=ext2 null --help |
    grep -o '^ext2[a-z]*=' | sort -u > "$tmp/help"
sed -n '/^=head1 PARAMETERS/,/^=head1 WHAT/p' "$pod" |
    grep -o '^=item B<ext2[a-z]*=' | sed 's/.*<//' | sort -u > "$tmp/pod"
cat "$tmp/help"
[ -s "$tmp/help" ] || fail "--help names no parameter"
diff "$tmp/pod" "$tmp/help" || fail "the manual and --help differ"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The filter says which it is, and of which commit: nobody can tell it from
# the one that comes with nbdkit by --version, which is nbdkit's own.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires sed

version=$(sed -n 's/^#define PACKAGE_VERSION "\(.*\)"/\1/p' \
              "$abs_top_builddir/config.h")
commit=$(sed -n 's/.*"\(.*\)"/\1/p' "$abs_top_builddir/filters/ext2/commit.h")
[ -n "$version" ] && [ -n "$commit" ] || fail "not built here"
if [ -e "$srcdir/../.git" ] && git -C "$srcdir" rev-parse 2>/dev/null; then
    # A change since it was built may be what this test is run for.
    [ "$commit" != unknown ] || fail "a git checkout, and no commit"
fi

bounded "$NBDKIT" --filter=ext2 null --help > "$tmp/help"
grep "^filter: ext2 (nbdkit-ext2 $version, commit $commit)" "$tmp/help"
serve -v --filter=ext2 null ext2file=/vm.raw
stop
grep "debug: ext2: nbdkit-ext2 $version, commit $commit, for nbdkit" "$log"

if grep -q 'HAVE_STRUCT_NBDKIT_FILTER_DUMP_PLUGIN 1' \
        "$abs_top_builddir/config.h"; then
    bounded "$NBDKIT" --filter=ext2 null --dump-plugin > "$tmp/dump"
    grep -x "ext2_project=nbdkit-ext2" "$tmp/dump"
    grep -x "ext2_version=$version" "$tmp/dump"
    grep -x "ext2_commit=$commit" "$tmp/dump"
fi

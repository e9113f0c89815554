#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# --help and --dump-plugin work with the filter and show its parameters.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires sed

bounded "$NBDKIT" --filter=ext2 null --help > "$tmp/help"
grep -q "ext2file=" "$tmp/help"
grep -q "ext2cache=" "$tmp/help"
grep -q "ext2commit=" "$tmp/help"
bounded "$NBDKIT" --filter=ext2 null --dump-plugin > "$tmp/dump"
grep -q "^name=" "$tmp/dump"
bounded "$NBDKIT" --filter=ext2 null --version

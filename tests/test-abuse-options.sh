#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Options that are malformed, unknown, as large as they can be, and as many.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"

rude_image
serve_file "$img" exportname
be_steady
abuse options
end_steady
stop
short_lines
check_file "$img" /vm.raw "$tmp/vm.shadow"

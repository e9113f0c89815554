#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Export names with "..", NUL, line feeds, invalid UTF-8, of 4096 bytes and
# more; thousands that were never heard before: an error each, of which
# nothing is left but a short line in the log.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"

rude_image
serve_file "$img" exportname
be_steady
abuse names
abuse distinct_names 600
end_steady
# The same where the filesystem is opened and closed each time.
settle
abuse distinct_names 50
stop
short_lines
check_file "$img" /vm.raw "$tmp/vm.shadow"

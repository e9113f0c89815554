#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Thousands of connections that are dropped in their handshake, and hundreds
# that never get on with it: others are served, and no memory is lost.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"

rude_image
serve_file "$img" exportname
be_steady
abuse come_and_go
abuse silent
end_steady
stop
check_file "$img" /vm.raw "$tmp/vm.shadow"

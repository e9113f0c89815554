#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Requests at and beyond the ends, that wrap around at 2^64, of no bytes
# and of 4 GiB - 1, misaligned, with every flag, and unknown ones: each is
# answered as it must be, and the bytes are right afterwards.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"
requires nbdcopy

rude_image
serve_file "$img" exportname
be_steady
abuse requests "$tmp/rude.shadow"
end_steady
bounded nbdcopy "$(uri_of rude.raw)" "$tmp/out"
same "$tmp/out" "$tmp/rude.shadow"
stop
check_file "$img" /vm.raw "$tmp/vm.shadow"
check_linux "$img" /rude.raw "$tmp/rude.shadow"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Clients that vanish in the middle of requests, with others under way: the
# next ones are served, and the image is clean.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"
no_leak_check

rude_image

# hang_up NBDKIT-ARGUMENTS...
hang_up ()
{
    serve_file "$img" exportname "$@"
    be_steady
    abuse hangup rude.raw "$(scaled 100)"
    end_steady
    stop
    check_file "$img" /vm.raw "$tmp/vm.shadow"
}

hang_up -t 1 --no-sr

nbdkit_outlives_clients ||
    skip "$("$NBDKIT" --version) aborts; fine with -t 1 --no-sr"
hang_up

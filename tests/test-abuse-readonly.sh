#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Nothing that a client sends to a read-only export changes the image.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"

rude_image
before=$(sum_of "$img")
serve_file "$img" exportname -r
abuse readonly
stop
unchanged "$img" "$before"

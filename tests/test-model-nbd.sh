#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Over the nbd plugin, as for an image on another machine.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_plugin nbd
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 9M 0:2M every=1M:30K
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
serve file "$img"
first=$pid first_job=$job
serve --filter=ext2 nbd uri="$uri" ext2file=/vm.raw
shadow -n "$(scaled 200)" -i "$tmp/src/vm.raw" -o "$tmp/shadow" "$uri"
stop
pid=$first job=$first_job
stop
check_file "$img" /vm.raw "$tmp/shadow"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Immutable, append-only and verity files are served read-only; the
# file beside them is not.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3 nbdcopy

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_raw "$tmp/src/other.raw" 100000
for case in "0x80010 immutable" "0x80020 append" "0x180000 verity"; do
    make_fs "$img" 16M -t ext4 -d "$tmp/src"
    debug "$img" "sif /vm.raw flags ${case% *}"
    served_readonly "${case#* }" "$img" /vm.raw "$tmp/src/vm.raw"
done
serve_file "$img" exportname
bounded nbdinfo --is readonly "$(uri_of vm.raw)"
if bounded nbdinfo --is readonly "$(uri_of other.raw)"; then
    fail "other.raw is read-only too"
fi
stop

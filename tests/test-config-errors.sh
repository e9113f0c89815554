#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Parameters that make no sense keep nbdkit from starting, with a
# message that names them.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1M 0:300K
make_fs "$img" 16M -t ext4 -d "$tmp/src"

# rejected MESSAGE ARGUMENTS...
rejected ()
{
    local message=$1
    shift
    log=$tmp/log-rejected
    if bounded "$NBDKIT" -U - --filter=ext2 file "$img" "$@" --run true \
               2>"$log"; then
        fail "accepted: $*"
    fi
    grep -E -q "error: .*$message" "$log" || fail "$*: no '$message'"
    check_log
    echo "rejected: $(grep -m1 error: "$log")"
}

rejected "ext2file"
rejected "ext2file" ext2file=/vm.raw ext2file=/vm.raw
rejected "ext2file" ext2file=vm.raw
rejected "ext2file" ext2file=
rejected "ext2cache|size" ext2file=/vm.raw ext2cache=many
if [ "$(getconf LONG_BIT)" = 32 ]; then
    rejected "ext2cache=4G: more than" ext2file=/vm.raw ext2cache=4G
else
    bounded "$NBDKIT" -U - --filter=ext2 file "$img" ext2file=/vm.raw \
            ext2cache=4G --run true
fi
rejected "ext2commit" ext2file=/vm.raw ext2commit=often
rejected "ext2commit" ext2file=/vm.raw ext2commit=-1
rejected "ext2commit=3601: .* at most 3600" ext2file=/vm.raw ext2commit=3601
rejected "ext2lock=lock" ext2file=/vm.raw ext2lock=lock
rejected "ext2lock=: " ext2file=/vm.raw ext2lock=
rejected "." ext2file=/vm.raw ext2nonsense=1
bounded "$NBDKIT" -U - --filter=ext2 file "$img" ext2file=/vm.raw \
        ext2cache=4M ext2commit=3600 ext2lock=off --run true

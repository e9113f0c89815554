#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# How much of its speed a well-behaved client keeps beside rude ones, each in
# pairs of windows with and without.  A measurement, which asserts bytes and
# life only.  For make abuse; by itself: abuse-share.sh [NBDKIT-ARGUMENTS].
#
# From the environment: ROUNDS of pairs (3), SECONDS_EACH (1.5), and KIND, a
# part of the name of those to be tried (all).

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3

img=$tmp/disk.img
mkdir -p "$tmp/src/many/sub"
make_raw "$tmp/src/vm.raw" 64M
make_raw "$tmp/src/known.raw" 8M
make_raw "$tmp/src/rude.raw" $(((5 << 30) + 777)) 0:64M
make_raw "$tmp/src/pieces.raw" 128M every=8K:4K
(cd "$tmp/src/many" && seq -f 'a_file_of_some_name_%.0f' 5000 | xargs touch)
make_fs "$img" 1G -t ext4 -d "$tmp/src"
cp "$tmp/src/vm.raw" "$tmp/vm.shadow"
nbdkit_outlives_clients || set -- -t 1 --no-sr "$@"
echo "$("$NBDKIT" --version), options: ${*:-none}"
serve_file "$img" exportname "$@"
pause=0 be_steady
ABUSE_SOCKET=$sock ABUSE_PID=$pid ABUSE_PROGRESS=$ABUSE_PROGRESS \
    python "$srcdir/abuse-share.py" "${ROUNDS:-3}" "${SECONDS_EACH:-1.5}" \
           ${KIND:+"$KIND"}
end_steady
stop
check_file "$img" /vm.raw "$tmp/vm.shadow"

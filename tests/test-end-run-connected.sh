#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# nbdkit --run with a command that ends without saying goodbye: replied
# writes are kept, the image is clean.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh
no_leak_check

img=$tmp/disk.img
make_raw "$tmp/vm.raw" 8M 0:2M
mkdir "$tmp/src"
cp --sparse=always "$tmp/vm.raw" "$tmp/src/vm.raw"
make_fs "$img" 32M -t ext4 -d "$tmp/src"
dirty_free "$img"
log=$tmp/log-run
cat > "$tmp/client.py" <<END
import os
for i in range(40):
    h.pwrite(b"x" * 50000, 1000000 + i * 150000)
os._exit(0)
END
export nbd_python tmp
# shellcheck disable=SC2016
bounded "$NBDKIT" -U - --filter=ext2 file "$img" ext2file=/vm.raw \
    --run '"$nbd_python" -m nbd -u "$uri" -c - < "$tmp/client.py"' 2>"$log"
check_log
python - <<END
with open("$tmp/vm.raw", "r+b") as f:
    for i in range(40):
        f.seek(1000000 + i * 150000)
        f.write(b"x" * 50000)
END
check_file "$img" /vm.raw "$tmp/vm.raw"

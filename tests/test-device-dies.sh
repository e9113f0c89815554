#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The image is on another machine that dies in the middle: requests fail,
# the server goes on answering and ends when it is told to, and the image
# has what was flushed.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_plugin nbd
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 2M 0:600K every=300K:30K

for fs in "ext4 -b 4096" "ext2 -b 1024"; do
    # shellcheck disable=SC2086
    make_fs "$img" 16M -t $fs -d "$tmp/src"
    serve file "$img"
    other=$pid
    serve --filter=ext2 nbd uri="$uri" ext2file=/vm.raw
    rules=$tmp/none
    shadow_script <<END
import os, signal, nbd
assert s.write(1000, b"flushed" * 5000) is None
assert s.flush() is None
# Some are under way when it dies.
data = [nbd.Buffer.from_bytearray(bytearray(65536)) for i in range(20)]
cookies = [h.aio_pwrite(data[i], 1000000 + 3 * 4096 * i) for i in range(20)]
os.kill($other, signal.SIGKILL)
failed = 0
for c in cookies:
    try:
        while not h.aio_command_completed(c):
            h.poll(-1)
    except nbd.Error:
        failed += 1
s.forget(1000000, len(s.data) - 1000000)
assert s.write(0, b"x" * 5000), "written to a dead device"
assert s.flush()
try:
    h.pread(4096, 0)
    raise AssertionError("read from a dead device")
except nbd.Error as e:
    print("%d of the requests under way failed, then %s" % (failed, e.errno))
s.save("$tmp/now")
END
    stop
    forget_job "$other"
    e2fsck -fp "$img" >"$tmp/fsck" 2>&1 || [ $? -eq 1 ] ||
        { cat "$tmp/fsck"; fail "e2fsck -p does not do"; }
    dump "$img" /vm.raw "$tmp/out"
    same "$tmp/out" "$tmp/now" mask="$tmp/now.mask"
done

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A device that does not answer one client's request: another client of the
# same file, and of another file, is served meanwhile, flushes included.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 2M 0:1M
make_raw "$tmp/src/other.raw" 1M 0:300K
make_fs "$img" 16M -t ext4 -b 4096 -d "$tmp/src"
at=$(($(debugfs -R "bmap /vm.raw 3" "$img" 2>/dev/null) * 4096))
[ $at -gt 0 ] || fail "where is vm.raw?"

for call in pread pwrite; do
    serve_faulty "$img" exportname
    uri=$(uri_of vm.raw)
    shadow_script <<END
import os, time, nbd
rule("hold $call $at")
slow = nbd.NBD()
slow.connect_uri("$(uri_of vm.raw)")
buf = nbd.Buffer.from_bytearray(bytearray(b"S" * 4096))
if "$call" == "pread":
    cookie = slow.aio_pread(buf, 3 * 4096)
else:
    cookie = slow.aio_pwrite(buf, 3 * 4096)
    s.data[3 * 4096:4 * 4096] = b"S" * 4096
while not os.path.exists("$rules.held"):
    slow.poll(10)
other = nbd.NBD()
other.connect_uri("$(uri_of other.raw)")
o = Shadowed(other)
for t in (o, s):
    assert t.write(400000, b"hole" * 5000) is None
    assert t.write(800000, b"over" * 5000, nbd.CMD_FLAG_FUA) is None
    assert t.zero(600000, 50000) is None
    assert t.trim(655360, 65536) is None
    assert t.flush() is None
    assert t.h.pread(20000, 800000) == b"over" * 5000
o.check()
assert not slow.aio_command_completed(cookie)
rule("")
while not slow.aio_command_completed(cookie):
    slow.poll(-1)
s.check()
s.save("$tmp/now")
END
    stop
    check_clean "$img"
    dump "$img" /vm.raw "$tmp/out"
    same "$tmp/out" "$tmp/now"
done

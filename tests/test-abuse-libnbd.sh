#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# The same by libnbd, told not to look at what it sends: requests that make
# no sense get an error each and change nothing; thousands in flight on
# several connections are all answered, and rightly.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
# shellcheck source=tests/abuse.sh
source "$srcdir/abuse.sh"
requires_nbdsh

rude_image
serve_file "$img" exportname
be_steady
uri=$(uri_of rude.raw)
MANY=$(scaled 1000) SHADOW=$tmp/rude.shadow nbd_script <<'END'
import os, random

size = h.get_size()
shadow = os.open(os.environ["SHADOW"], os.O_RDONLY)
MOST, LAST = (1 << 32) - 1, (1 << 64) - 1

h.set_strict_mode(0)
def refused(f, *args, **kw):
    try:
        f(*args, **kw)
    except nbd.Error as e:
        assert e.errno in ("EINVAL", "ENOSPC", "EPERM"), (f, args, e.errno)
    else:
        raise SystemExit("not refused: %s %s" % (f.__name__, args))

for offset in size, size - 1, size + 4095, 1 << 63, LAST - 1, LAST:
    refused(h.pread, 2, offset)
    refused(h.pwrite, b"xx", offset)
    for n in 2, 4096, MOST:
        for f in h.trim, h.zero, h.cache:
            refused(f, n, offset)
        refused(h.block_status, n, offset, lambda *a: 0)
for f in h.trim, h.zero, h.cache:
    refused(f, 0, 0)
refused(h.pread, 0, 0)
refused(h.pwrite, b"", 0)
for flags in 1 << 7, 0xffff:
    refused(h.pread, 1, 0, flags)
    refused(h.pwrite, b"x", 0, flags)
assert h.pread(4096, 0) == os.pread(shadow, 4096, 0)

# Thousands in flight.
rng = random.Random(6)
clients = []
for _ in range(3):
    c = nbd.NBD()
    c.connect_uri(h.get_uri())
    clients.append(c)
asked = []
for i in range(int(os.environ["MANY"])):
    for c in clients:
        n = rng.choice((1, 512, 4096, 30000))
        offset = rng.choice((0, 5 << 20, 1 << 32, size - 90000))
        offset += rng.randrange(50000)
        buf = nbd.Buffer(n)
        asked.append((c, buf, n, offset, c.aio_pread(buf, offset)))
most = sum(c.aio_in_flight() for c in clients)
print("in flight: %d" % most)
for c, buf, n, offset, cookie in asked:
    while not c.aio_command_completed(cookie):
        c.poll(-1)
    assert buf.to_bytearray() == os.pread(shadow, n, offset), offset
for c in clients:
    c.shutdown()
END
end_steady
bounded nbdcopy "$uri" "$tmp/out"
same "$tmp/out" "$tmp/rude.shadow"
stop
# libnbd has not refused them itself.
n=$(grep -c 'invalid request' "$log" || :)
[ "$n" -ge 90 ] || fail "only $n bad requests have come to the server"
check_file "$img" /vm.raw "$tmp/vm.shadow"

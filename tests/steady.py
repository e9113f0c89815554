#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""steady.py SOCKET EXPORT SHADOW PROGRESS [PAUSE]

A well-behaved client: reads, writes and flushes one request after the
other, and checks every byte it reads against SHADOW, a copy of the
export that it keeps up to date.  The number of requests done so far is
in the file PROGRESS (8 bytes).  PAUSE: seconds between two requests.
SIGTERM: ends after the current request.
"""

import mmap
import random
import signal
import struct
import sys
import time

import rawnbd

MOST = 16384                            # bytes of a request


def main():
    path, export, shadow_name, progress_name = sys.argv[1:5]
    pause = float(sys.argv[5]) if len(sys.argv) > 5 else 0
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    with open(progress_name, "wb") as f:
        f.write(bytes(8))
    with open(progress_name, "r+b") as f:
        progress = mmap.mmap(f.fileno(), 8)
    with open(shadow_name, "r+b") as f:
        shadow = mmap.mmap(f.fileno(), 0)
    c, size, _ = rawnbd.connect(path, export.encode())
    assert size == len(shadow), size
    rng = random.Random(export)
    done = 0
    while not ended:
        count = rng.choice((1, 512, 4096, 4096, 4096, MOST))
        offset = rng.randrange(size - count)
        offset -= offset % min(count, 4096)
        kind = rng.randrange(100)
        if kind < 60:
            a = c.call(rawnbd.READ, offset, count)
            assert a.data == shadow[offset:offset + count], \
                "wrong bytes at %d, %d of them" % (offset, count)
        elif kind < 99:
            data = rng.randbytes(count)
            a = c.call(rawnbd.WRITE, offset, count, data=data)
            shadow[offset:offset + count] = data
        else:
            a = c.call(rawnbd.FLUSH)
        assert a.error == 0, a.error
        done += 1
        progress[:] = struct.pack("Q", done)
        if pause:
            time.sleep(pause)
    c.request(rawnbd.DISC)
    c.close()
    print("steady: %d requests" % done)


main()

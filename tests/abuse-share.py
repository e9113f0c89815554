#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""abuse-share.py ROUNDS SECONDS [KIND...]

What is left to a well-behaved client (steady.py) beside a rude one: its
speed in windows of so many seconds with and without abuse by turns, as
a ratio: the median of the rounds, the worst, and the best.  The rude
client runs at a lower priority: what it takes of the processors itself is
not the server's doing.
"""

import ctypes
import multiprocessing
import os
import random
import statistics
import struct
import sys
import threading
import time

import rawnbd
from abuse import SOCKET, steady_done
from abuse_requests import LAST, MOST, message
from rawnbd import (CACHE, FLUSH, FUA, NO_HOLE, READ, STATUS, TRIM, WRITE,
                    ZERO, Raw, queries, string)


def end_with_parent():
    ctypes.CDLL(None).prctl(1, 9)


def endlessly(name, batch, structured=False, connections=1):
    """Requests without an end, and answers thrown away."""
    def run():
        c, size, _ = rawnbd.connect(SOCKET, name, structured)
        rng = random.Random()

        def pump():
            while True:
                c.send(b"".join(batch(rng, size)))
        threading.Thread(target=pump, daemon=True).start()
        while c.s.recv(1 << 20):
            pass
    for _ in range(connections - 1):
        if os.fork() == 0:
            end_with_parent()
            break
    run()


def read_large(rng, size):
    return [message(READ, i, 0, 64 << 20) for i in range(16)]


def read_small(rng, size):
    return [message(READ, i, rng.randrange((8 << 20) - 65536), 65536)
            for i in range(16)]


def write_large(rng, size):
    return [message(WRITE, 0, 0, 16 << 20), bytes(16 << 20)]


def beyond(rng, size):
    return [message(TRIM, i, LAST - i, MOST) for i in range(500)]


def status(rng, size):
    return [message(STATUS, i, 0, min(size, MOST)) for i in range(16)]


def cache(rng, size):
    return [message(CACHE, i, 0, min(size, MOST)) for i in range(16)]


def flushes(rng, size):
    return [message(FLUSH, 0, 0, 0)] * 100


def fua(rng, size):
    """Each allocates or frees, and is durable by itself."""
    at = rng.randrange(size >> 12) << 12
    return [message(WRITE, 0, at, 4096, FUA), bytes(4096),
            message(TRIM, 1, at, 4096, FUA)]


def trims(rng, size):
    return [message(TRIM, 0, 1, MOST), message(ZERO, 0, 0, MOST),
            message(WRITE, 0, rng.randrange(size - 9), 9), bytes(9)]


def zeros(rng, size):
    at = rng.randrange(size - (32 << 20))
    return [message(ZERO, 0, at, 32 << 20, NO_HOLE),
            message(TRIM, 0, at, 32 << 20)]


def fragment(rng, size):
    """Ever more pieces."""
    return [b for at in (rng.randrange(size >> 13) << 13 for _ in range(100))
            for b in (message(WRITE, 0, at, 4096), bytes(4096))]


def come_and_go():
    while True:
        c = Raw(SOCKET, greet=False)
        c.send(struct.pack(">I", 3))
        c.close()


def come_and_read():
    while True:
        c, _, _ = rawnbd.connect(SOCKET, b"known.raw")
        c.call(READ, 0, 4096)
        c.close()


def many_options(option, data):
    while True:
        c = Raw(SOCKET)
        for _ in range(32):
            c.option(option, data)
        for _ in range(32):
            c.replies()
        c.close()


def names():
    while True:
        many_names = string(b"x%x" % random.randrange(1 << 60)) + bytes(2)
        c = Raw(SOCKET)
        for _ in range(32):
            c.option(rawnbd.OPT_GO, many_names)
        for _ in range(32):
            c.replies()
        c.close()


def silent():
    waiting = [Raw(SOCKET) for _ in range(500)]
    time.sleep(1e6)
    return waiting


def unread():
    """Thousands under way whose answers are never read."""
    c, _, _ = rawnbd.connect(SOCKET, b"known.raw")
    c.send(b"".join(message(READ, i, 0, 65536) for i in range(5000)))
    time.sleep(1e6)


KINDS = {
    "an honest client that reads": lambda: endlessly(b"known.raw", read_small),
    "four of them": lambda: endlessly(b"known.raw", read_small, False, 4),
    "reads of 64 MiB": lambda: endlessly(b"rude.raw", read_large),
    "writes of 16 MiB": lambda: endlessly(b"rude.raw", write_large),
    "requests beyond the end": lambda: endlessly(b"rude.raw", beyond),
    "block status of 4 GiB in pieces":
        lambda: endlessly(b"pieces.raw", status, True),
    "cache of 4 GiB": lambda: endlessly(b"rude.raw", cache),
    "flushes": lambda: endlessly(b"rude.raw", flushes),
    "writes and trims with FUA": lambda: endlessly(b"rude.raw", fua),
    "trims and zeros of 4 GiB": lambda: endlessly(b"rude.raw", trims),
    "allocating zeros of 32 MiB": lambda: endlessly(b"rude.raw", zeros),
    "writes into holes": lambda: endlessly(b"rude.raw", fragment),
    "answers never read": unread,
    "500 silent clients": silent,
    "connections that come and go": come_and_go,
    "clients that read once": come_and_read,
    "NBD_OPT_LIST": lambda: many_options(rawnbd.OPT_LIST, b""),
    "NBD_OPT_INFO": lambda: many_options(
        rawnbd.OPT_INFO, string(b"known.raw") + bytes(2)),
    "NBD_OPT_LIST_META_CONTEXT of 4 MiB": lambda: many_options(
        rawnbd.OPT_LIST_META, queries(b"known.raw", [b"x"] * 800000)),
    "distinct names": names,
    "a path of 600 directories of 5,000 files": lambda: many_options(
        rawnbd.OPT_INFO, string(b"many/sub/../sub/.." * 200 + b"x") +
        bytes(2)),
}


def rude(kind):
    os.nice(10)
    end_with_parent()
    try:
        KINDS[kind]()
    except (rawnbd.Gone, BrokenPipeError):
        pass


def speed(seconds):
    before, began = steady_done(), time.monotonic()
    time.sleep(seconds)
    return (steady_done() - before) / (time.monotonic() - began)


def main():
    rounds, seconds = int(sys.argv[1]), float(sys.argv[2])
    kinds = [k for k in KINDS
             if len(sys.argv) == 3 or any(a in k for a in sys.argv[3:])]
    if not Raw(SOCKET).ask(rawnbd.OPT_STRUCTURED):
        kinds = [k for k in kinds if "status" not in k]
    print("share of a well-behaved client beside a rude one (1 = undisturbed)")
    print("%6s  %5s ... %-5s" % ("median", "worst", "best"))
    for kind in kinds:
        shares = []
        for _ in range(rounds):
            alone = speed(seconds)
            assert alone > 0, "the well-behaved client is not served"
            p = multiprocessing.Process(target=rude, args=(kind,))
            p.start()
            time.sleep(0.3)
            shares.append(speed(seconds) / alone)
            p.kill()
            p.join()
            time.sleep(0.5)
        print("%6.2f  %5.2f ... %-5.2f  %s" % (
            statistics.median(shares), min(shares), max(shares), kind),
            flush=True)


main()

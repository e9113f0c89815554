# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The rows about scale: fragmented files, a huge filesystem, many clients."""

import contextlib
import os
import re
import statistics
import time

from contenders import DIST, OURS, RAW, Server
from load import Background, Failed, client_load
from measure import BURSTS, ROUNDS_IN_PLACE, Cell, Sample
from rows import MIB, MOVE, START, in_flight, with_cpu

PACKED = "packed"


# --- A file in very many extents ---------------------------------------------

STEP = 8192                     # bytes from one extent to the next


def fragmented_sample(bench, server, verb, extents, connections):
    """Random 4 KiB, of the same blocks in either file."""
    r, cpu = with_cpu(server, lambda: client_load(
        bench.tools.client("client-load"), server.uri, o=verb, b=4096,
        S=STEP, l=extents * STEP, p="random", c=connections,
        d=in_flight(connections), t=bench.short))
    side = r["write" if verb == "w" else "read"]
    return Sample(r["requests"] / r["seconds"], side["p99"], cpu)


def read_all(bench, server, extents):
    """How much memory of the server reading every extent has taken."""
    before = server.memory()
    client_load(bench.tools.client("client-load"), server.uri, o="r",
                b=4096, S=STEP, l=extents * STEP, p="seq", d=16)
    return server.memory() - before


def fragmented(bench):
    extents = bench.fragments
    packed_image = bench.images.packed(extents)
    image = bench.images.fragmented(extents)
    first_byte(bench, image, "fragmented",
               f"open to first byte, {extents:,} extents", 50)
    with Server(bench.tools, OURS, packed_image) as packed, \
         Server(bench.tools, OURS, image) as server:
        # One client stays, or the filesystem would be closed in between.
        with packed.steps() as step_p, server.steps() as step_s:
            for s, step in (packed, step_p), (server, step_s):
                step("connect", s.uri)
                step("read", 0, 4096)
            one = read_all(bench, packed, extents)
            many = read_all(bench, server, extents)
            bench.fact("fragmented", "memory after reading all of it, more "
                       "than for the file in one piece, per extent",
                       (many - one) / extents, "bytes", 16)

            def move():
                for i in packed_image, image:
                    bench.images.warm(i)

            for verb, name in ("r", "reads"), ("w", "overwrites"):
                for n in 1, 16:
                    cell = Cell(
                        "fragmented", f"random {name} 4 KiB, {extents:,} "
                        f"extents, {n} connection{'s'[:n > 1]}", PACKED,
                        target=0.95,
                        titles={PACKED: "this filter, file in one piece"})
                    bench.compare(cell, {
                        PACKED: lambda v=verb, n=n: fragmented_sample(
                            bench, packed, v, extents, n),
                        OURS: lambda v=verb, n=n: fragmented_sample(
                            bench, server, v, extents, n)},
                        precise=True, bursts=BURSTS, again=move)


def fragmented_estimate(bench):
    return (bench.fragments / 10000 + 10 +
            4 * bench.most * BURSTS * (
                2 * (bench.short + START) + 10 * MOVE / ROUNDS_IN_PLACE))


# --- Trimming a fragmented gigabyte ------------------------------------------

def trim(bench):
    """Readers of the rest of the file, alone, then while it is trimmed."""
    extents = bench.fragments
    length = min(1024 * MIB, extents * 8192 // 3)
    length -= length % 8192
    source = bench.images.fragmented(extents)
    program = bench.tools.client("client-load")
    seconds = max(2.0, bench.seconds)
    durations = []

    def readers(server, limit):
        return Background(program, server.uri, o="r", b=4096, S=8192,
                          s=length, l=extents * 8192 - length, p="random",
                          c=4, d=1, t=limit)

    def sample(r):
        return Sample(r["requests"] / r["seconds"], r["read"]["p99"], None,
                      r["read"]["max"])

    stack = contextlib.ExitStack()      # the server of one pair, its image
    server = None

    def alone():
        nonlocal server
        stack.close()
        image = bench.images.copy(source, bench.tools.scratch("img"))
        stack.callback(os.unlink, image)
        server = stack.enter_context(Server(bench.tools, OURS, image))
        # Its tree is in the cache before; that is not what is asked here.
        client_load(program, server.uri, o="r", b=4096, S=8192,
                    l=extents * 8192, d=16)
        return sample(readers(server, seconds).result())

    def beside_trim():
        if server is None:
            raise Failed("there is no server")
        r = readers(server, 300)
        try:
            time.sleep(0.3)
            with server.steps() as step:
                step("connect", server.uri)
                durations.append(step("trim", 0, length))
                step("flush")
        finally:
            result = r.stop()
        return sample(result)

    cell = Cell("trim", f"4 KiB reads, 4 connections, while a fragmented "
                f"{length // MIB} MiB is trimmed and flushed", "alone",
                worst_target=50_000,
                titles={"alone": "this filter, nobody else"})
    with stack:
        bench.compare(cell, {"alone": alone, OURS: beside_trim})
    if cell.worst() is not None:
        bench.fact("trim", "worst latency of the readers", cell.worst() / 1000,
                   "ms", 50,
                   f"{(cell.worst('alone') or 0) / 1000:.1f} ms alone")
        bench.fact("trim", f"the trim of {length // MIB} MiB itself",
                   statistics.median(durations), "ms")


def trim_estimate(bench):
    return bench.pairs * (2 * max(2.0, bench.seconds) +
                          bench.fragments / 30000 + 1)


# --- A filesystem of 16 TiB --------------------------------------------------

def first_byte(bench, image, row, what, limit, rss_limit=None):
    """A new server each time, as it would be after a restart."""
    times, sizes, beside = [], [], []
    for _ in range(bench.pairs):
        with Server(bench.tools, OURS, image, options=["-r"]) as server:
            with server.steps() as step:
                times.append(step("connect", server.uri) +
                             step("read", 0, 4096))
                sizes.append(server.memory("Rss") / MIB)
    if bench.can(DIST):
        with Server(bench.tools, DIST, image, options=["-r"]) as server:
            with server.steps() as step:
                ms = step("connect", server.uri) + step("read", 0, 4096)
                beside.append(f"distribution's filter {ms:.0f} ms")
    bench.fact(row, what, statistics.median(times), "ms", limit,
               ", ".join(beside))
    if rss_limit is not None:
        bench.fact(row, "resident memory then", statistics.median(sizes),
                   "MiB", rss_limit)


WRITTEN = re.compile(r"\b(Write|Zero|Trim) id=\d+ .*?count=0x([0-9a-f]+)")


def device_writes(log, offset):
    """(number, bytes) of writes in the log filter's file from an offset."""
    with open(log, encoding="utf-8", errors="replace") as f:
        f.seek(offset)
        counts = [int(m.group(2), 16) for line in f
                  for m in [WRITTEN.search(line)]
                  if m and m.group(1) == "Write" and "..." in line]
    return len(counts), sum(counts)


def huge(bench):
    image, size = bench.images.huge()
    name = f"{size / (1 << 40):.3g} TiB"
    if size == (16 << 40) - 4096:
        name += " less 4 KiB"     # all that a file on ext4 can have
    elif size < 16 << 40:
        name += " (the largest file here)"
    groups = -(-size // (128 * MIB))
    what = f"{name}, {groups:,} groups"
    first_byte(bench, image, "huge", f"open to first byte, {what}", 150, 64)

    first, writes, octets, flushes = [], [], [], []
    for i in range(bench.pairs):
        log = bench.tools.scratch("log")
        with Server(bench.tools, OURS, image, beneath=["log"],
                    options=[f"logfile={log}"]) as server:
            with server.steps() as step:
                step("connect", server.uri)
                step("read", 0, 4096)
                base = (i + 1) << 36
                first.append(step("write", base, 4096))
                step("flush")
                # Ten blocks, far from each other.
                for j in range(10):
                    step("write", base + ((j + 1) << 30), 4096)
                at = os.path.getsize(log)
                flushes.append(step("flush"))
                n, b = device_writes(log, at)
                writes.append(n)
                octets.append(b)
    holes_at_once(bench, image)
    bench.fact("huge", "first write to a hole", statistics.median(first),
               "ms", 20)
    bench.fact("huge", "written by a flush after ten new blocks",
               statistics.median(octets) / 4096, "blocks of 4 KiB", 99,
               f"{statistics.median(writes):.0f} writes, "
               f"{statistics.median(flushes):.1f} ms")


def holes_at_once(bench, image):
    """A TiB of holes, in requests of 2 GiB, one after the other."""
    with Server(bench.tools, OURS, image) as server, server.steps() as step:
        step("connect", server.uri)
        step("read", 0, 4096)
        size = min(1 << 40, os.path.getsize(image) // 8)
        start = os.path.getsize(image) // 4
        for verb in "trim", "zero":
            ms = sum(step(verb, start + i, 2 << 30)
                     for i in range(0, size, 2 << 30))
            bench.fact("huge", f"{verb} of {size >> 30} GiB of holes, in "
                       f"{size >> 31} requests", ms, "ms")


def huge_estimate(bench):
    return bench.pairs + 4


# --- Very many clients -------------------------------------------------------

def held(bench, kind, image, names, path):
    """Memory with one client and with one for each of the names."""
    options = ["-t", "1"]       # or threads would be most of it
    with Server(bench.tools, kind, image, path, options=options) as server:
        with server.steps() as step:
            sizes = []
            for name in names:
                uri = server.uri.replace("///", f"///{name}")
                step("connect", uri)
                step("read", 0, 512)
                if not sizes:
                    sizes.append(server.memory())
            sizes.append(server.memory())
    return sizes


def clients(bench):
    n = bench.clients
    image = bench.images.files(n)
    raw = os.path.join(bench.tools.directory, "clients.raw")
    with open(raw, "wb") as f:
        f.write(os.urandom(MIB))
    same, different, plain = [], [], []
    for _ in range(min(3, bench.pairs)):
        a, b = held(bench, RAW, raw, [""] * n, None)
        plain.append((b - a) / (n - 1))
        a, b = held(bench, OURS, image, [""] * n, "/0")
        same.append((b - a) / (n - 1) - plain[-1])
        a, b = held(bench, OURS, image, [str(i) for i in range(n)],
                    "exportname")
        different.append((b - a) / (n - 1) - plain[-1])
    os.unlink(raw)
    beside = (f"less the {statistics.median(plain) / 1024:.1f} KiB that a "
              "client of a raw file costs nbdkit")
    bench.fact("clients", f"memory per extra client, {n} clients of one file",
               statistics.median(same) / 1024, "KiB", 4, beside)
    bench.fact("clients", f"memory per extra client, {n} files",
               statistics.median(different) / 1024, "KiB", None, beside)


def clients_estimate(bench):
    return min(3, bench.pairs) * 3 * (1 + bench.clients / 500) + 3


ROWS = {
    "fragmented": ("a file in very many extents", fragmented,
                   fragmented_estimate),
    "trim": ("readers while a fragmented GiB is trimmed", trim,
             trim_estimate),
    "huge": ("a filesystem of 16 TiB", huge, huge_estimate),
    "clients": ("memory of 1000 open exports", clients, clients_estimate),
}

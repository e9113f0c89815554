# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The rows that compare speed on ready files: reading, overwriting, mixed,
filling, FUA, and other clients beside a busy one."""

import contextlib
import mmap
import os
import time

from contenders import DIST, FUSE, LINUX, OURS, RAW, THIN, Server
from load import Background, Failed, client_load, fio
from measure import BURSTS, ROUNDS_IN_PLACE, Cell, Sample

KIB, MIB = 1024, 1024 * 1024
START = 0.1                     # seconds beside a measurement
MOVE = 0.8                      # seconds for reading an image in anew


def in_flight(connections):
    """Per connection: 16 in all, or one each."""
    return max(1, 16 // connections)


def size_name(n):
    return f"{n // MIB} MiB" if n >= MIB else f"{n // KIB} KiB"


def with_cpu(server, call):
    """What call returns, and the server's CPU per request in us."""
    before = server.cpu()
    result = call()
    requests = result["requests"]
    return result, (server.cpu() - before) * 1e6 / max(1, requests)


def ready_memory(size):
    """The machine may be a virtual one that gets its memory as it touches
    it, and is rid of what it frees.  What is filled takes its size in page
    cache, on a loop mount twice; who meets memory that is not there yet
    takes three times as long."""
    with mmap.mmap(-1, size) as m:
        for at in range(0, size, mmap.PAGESIZE):
            m[at] = 1


def warm(bench, server, size, block=MIB, step=None):
    client_load(bench.tools.client("client-load"), server.uri, o="r",
                b=block, S=step or block, l=size)


# --- Reading, overwriting, mixed ---------------------------------------------

def keep_open(stack, server):
    """A client that stays, so that the filesystem is not unmounted after
    each measurement.  That writes all data to disk in the server's time,
    which of the others nobody does."""
    stack.enter_context(server.steps())("connect", server.uri)


@contextlib.contextmanager
def plain_servers(bench):
    """Everybody who can run, with the same file, warm."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in RAW, THIN, OURS, LINUX, DIST, FUSE:
            if not bench.can(kind):
                continue
            image = bench.images.plain(kind, bench.size)
            try:
                s = stack.enter_context(Server(bench.tools, kind, image))
                if kind in (LINUX, FUSE):
                    bench.images.warm(s.file)
                warm(bench, s, bench.size)
                if kind == OURS:
                    keep_open(stack, s)
                servers[kind] = s
            except Failed as e:
                bench.failures.append(f"{kind}: {e}")
        yield servers


def move(bench, servers):
    """New places in the page cache for those who are compared."""
    for kind in RAW, THIN, OURS:
        if kind in servers:
            bench.images.warm(servers[kind].image)


def timed_sample(bench, server, rw, block, connections):
    """Not fio: its jobs each run for so long from a start of their own, so
    that with many the first have ended before the last begin."""
    side = "w" if "write" in rw else "r"
    r, cpu = with_cpu(server, lambda: client_load(
        bench.tools.client("client-load"), server.uri, o=side, b=block,
        p="random" if rw.startswith("rand") else "seq", l=bench.size,
        c=connections, d=in_flight(connections), t=bench.short))
    p99 = r["write" if side == "w" else "read"]["p99"]
    return Sample(r["requests"] / r["seconds"], p99, cpu)


def add_absent(bench, cell, connections=1):
    for kind in LINUX, DIST, FUSE:
        if not bench.can(kind, connections):
            cell.absent[kind] = bench.why_not(kind)


def among_others(connections):
    """The others are asked where it says most, or it takes too long."""
    return connections in (1, 16)


def speed_row(row, rw, block):
    kind = "random" if rw.startswith("rand") else "sequential"
    verb = "overwrites" if "write" in rw else "reads"
    what = f"{kind} {verb} {size_name(block)}"

    def measure(bench):
        with plain_servers(bench) as servers:
            for n in bench.connections:
                cell = Cell(row, f"{what}, {n} connection{'s'[:n > 1]}", RAW,
                            target=0.97,
                            cpu_target=1.05 if verb == "reads" else None)
                add_absent(bench, cell, n)
                bench.compare(cell, {
                    k: lambda s=s, n=n: timed_sample(bench, s, rw, block, n)
                    for k, s in servers.items()
                    if k in (RAW, THIN, OURS)
                    or among_others(n) and bench.can(k, n)},
                    full=(THIN,), precise=True, bursts=BURSTS,
                    again=lambda: move(bench, servers))

    def estimate(bench):
        n = len(bench.connections)
        few = len([c for c in bench.connections if among_others(c)])
        runs = BURSTS * (bench.most * n * 3 + bench.others * few * 3)
        return (runs * (bench.short + START)
                + n * bench.most * BURSTS / ROUNDS_IN_PLACE * 3 * MOVE
                + bench.size / (60 * MIB))

    return measure, estimate


BLOCK_MAPPED = [("randread", 4 * KIB), ("randread", 64 * KIB),
                ("randwrite", 4 * KIB), ("randwrite", 64 * KIB)]


def blocks(bench):
    """A file that is mapped by blocks, as on ext2 and ext3."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in RAW, OURS:
            servers[kind] = stack.enter_context(Server(
                bench.tools, kind, bench.images.blocks(kind, bench.size)))
            warm(bench, servers[kind], bench.size)
        keep_open(stack, servers[OURS])

        for rw, block in BLOCK_MAPPED:
            verb = "overwrites" if "write" in rw else "reads"
            cell = Cell("blocks", f"random {verb} {size_name(block)}, mapped "
                        "by blocks (ext3), 4 connections", RAW, target=0.97)
            bench.compare(cell, {
                k: lambda s=s, rw=rw, b=block: timed_sample(bench, s, rw, b, 4)
                for k, s in servers.items()}, precise=True, bursts=BURSTS,
                again=lambda: move(bench, servers))


def blocks_estimate(bench):
    rounds = len(BLOCK_MAPPED) * bench.most * BURSTS
    return (rounds * 2 * (bench.short + START + MOVE / ROUNDS_IN_PLACE)
            + bench.size / (60 * MIB))


def mixed(bench):
    """Half reads, half overwrites of 4 KiB; flushes in between."""
    program = bench.tools.client("client-load")

    def sample(server, every, n):
        r, cpu = with_cpu(server, lambda: client_load(
            program, server.uri, o="rw", f=every, b=4096, p="random",
            l=bench.size, c=n, d=in_flight(n), t=bench.short))
        return Sample(r["requests"] / r["seconds"], r["read"]["p99"], cpu)

    with plain_servers(bench) as servers:
        for every in 100, 1000:
            for n in 1, 16:
                cell = Cell("mixed", "random 4 KiB, half overwrites, flush "
                            f"every {every}, {n} connection{'s'[:n > 1]}",
                            RAW, target=0.97)
                add_absent(bench, cell, n)
                bench.compare(cell, {
                    k: lambda s=s, e=every, n=n: sample(s, e, n)
                    for k, s in servers.items()
                    if k in (RAW, OURS) or bench.can(k, n)},
                    precise=True, bursts=BURSTS,
                    again=lambda: move(bench, servers))


def mixed_estimate(bench):
    return 4 * BURSTS * (
        (bench.most * 2 + bench.others * 3) * (bench.short + START)
        + bench.most / ROUNDS_IN_PLACE * 3 * MOVE)


# --- Filling -----------------------------------------------------------------

def fill_sample(bench, kind, rw, connections):
    """From the first write until all is on the image's disk."""
    # fuse2fs would take minutes.
    size = min(bench.fill, 64 * MIB) if kind == FUSE else bench.fill
    image = bench.images.holes(kind, size, bench.tools.scratch("img"))
    ready_memory(size * 4)
    try:
        server = Server(bench.tools, kind, image)
        with server:
            before = server.cpu()
            r = fio(server.uri, rw, 64 * KIB, size, connections,
                    max(1, 16 // connections))
            cpu = (server.cpu() - before) * 1e6 / r["requests"]
            begin = time.monotonic()
            with server.steps() as step:
                step("connect", server.uri)
                if kind != DIST:      # it has no flush to speak of
                    step("flush")
            server.stop()
            fd = os.open(image, os.O_RDWR)
            os.fsync(fd)
            os.close(fd)
            end = time.monotonic()
        return Sample(r["bytes"] / (r["seconds"] + end - begin), r["p99"], cpu)
    finally:
        os.unlink(image)


def fill(bench):
    reference = LINUX if bench.can(LINUX) else RAW
    for order, rw in ("sequential", "write"), ("random", "randwrite"):
        note = None if reference == LINUX else "no loop mount; see raw"
        cell = Cell("fill", f"{order} 64 KiB into "
                    f"{bench.fill // MIB} MiB of holes, 4 connections",
                    reference, "bytes",
                    target=1.0 if reference == LINUX else None, note=note)
        add_absent(bench, cell, 4)
        bench.compare(cell, {
            k: lambda k=k, rw=rw: fill_sample(bench, k, rw, 4)
            for k in dict.fromkeys((reference, OURS, RAW, DIST, FUSE))
            if bench.can(k, 4)})


def fill_estimate(bench):
    return 2 * (bench.pairs * 2 + bench.others * 2) * (
        1 + bench.fill / (140 * MIB))


# --- FUA into holes ----------------------------------------------------------

def fua_sample(bench, kind, depth):
    image = bench.images.holes(kind, 1024 * MIB, bench.tools.scratch("img"))
    try:
        with Server(bench.tools, kind, image) as server:
            r, cpu = with_cpu(server, lambda: client_load(
                bench.tools.client("client-load"), server.uri, o="W",
                b=4096, p="permuted", d=depth, t=bench.seconds))
        return Sample(r["requests"] / r["seconds"], r["write"]["p99"], cpu)
    finally:
        os.unlink(image)


def fua(bench):
    reference = LINUX if bench.can(LINUX) else RAW
    for depth in 1, 16:
        cell = Cell("fua", f"4 KiB writes with FUA into holes, {depth} in "
                    "flight", reference,
                    target=1.0 if reference == LINUX else None)
        add_absent(bench, cell)
        bench.compare(cell, {
            k: lambda k=k, d=depth: fua_sample(bench, k, d)
            for k in dict.fromkeys((reference, OURS, RAW, DIST, FUSE))
            if bench.can(k)})


def fua_estimate(bench):
    return 2 * (bench.pairs * 2 + bench.others * 3) * (bench.seconds + 1.0)


# --- One client busy, the others not to notice -------------------------------

# What the busy client does, alone on its connection, one in flight.  The
# first does nothing special: it shows what one client more costs the others.
JUST_OVERWRITES = "overwrites"
BUSY = {
    JUST_OVERWRITES: {"o": "w", "b": 16384, "p": "permuted"},
    "fills": {"o": "w", "b": 16384, "p": "seq"},
    "fills and trims": {"o": "wt", "b": 65536, "p": "permuted"},
    "flushes new blocks": {"o": "wf", "b": 4096, "p": "permuted"},
}
# And at a pace that leaves the processors to the others, so that what is
# left is waiting: how many requests a second.
PACED = {
    "fills": (2000, "32 MiB/s"),
    "fills and trims": (1000, "32 MiB/s"),
    "flushes new blocks": (400, "200 times a second"),
}
HOLES = 6 * 1024 * MIB


def busy_clients(paced):
    """(what it does, its options, target or not)"""
    for what, options in BUSY.items():
        if not paced:
            yield what, options, what != JUST_OVERWRITES
        elif what in PACED:
            rate, words = PACED[what]
            yield f"{what}, {words}", {**options, "r": rate}, True


def beside(bench, paced):
    """Each pair: the clients alone, then beside a busy one.  The raw file
    shows what the shared processors alone cost."""
    program = bench.tools.client("client-load")
    data = min(bench.size, 256 * MIB)
    slices = iter(range(1 << 30))

    def victims(server, verb):
        # No CPU: the server's is that of the busy client too.
        r = client_load(program, server.uri, o=verb, b=4096, p="random",
                        l=data, c=4, d=1, t=bench.seconds)
        side = r["write" if verb == "w" else "read"]
        return Sample(r["requests"] / r["seconds"], side["p99"], None,
                      side["max"])

    def beside_busy(server, verb, options, holes):
        part, start = data, 0
        if holes:
            part = HOLES // 40
            start = data + next(slices) % 40 * part
        ready_memory(part)
        busy = Background(program, server.uri, s=start, l=part,
                          t=bench.seconds + 0.4, **options)
        try:
            time.sleep(0.2)
            return victims(server, verb)
        finally:
            busy.result()

    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in RAW, OURS:
            image = bench.images.half(kind, data, HOLES)
            servers[kind] = stack.enter_context(
                Server(bench.tools, kind, image))
            warm(bench, servers[kind], data)
            if kind == OURS:
                keep_open(stack, servers[kind])
        for what, options, judged in busy_clients(paced):
            for verb, name in ("r", "reads"), ("w", "overwrites"):
                cell = Cell(
                    "paced" if paced else "beside",
                    f"4 KiB {name}, 4 connections, while another client "
                    f"{what}", "alone",
                    target=0.8 if judged else None,
                    p99_target=3 if judged else None,
                    against={RAW: "raw alone"},
                    titles={"alone": "this filter, nobody else"})
                measures = {}
                for label, s in ("raw alone", RAW), ("alone", OURS):
                    measures[label] = (
                        lambda s=servers[s], v=verb: victims(s, v))
                    measures[s] = (
                        lambda s=servers[s], v=verb, o=options, h=judged:
                        beside_busy(s, v, o, h))
                bench.compare(cell, measures, full=(RAW, "raw alone"),
                              precise=paced)


def beside_estimate(bench, paced):
    cells = 2 * (len(PACED) if paced else len(BUSY))
    pairs = bench.most if paced else bench.pairs
    return cells * pairs * (4 * bench.seconds + 1.4) + 4


# Name: (what it measures, function, estimate in seconds).
ROWS = {}
for _verb, _rw in ("read", "read"), ("write", "write"):
    for _name, _block, _random in (("4k", 4 * KIB, "rand"),
                                   ("64k", 64 * KIB, "rand"), ("1m", MIB, "")):
        ROWS[f"{_verb}-{_name}"] = (
            f"{'random' if _random else 'sequential'} "
            f"{'reads' if _verb == 'read' else 'overwrites'}",
            *speed_row(f"{_verb}-{_name}", _random + _rw, _block))
ROWS["blocks"] = ("a file mapped by blocks", blocks, blocks_estimate)
ROWS["mixed"] = ("half reads, half overwrites, with flushes", mixed,
                 mixed_estimate)
ROWS["fill"] = ("filling holes, against Linux on a loop mount", fill,
                fill_estimate)
ROWS["fua"] = ("FUA writes into holes, against Linux on a loop mount", fua,
               fua_estimate)
ROWS["beside"] = (
    "other clients while one fills, trims or flushes as fast as it can",
    lambda bench: beside(bench, False),
    lambda bench: beside_estimate(bench, False))
ROWS["paced"] = (
    "other clients while one does so at a steady pace",
    lambda bench: beside(bench, True),
    lambda bench: beside_estimate(bench, True))

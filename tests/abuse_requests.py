# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""Abuse after the handshake: requests that make no sense, are too large,
too many, or never end.  See abuse.py."""

import os
import random
import struct
import threading

import rawnbd
from abuse import SOCKET, Memory, others_are_served, scaled
from rawnbd import (CACHE, DF, EINVAL, ENOMEM, ENOSPC, ENOTSUP, EPERM,
                    FAST_ZERO, FUA, NO_HOLE, READ, REQ_ONE, STATUS, TRIM,
                    WRITE, ZERO, Gone)

MOST = (1 << 32) - 1                    # bytes a request can name
LAST = (1 << 64) - 1                    # offset
PAYLOAD = 64 << 20                      # bytes of data nbdkit takes


class Export:
    """The abused export: all its bytes are known."""

    def __init__(self, name, shadow):
        self.c, self.size, self.flags = rawnbd.connect(
            SOCKET, name.encode(), structured=True)
        self.shadow = os.open(shadow, os.O_RDWR)
        assert os.fstat(self.shadow).st_size == self.size

    def expect(self, errors, cmd, offset=0, count=0, flags=0, data=b""):
        a = self.c.call(cmd, offset, count, flags, data)
        assert a.error in errors, \
            "command %d of %d bytes at %d, flags %#x: error %d, not %s" % (
                cmd, count, offset, flags, a.error, errors)
        return a

    def read(self, offset, count):
        a = self.expect([0], READ, offset, count)
        assert a.data == os.pread(self.shadow, count, offset), \
            "wrong bytes at %d, %d of them" % (offset, count)

    def write(self, offset, data, flags=0):
        self.expect([0], WRITE, offset, len(data), flags, data)
        os.pwrite(self.shadow, data, offset)

    def zero(self, offset, count, flags=0):
        if self.expect([0] + [ENOTSUP] * bool(flags & FAST_ZERO),
                       ZERO, offset, count, flags).error == 0:
            os.pwrite(self.shadow, bytes(count), offset)

    def trim(self, offset, count, flags=0):
        """Each byte is what it was, or zero."""
        self.expect([0], TRIM, offset, count, flags)
        old = os.pread(self.shadow, count, offset)
        new = self.expect([0], READ, offset, count).data
        assert len(new) == count
        assert all(n in (0, o) for n, o in zip(new, old)), "trim at %d" % offset
        os.pwrite(self.shadow, new, offset)

    def forget(self, offset, count):
        """All of it is zero from now on."""
        end = min(offset + count, self.size)
        while offset < end:
            try:
                offset = os.lseek(self.shadow, offset, os.SEEK_DATA)
            except OSError:
                break
            # To the edge of a block, or the next one becomes data as well.
            n = min((1 << 20) - offset % (1 << 20), end - offset)
            if n > 0:
                os.pwrite(self.shadow, bytes(n), offset)
                offset += n


# --- ranges, sizes, flags, commands

def bad_ranges(size):
    """Offset and count that are not within the export."""
    yield from ((size, 1), (size - 1, 2), (size - 1, MOST), (size - 5, MOST),
                (0, 0), (size - 1, 0), (size, 0), (size + 1, 0), (LAST, 0))
    for bit in (31, 32, 33, 40, 62, 63):
        if 1 << bit > size:
            yield from (((1 << bit) - 1, 2), (1 << bit, 1), (1 << bit, MOST))
    # Beyond 2^64 it begins anew at 0, at 1, and inside.
    yield from ((LAST, 1), (LAST, 2), (LAST - MOST + 1, MOST), (LAST, MOST),
                (LAST - 9, 4096 + 10), (LAST - 4095, 8192))


def outside(e):
    for offset, count in bad_ranges(e.size):
        for cmd in (READ, TRIM, CACHE, ZERO, STATUS):
            for flags in (0, FUA, REQ_ONE if cmd == STATUS else 0,
                          NO_HOLE if cmd == ZERO else 0):
                e.expect([EINVAL, ENOSPC], cmd, offset, count, flags)
        if count <= 1 << 20:
            e.expect([EINVAL, ENOSPC], WRITE, offset, count, data=bytes(count))


def flags_and_commands(e):
    allowed = {READ: FUA | DF, WRITE: FUA, TRIM: FUA, CACHE: FUA,
               ZERO: FUA | NO_HOLE | FAST_ZERO, STATUS: FUA | REQ_ONE}
    at = e.size - 4096 - 777            # a hole
    for cmd, good in allowed.items():
        for bit in range(16):
            flag = 1 << bit
            data = bytes(700) if cmd == WRITE else b""
            e.expect([0, ENOTSUP] if flag & good else [EINVAL],
                     cmd, at, 700, flag, data)
        e.expect([EINVAL], cmd, at, 700, 0xffff, bytes(700 * (cmd == WRITE)))
    for cmd in (8, 9, 255, 256, 32768, 65535):
        for flags in (0, FUA, 0xffff):
            e.expect([EINVAL], cmd, 0, 0, flags)
            e.expect([EINVAL], cmd, LAST, MOST, flags)
    e.expect([EINVAL], rawnbd.FLUSH, 1, 0)
    e.expect([EINVAL], rawnbd.FLUSH, 0, 1)
    e.expect([0], rawnbd.FLUSH, flags=FUA)


def misaligned(e, rng):
    """Odd pieces around edges of blocks, and the last bytes."""
    for _ in range(scaled(300)):
        edge = rng.choice((0, 1 << 16, 5 << 20, 1 << 32, e.size))
        offset = edge + rng.randrange(-9000, 9000)
        count = rng.choice((1, 2, 511, 513, 1023, 4097, 7777))
        offset = max(0, min(offset, e.size - count))
        flags = rng.choice((0, 0, FUA))
        rng.choice((
            lambda: e.read(offset, count),
            lambda: e.write(offset, rng.randbytes(count), flags),
            lambda: e.zero(offset, count, flags),
            lambda: e.zero(offset, count, flags | NO_HOLE),
            lambda: e.zero(offset, count, flags | FAST_ZERO),
            lambda: e.trim(offset, count, flags)))()


def largest(e):
    """As much as a request can name."""
    e.expect([ENOMEM], READ, 0, MOST)
    e.expect([ENOMEM], READ, 0, PAYLOAD + 1)
    for offset in (0, 4097, e.size - MOST):
        e.expect([0], CACHE, offset, MOST)
        a = e.expect([0], STATUS, offset, MOST)
        assert a.extents and sum(n for n, _ in a.extents) <= MOST
        a = e.expect([0], STATUS, offset, MOST, REQ_ONE)
        assert len(a.extents) == 1 and a.extents[0][0] <= MOST
    # There is no such room: an error, and nobody else's bytes.
    e.expect([ENOSPC], ZERO, e.size - MOST, MOST, NO_HOLE)
    e.expect([0], ZERO, e.size - MOST, MOST, FUA)
    e.forget(e.size - MOST, MOST)
    e.expect([0], TRIM, 1, MOST, FUA)
    e.expect([0], ZERO, 1, MOST)
    e.forget(1, MOST)


def too_much_data():
    """A write of more than nbdkit will take, or skip, ends it all."""
    for count in (2 * PAYLOAD + 1, MOST):
        c, _, _ = rawnbd.connect(SOCKET, b"rude.raw")
        c.request(WRITE, 0, count)
        try:
            c.send(bytes(1 << 20))
            c.answer()
            assert False, "a write of %d bytes was answered" % count
        except Gone:
            pass
    # Up to there it is skipped.
    c, _, _ = rawnbd.connect(SOCKET, b"rude.raw")
    c.request(WRITE, 0, PAYLOAD + 1, data=bytes(PAYLOAD + 1))
    assert c.answer().error == ENOMEM
    assert c.call(READ, 0, 1).error == 0


def no_magic():
    c, _, _ = rawnbd.connect(SOCKET, b"rude.raw")
    c.request(READ, 0, 1, magic=0)
    try:
        c.answer()
        assert False, "a request without magic was answered"
    except Gone:
        pass


def requests(shadow):
    """All that one request can be."""
    rng = random.Random(1)
    e = Export("rude.raw", shadow)
    outside(e)
    flags_and_commands(e)
    misaligned(e, rng)
    others_are_served()
    largest(e)
    misaligned(e, rng)
    too_much_data()
    no_magic()
    e.read(0, 100000)
    e.read(e.size - 100000, 100000)


def readonly():
    """Nothing that would write gets through."""
    c, size, flags = rawnbd.connect(SOCKET, b"rude.raw")
    assert flags & 2, "the export is not read-only"
    for cmd in (WRITE, TRIM, ZERO):
        for offset, count in ((0, 1), (4096, 8192), (size - 1, 1)):
            for flag in (0, FUA):
                a = c.call(cmd, offset, count, flag,
                           b"x" * count if cmd == WRITE else b"")
                assert a.error == EPERM, (cmd, a.error)
    assert c.call(rawnbd.FLUSH).error in (0, EINVAL)


# --- many at once

def message(cmd, cookie, offset, count, flags=0):
    return struct.pack(">IHHQQI", rawnbd.REQUEST_MAGIC, flags, cmd, cookie,
                       offset, count)


def inflight(name, shadow):
    """Thousands of requests before the first answer is read.

    The server holds as many buffers as it has workers, however many
    requests there are.
    """
    rng = random.Random(2)
    with open(shadow, "rb") as f:
        known = f.read()
    memory = None
    for _ in range(3):
        c, _, _ = rawnbd.connect(SOCKET, name.encode())
        asked = {}
        for cookie in range(scaled(2000)):
            count = rng.choice((1, 4096, 65536))
            asked[cookie] = (rng.randrange(len(known) - count), count)
            c.sizes[cookie] = count
        out = b"".join(message(READ, i, *asked[i]) for i in asked)
        sender = threading.Thread(target=c.send, args=(out,), daemon=True)
        sender.start()
        others_are_served()
        while asked:
            a = c.answer()
            offset, count = asked.pop(a.cookie)
            assert a.error == 0 and a.data == known[offset:offset + count]
        sender.join()
        c.close()
        if memory:
            memory.check("requests under way", 16 * 64)
        memory = Memory()


def status(name):
    """Block status of a file in very many pieces, many times at once."""
    memory = None
    for _ in range(2):
        c, size, _ = rawnbd.connect(SOCKET, name.encode(), structured=True)
        whole = c.call(STATUS, 0, size)
        pieces = len(whole.extents)
        assert sum(n for n, _ in whole.extents) == size
        assert pieces > 10000, pieces
        n = scaled(12)
        out = b"".join(message(STATUS, i, 0, size, i % 2 and REQ_ONE)
                       for i in range(n))
        sender = threading.Thread(target=c.send, args=(out,), daemon=True)
        sender.start()
        others_are_served()
        for _ in range(n):
            a = c.answer()
            assert a.status == (whole.status[:8] if a.cookie % 2
                                else whole.status)
        sender.join()
        c.close()
        if memory:
            # What nbdkit keeps of a reply: 24 bytes an extent, twice that
            # while the list grows, and 8 to be sent.
            memory.check("block status", 16 * pieces * 56 // 1024)
        memory = Memory()


def hangup(name, times):
    """Leaves in the middle of requests, with others under way."""
    rng = random.Random(3)
    structured = rawnbd.Raw(SOCKET).ask(rawnbd.OPT_STRUCTURED)
    for i in range(int(times)):
        c = rawnbd.Raw(SOCKET)
        if structured:
            c.structured(name.encode())
        size, _ = c.go(name.encode())
        out = [message(READ, 100, 0, 4096)]
        for cookie in range(rng.randrange(60)):
            cmd = rng.choice((READ, READ, WRITE, TRIM, ZERO, CACHE, STATUS))
            count = rng.choice((1, 4096, 65536, 300000))
            offset = rng.randrange(size - count)
            flags = rng.choice((0, FUA))
            out.append(message(cmd, cookie, offset, count, flags))
            if cmd == WRITE:
                out.append(bytes(count))
            if cookie % 16 == 15:
                out.append(message(rawnbd.FLUSH, cookie, 0, 0))
        out.append(rng.choice((
            b"", b"\x25\x60", message(WRITE, 99, 0, 65536),
            message(WRITE, 99, 0, 65536) + bytes(65535))))
        out = b"".join(out)
        c.s.setblocking(False)
        try:
            c.s.send(out)
        except (BlockingIOError, BrokenPipeError):
            pass
        if i % 2:
            c.s.setblocking(True)
            try:
                c.s.recv(100)
            except OSError:
                pass
        c.close()

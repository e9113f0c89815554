# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The NBD protocol by hand, for clients that do not keep to it.

Every field of every message is the caller's to choose.  Formats: NBD's
doc/proto.md.  A server that hangs up raises Gone, one that stays silent
for LIMIT seconds Silent.
"""

import os
import socket
import struct
import time

LIMIT = int(os.environ.get("NBD_TEST_LIMIT", "300"))

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST = 1, 2, 3
OPT_INFO, OPT_GO, OPT_STRUCTURED = 6, 7, 8
OPT_LIST_META, OPT_SET_META = 9, 10
REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
REP_ERROR = 1 << 31
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)

OPTION_MAGIC = 0x49484156454F5054       # "IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x67446698, 0x668E33EF
CHUNK_DONE = 1                          # flag
CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS = 1, 2, 5
CHUNK_ERROR = 1 << 15

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, ENOTSUP = 1, 5, 12, 22, 28, 95


class Gone(Exception):
    """The server closed the connection."""


class Silent(Exception):
    """The server does not answer."""


class Answer:
    """The whole reply to one request."""

    def __init__(self, cookie):
        self.cookie = cookie
        self.error = 0
        self.data = b""
        self.status = b""               # block status as sent

    @property
    def extents(self):
        """[(bytes, flags)]"""
        return list(struct.iter_unpack(">II", self.status))


class Raw:
    """One connection.  Sends what it is told to, without looking."""

    def __init__(self, path, greet=True, flags=3):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.s.settimeout(LIMIT)
        end = time.monotonic() + LIMIT
        while True:
            try:
                self.s.connect(path)
                break
            except BlockingIOError:     # the server's queue is full
                assert time.monotonic() < end, "no connection"
                time.sleep(0.001)
        self.received = b""
        self.sizes = {}                 # of reads under way, by cookie
        self.next_cookie = 1
        if greet:
            self.greeting = self.take(18)
            self.send(struct.pack(">I", flags))

    def close(self):
        self.s.close()

    def send(self, data):
        try:
            self.s.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Gone() from e
        except socket.timeout as e:
            raise Silent() from e

    def take(self, count):
        """Exactly count bytes."""
        parts = [self.received[:count]]
        self.received = self.received[count:]
        count -= len(parts[0])
        while count > 0:
            try:
                part = self.s.recv(min(count, 1 << 20))
            except ConnectionResetError as e:
                raise Gone() from e
            except socket.timeout as e:
                raise Silent() from e
            if not part:
                raise Gone()
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    # --- handshake

    def option(self, option, data=b"", length=None, magic=OPTION_MAGIC):
        self.send(struct.pack(">QII", magic, option,
                              len(data) if length is None else length) + data)

    def reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == REPLY_MAGIC, hex(magic)
        return option, kind, self.take(length)

    def replies(self):
        """All replies to an option: [(kind, data)], the last one ends it."""
        got = []
        while not got or REP_ACK < got[-1][0] < REP_ERROR:
            got.append(self.reply()[1:])
        return got

    def ask(self, option, data=b""):
        """True if the server acknowledges."""
        self.option(option, data)
        return self.replies()[-1][0] == REP_ACK

    def info(self, name, infos=(), option=OPT_INFO):
        """The replies by kind of information, or None."""
        self.option(option, string(name) + struct.pack(
            ">H%dH" % len(infos), len(infos), *infos))
        got = self.replies()
        if got.pop()[0] != REP_ACK:
            return None
        return {struct.unpack(">H", d[:2])[0]: d[2:] for _, d in got}

    def go(self, name):
        """(size, flags) of the export, or None."""
        got = self.info(name, (), OPT_GO)
        return got and struct.unpack(">QH", got[INFO_EXPORT])

    def structured(self, name):
        """Makes block status possible, before go."""
        assert self.ask(OPT_STRUCTURED)
        self.option(OPT_SET_META, queries(name, [b"base:allocation"]))
        got = self.replies()
        assert [kind for kind, _ in got] == [REP_META, REP_ACK], got

    # --- requests

    def request(self, cmd, offset=0, count=0, flags=0, data=b"",
                magic=REQUEST_MAGIC):
        """Returns the cookie."""
        cookie = self.next_cookie
        self.next_cookie += 1
        if cmd == READ:
            self.sizes[cookie] = count
        self.send(struct.pack(">IHHQQI", magic, flags, cmd, cookie, offset,
                              count) + data)
        return cookie

    def answer(self):
        """The next whole reply; a simple one to a read has its data."""
        magic = struct.unpack(">I", self.take(4))[0]
        if magic == SIMPLE_MAGIC:
            error, cookie = struct.unpack(">IQ", self.take(12))
            a = Answer(cookie)
            a.error = error
            if not error and cookie in self.sizes:
                a.data = self.take(self.sizes[cookie])
        else:
            assert magic == STRUCTURED_MAGIC, hex(magic)
            a = self.chunks()
        self.sizes.pop(a.cookie, None)
        return a

    def chunks(self):
        """nbdkit sends all chunks of a reply without others in between."""
        a = None
        flags = 0
        while not flags & CHUNK_DONE:
            if a:
                assert struct.unpack(">I", self.take(4))[0] == STRUCTURED_MAGIC
            flags, kind, cookie, length = struct.unpack(">HHQI", self.take(16))
            a = a or Answer(cookie)
            assert a.cookie == cookie
            body = self.take(length)
            if kind & CHUNK_ERROR:
                a.error = struct.unpack(">I", body[:4])[0]
            elif kind == CHUNK_DATA:
                a.data += body[8:]
            elif kind == CHUNK_HOLE:
                a.data += bytes(struct.unpack(">I", body[8:])[0])
            elif kind == CHUNK_STATUS:
                a.status += body[4:]
        return a

    def call(self, cmd, offset=0, count=0, flags=0, data=b""):
        """One request and its answer."""
        cookie = self.request(cmd, offset, count, flags, data)
        a = self.answer()
        assert a.cookie == cookie, (a.cookie, cookie)
        return a


def string(s):
    """As options have it."""
    return struct.pack(">I", len(s)) + s


def queries(name, contexts):
    """The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_..."""
    return (string(name) + struct.pack(">I", len(contexts)) +
            b"".join(string(c) for c in contexts))


def connect(path, name, structured=False):
    """A connection that is past its handshake; its size and flags."""
    c = Raw(path)
    if structured:
        c.structured(name)
    got = c.go(name)
    assert got, "no export %r" % name
    return (c,) + got

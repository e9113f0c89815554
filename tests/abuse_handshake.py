# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""Abuse before the first request: names, options, and clients that come
and go or never say a word.  See abuse.py."""

import os
import random
import struct

import rawnbd
from abuse import SOCKET, Memory, others_are_served, scaled
from rawnbd import (EINVAL, INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_NAME,
                    OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST,
                    OPT_LIST_META, OPT_SET_META, OPT_STRUCTURED, READ,
                    REP_ACK, REP_ERROR, STATUS, Gone, Raw, queries, string)

INFOS = (INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 4, 65535)
MAX_OPTION = 64 << 20                   # bytes of data nbdkit takes
MAX_OPTIONS = 32                        # a client may send


def dropped(c):
    """The server hangs up, or answers with errors until it does."""
    try:
        while True:
            assert c.reply()[1] >= REP_ERROR
    except Gone:
        c.close()


# --- names

# All of them lead to vm.raw, the first by the longest name there can be.
FOUND = [
    b"./" * 2044 + b"/vm.raw",
    b"vm.raw", b"/vm.raw", b"//vm.raw", b"../vm.raw", b"/../../vm.raw",
    b"sub/../vm.raw", b"sub/../../../vm.raw", b"sub/./..//vm.raw",
]

NOT_FOUND = [
    b"", b"/", b".", b"..", b"../..", b"/etc/passwd", b"../../etc/passwd",
    b"sub", b"sub/", b"vm.raw/", b"vm.raw/..", b"vm.raw/.", b" ", b"vm.raw ",
    b"VM.RAW", b"x" * 255, b"x" * 256, b"x" * 4096, b"/" * 4096, b"../" * 1365,
    b"sub/../" * 585, b"x/" * 2048, b"\n", b"vm.raw\n", b"\r\n\x1b[2J",
    b"nbdkit: error: all is lost\n" * 100, b"%s%n%n%n%99999d" * 50,
    b"\xff\xfe", b"\xc0\xaf..\xc0\xaf", b"\xed\xa0\x80", b"\x80" * 4096,
    b"\xe2\x80\xae", bytes(range(1, 256)),
]

INVALID = [
    b"\0", b"vm.raw\0", b"vm.raw\0.txt", b"\0vm.raw", b"x" * 4097,
    b"vm.raw/" + b"x" * 65536, b"x" * (1 << 20),
]


def export_name(name):
    """By the option that cannot be refused but by hanging up."""
    c = Raw(SOCKET)
    c.option(OPT_EXPORT_NAME, name)
    try:
        return c, struct.unpack(">QH", c.take(10))
    except Gone:
        return c, None


def names():
    """What a client can ask for."""
    size = os.stat(os.environ["ABUSE_FILE"]).st_size
    for name in FOUND:
        c = Raw(SOCKET)
        got = c.info(name, INFOS)
        assert got, name
        assert struct.unpack(">QH", got[rawnbd.INFO_EXPORT])[0] == size
        c.structured(name)
        assert c.go(name)[0] == size
        assert c.call(STATUS, 0, size).error == 0
        c, got = export_name(name)
        assert got[0] == size
        assert c.call(READ, 0, 1).error == 0
    for name in NOT_FOUND + INVALID:
        c = Raw(SOCKET)
        assert c.info(name, INFOS) is None, name
        assert c.go(name) is None, name
        assert c.ask(OPT_STRUCTURED)
        c.option(OPT_SET_META, queries(name, [b"base:allocation"]))
        c.replies()
        # The connection can still be used.
        got = c.go(b"vm.raw")
        assert got and got[0] == size
        assert c.call(STATUS, 0, size).error == EINVAL
        assert c.call(READ, size - 1, 1).error == 0
        assert export_name(name)[1] is None, name
    others_are_served()


# --- options

def malformed():
    """Data of GO and others that contradict themselves."""
    bad = [b"", b"\0", bytes(5), struct.pack(">IH", 1, 0),
           struct.pack(">IH", 0xffffffff, 0), struct.pack(">IH", 0, 65535),
           struct.pack(">IH", 0, 1), string(b"vm.raw"),
           string(b"vm.raw") + b"\0\1", string(b"vm.raw") + bytes(100),
           struct.pack(">IH", 0xfffffffa, 0), struct.pack(">I", 7) + bytes(6)]
    c = Raw(SOCKET)
    for data in bad:
        assert not c.ask(OPT_GO, data), data
        assert not c.ask(OPT_INFO, data), data
    c = Raw(SOCKET)
    assert c.ask(OPT_STRUCTURED)
    bad = [b"", bytes(7), struct.pack(">II", 0xffffffff, 1),
           string(b"vm.raw"), string(b"vm.raw") + b"\xff" * 4,
           string(b"vm.raw") + struct.pack(">II", 1, 0xffffffff),
           queries(b"vm.raw", [b"x" * 4097]),
           queries(b"vm.raw", [b"base:\0allocation"]),
           queries(b"vm.raw", [b"base:allocation"])[:-1]]
    for data in bad:
        assert not c.ask(OPT_SET_META, data), data
        assert not c.ask(OPT_LIST_META, data), data
    assert c.go(b"vm.raw")


def unknown():
    c = Raw(SOCKET)
    for option in (4, 12, 255, 1 << 16, 1 << 31, 0xffffffff):
        assert not c.ask(option)
        assert not c.ask(option, b"x" * 100000)
    for option in (OPT_LIST, OPT_STRUCTURED):
        assert not c.ask(option, b"x" * 1000)
    assert c.go(b"vm.raw")
    # Neither what is no option at all, nor what is too long.
    for send in (lambda c: c.option(OPT_LIST, magic=0),
                 lambda c: c.option(OPT_GO, length=MAX_OPTION + 1),
                 lambda c: c.option(OPT_GO, length=0xffffffff),
                 lambda c: c.option(OPT_ABORT),
                 lambda c: c.request(READ, 0, 4096),
                 lambda c: c.request(rawnbd.WRITE, 0, 9, data=bytes(9)),
                 lambda c: c.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")):
        c = Raw(SOCKET)
        try:
            send(c)
            assert c.reply()[1:] == (REP_ACK, b""), "an answer"
            c.take(1)
            assert False, "the server goes on"
        except Gone:
            pass
    for flags in (4, 1 << 31, 0xffffffff):
        dropped(Raw(SOCKET, flags=flags))
    # An old client knows EXPORT_NAME only.
    c = Raw(SOCKET, flags=0)
    assert not c.ask(OPT_LIST)
    c.option(OPT_EXPORT_NAME, b"vm.raw")
    c.take(10 + 124)
    assert c.call(READ, 0, 1).error == 0


def largest():
    """Options as large as they can be."""
    memory = None
    for size in (100000, scaled(MAX_OPTION, MAX_OPTION)):
        c = Raw(SOCKET)
        assert c.ask(OPT_STRUCTURED)
        head = string(b"vm.raw")
        n = (size - len(head) - 4) // 4
        # That many empty queries, none of which means anything.
        data = head + struct.pack(">I", n) + bytes(4 * n)
        assert c.ask(OPT_SET_META, data)
        assert c.ask(OPT_LIST_META, data)
        # A thousand that have an answer each.
        many = queries(b"vm.raw", [b"base:allocation"] * 1000)
        for option in (OPT_LIST_META, OPT_SET_META):
            c.option(option, many)
            assert len(c.replies()) == 1001
        assert not c.ask(77, bytes(size))
        assert c.go(b"vm.raw")
        assert c.call(STATUS, 0, 1).error == 0
        c.close()
        if memory:
            memory.check("large options", MAX_OPTION // 1024)
        memory = Memory()
    others_are_served()


def storms():
    """As many options as a connection may send, again and again."""
    def storm(option, data, most):
        for _ in range(scaled(4)):
            c = Raw(SOCKET)
            for _ in range(most):
                c.option(option, data)
            for _ in range(most):
                c.replies()
            if most == MAX_OPTIONS:
                dropped(c)
            c.close()

    go = string(b"vm.raw") + struct.pack(">H5H", 5, *INFOS)
    memory = None
    for _ in range(3):
        storm(OPT_LIST, b"", MAX_OPTIONS)
        storm(OPT_INFO, go, MAX_OPTIONS)
        storm(OPT_INFO, string(b"nothing") + bytes(2), MAX_OPTIONS)
        storm(OPT_LIST_META, queries(b"vm.raw", []), MAX_OPTIONS)
        if memory:
            memory.check("storms of options")
        memory = Memory()
    others_are_served()


def options():
    """All that can be said in a handshake."""
    malformed()
    unknown()
    largest()
    storms()


# --- silent ones, and those who come and go

def silent():
    """Clients that stop in the middle of a handshake keep nobody else
    from theirs, and when they leave, nothing is left."""
    go = struct.pack(">QII", rawnbd.OPTION_MAGIC, OPT_GO, 12)
    go += string(b"vm.raw") + bytes(2)
    memory = None
    for _ in range(2):
        waiting = []
        # The server has 3 descriptors for each.
        for i in range(scaled(200, 300)):
            c = Raw(SOCKET, greet=i % 4 > 0)
            c.send(go[:i % len(go)] if i % 4 > 1 else b"")
            waiting.append(c)
        others_are_served()
        # One goes on, a byte at a time.
        c = Raw(SOCKET)
        for i in range(len(go)):
            c.send(go[i:i + 1])
        assert c.replies()[-1][0] == REP_ACK
        assert c.call(READ, 0, 1).error == 0
        for c in waiting:
            c.close()
        if memory:
            memory.check("silent clients")
        memory = Memory()
    others_are_served()


def come_and_go():
    """Connections that are dropped, at any point of the handshake."""
    rng = random.Random(4)
    whole = struct.pack(">I", 3)
    for option, data in ((OPT_LIST, b""), (OPT_STRUCTURED, b""),
                         (OPT_SET_META, queries(b"vm.raw",
                                                [b"base:allocation"])),
                         (OPT_INFO, string(b"vm.raw") + bytes(2)),
                         (OPT_GO, string(b"vm.raw") + bytes(2))):
        whole += struct.pack(">QII", rawnbd.OPTION_MAGIC, option, len(data))
        whole += data
    memory = None
    for _ in range(3):
        for _ in range(scaled(700)):
            c = Raw(SOCKET, greet=False)
            c.send(whole[:rng.randrange(len(whole) + 1)])
            if rng.randrange(2):
                c.take(18)
            c.close()
        if memory:
            memory.check("connections that come and go")
        memory = Memory()
        others_are_served()


def distinct_names(n):
    """Names that were never heard before, each once."""
    rng = random.Random(5)
    memory = None
    for times in (1, 1, 4):
        for _ in range(scaled(int(n)) * times // 31):
            c = Raw(SOCKET)
            for i in range(31):
                name = b"%x/" % rng.randrange(1 << 60) * rng.randrange(1, 99)
                data = string(name) + bytes(2)
                c.option(OPT_GO if i % 2 else OPT_INFO, data)
            for i in range(31):
                assert c.replies()[-1][0] >= REP_ERROR
            c.close()
        if memory:
            memory.check("%d distinct names" % (scaled(int(n)) * times))
        memory = Memory()

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
"""Writes the inputs that fuzzing starts from: corpus/HARNESS/seed-*.

The numbers are those of fuzz-case.h and fuzz-base.h.
"""

import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"

# Images, by what they are good for.
BLOCKS, EXTENTS = [0, 1, 11, 14], [2, 3, 4, 5, 6, 8, 12]
JOURNALS, ALL = [1, 3, 5, 6, 8, 10, 13], range(16)

# Classes of places.
(SUPER, DESC, BLOCK_BITMAP, INODE_BITMAP, INODE, TREE, DIR, JOURNAL, ORPHAN,
 MMP, DATA, FREE) = range(12)

SET8, SET16, SET32, SET64, SET32_BIG, ADD32, POINT, COPY, FILL, EXTENT, \
    NAME, BECOME = range(1, 13)
LOG_BLOCK, LOG_REVOKE, LOG_COMMIT, LOG_START = range(32, 36)
MEANWHILE = 48
READ, WRITE, ZERO, TRIM, STATUS, CACHE, FLUSH, CLOSE, REOPEN, LOOKUP = \
    range(64, 74)
READONLY, DIRTY = 2, 64
FAULTS = range(1, 6)


def record(kind, class_=0, index=0, at=0, value=0):
    return struct.pack("<BBHIQ", kind, class_, index, at,
                       value & 0xffffffffffffffff)


def head(image, flags=0, fault=0, at=0):
    return record(image, flags, fault, at)


def other(class_, index, by=0):
    return class_ | index << 8 | (by & 255) << 24


def request(kind, file, offset, count, data=1, flags=0):
    return record(kind, flags, file, offset, count | data << 24)


seeds = {}


def seed(harness, *records):
    seeds.setdefault(harness, []).append(b"".join(records))


WORK = [
    request(WRITE, 0, 3000, 5000), request(TRIM, 0, 8192, 16384),
    request(ZERO, 0, 40000, 9000), request(ZERO, 1, 4096, 8192, flags=2),
    record(FLUSH), request(WRITE, 4, 30000, 9000),
    request(TRIM, 2, 1000, 5000),
    request(STATUS, 4, 0, 200000), request(TRIM, 1, 0, 0xffffff, flags=1),
    request(WRITE, 3, 10, 50), record(FLUSH), request(READ, 0, 0, 65536),
]


def opening():
    for image in ALL:
        seed("open", head(image))
        seed("open", head(image, READONLY))
    # The journal's UUID, an error that it has recorded, a larger device.
    seed("open", head(3), record(SET32, SUPER, 0, 208, 1))
    seed("open", head(3), record(SET32_BIG, JOURNAL, 0, 32, -5))
    seed("open", record(0, value=38), record(SET32, SUPER, 0, 4, 1 << 28))


def mapping():
    for image in BLOCKS + EXTENTS:
        seed("map", head(image), *WORK)
        seed("map", head(image), record(POINT, TREE, 0, 16, other(TREE, 1)),
             *WORK)
        seed("map", head(image), record(POINT, INODE, 10, 88,
                                        other(DATA, 30)), *WORK)
    # Into an inode table.
    for image in [0, 1, 11, 14]:
        seed("map", head(image),
             *(record(POINT, INODE, i, 40, other(INODE, i + 40))
               for i in range(3, 12)),
             *(request(WRITE, file, 0, 1024) for file in range(4)))
    for image in EXTENTS:
        seed("map", head(image),
             record(EXTENT, TREE, 1, 3, 7 | 32768 << 32 | 500 << 48), *WORK)


def journals():
    for image in JOURNALS:
        log = [record(LOG_BLOCK, INODE, 9, 16, 0x10),
               *(record(LOG_BLOCK, DATA, i, 5, 0x1234)
                 for i in (3, 8, 13, 18, 23)),
               record(LOG_COMMIT, at=1000),
               record(LOG_REVOKE, DATA, 3),
               record(LOG_BLOCK, DATA, 4, 0, 0x99),
               record(LOG_COMMIT, at=1001)]
        seed("journal", head(image, DIRTY), *log)
        seed("journal", head(image, DIRTY),
             record(LOG_START, at=1000, value=0xfffffffe), *log, *log)
        seed("journal", head(image, DIRTY), record(LOG_BLOCK, SUPER, 0, 0, 0),
             record(LOG_COMMIT))
        seed("journal", head(image, DIRTY), *log,
             record(SET32_BIG, JOURNAL, 0, 40, 0x12))


def paths():
    for image in [0, 3, 4, 5, 8, 11, 12, 14]:
        seed("path", head(image),
             *(record(LOOKUP, 0, 3, 0xfff, v)
               for v in (0x21, 0x5321, 0x6, 0x7, 0x31, 0xb, 0xe, 0xd8)))
        seed("path", head(image), record(SET16, DIR, 0, 4, 1024),
             record(LOOKUP, 0, 1, 0, 0x10))
        seed("path", head(image), record(NAME, DIR, 1, 24, 2 | 1000 << 32
                                         | 9 << 48 | 0x61 << 56),
             record(LOOKUP, 0, 2, 7, 0x421))


def orphans():
    work = [request(WRITE, 1, 0, 5000), request(TRIM, 2, 0, 40000),
            record(FLUSH)]
    for image in [0, 3, 4, 10]:
        seed("orphan", head(image), record(SET32, SUPER, 0, 232, 20), *work)
        seed("orphan", head(image), record(SET32, SUPER, 0, 232, 20),
             record(SET32, INODE, 18, 20, 20), *work)
    present = record(SET8, SUPER, 0, 102, 1)
    seed("orphan", head(10), present, *work)
    seed("orphan", head(10), present, record(SET32, ORPHAN, 0, 0, 20),
         record(SET32, ORPHAN, 1, 8, 21), *work)
    seed("orphan", head(10), present, record(SET32, ORPHAN, 0, 0, 999))


def mmp():
    for image in [9, 13]:
        for seq in 0, 1, 0xff4d4d50, 0xe24d4d50:
            seed("mmp", head(image), record(SET32, MMP, 0, 4, seq),
                 *WORK[:5])
            seed("mmp", head(image), record(SET32, MMP, 0, 4, seq),
                 record(MEANWHILE, MMP, 0, 4, 7))
        seed("mmp", head(image), record(MEANWHILE, MMP, 0, 0, 0))
        seed("mmp", head(image), record(POINT, SUPER, 0, 360,
                                        other(INODE_BITMAP, 0)))


def clients():
    for image in ALL:
        seed("serve", head(image), *WORK, record(CLOSE), record(REOPEN),
             *WORK)
        seed("serve", head(image), record(SET8, BLOCK_BITMAP, 0, 70, 0),
             *WORK)
        for fault in FAULTS:
            seed("model", head(image, 0, fault, 5 * fault), *WORK)
        seed("model", head(image), *WORK, record(REOPEN), *WORK)


for make in opening, mapping, journals, paths, orphans, mmp, clients:
    make()
for harness, inputs in seeds.items():
    directory = CORPUS / harness
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("seed-*"):
        old.unlink()
    for number, data in enumerate(inputs):
        (directory / f"seed-{number:03}").write_bytes(data)

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""make-raw.py OUT SIZE [OFFSET:LENGTH | every=STEP:LENGTH[:UNTIL]]...

Makes a sparse file with repeatable random bytes in the given ranges.
Numbers may end in K, M, G or T.  No range: the whole file is data.
"""

import os
import random
import sys

UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


def number(s):
    if s[-1:] in UNITS:
        return int(s[:-1]) << UNITS[s[-1]]
    return int(s)


def ranges(args, size):
    for arg in args or ["0:%d" % size]:
        if arg.startswith("every="):
            v = [number(x) for x in arg[6:].split(":")]
            until = v[2] if len(v) > 2 else size
            for off in range(0, until, v[0]):
                yield off, v[1]
        else:
            off, length = arg.split(":")
            yield number(off), number(length)


def main():
    out, size, args = sys.argv[1], number(sys.argv[2]), sys.argv[3:]
    rng = random.Random(os.path.basename(out))
    with open(out, "wb") as f:
        f.truncate(size)
        for off, length in ranges(args, size):
            length = min(length, size - off)
            f.seek(off)
            while length > 0:
                n = min(length, 1 << 20)
                f.write(rng.randbytes(n))
                length -= n


main()

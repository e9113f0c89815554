#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""compare.py A B [padded | mask=FILE]

Succeeds if both files have the same size and bytes; "padded" lets A end
in zeros beyond B's end (qemu-img rounds sizes up to 512), and bytes that
are not zero in the mask are not compared.  Holes in both files at once
are not read.
"""

import errno
import os
import sys

STEP = 1 << 20


def next_data(f, pos, end):
    try:
        return os.lseek(f.fileno(), pos, os.SEEK_DATA)
    except OSError as e:
        if e.errno == errno.ENXIO:
            return end
        raise


def first_difference(a, b, mask, pos):
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y and not (mask and mask[i:i + 1] != b"\0"):
            return "byte %d is 0x%02x, not 0x%02x" % (pos + i, x, y)
    return None


def main():
    a, b = open(sys.argv[1], "rb"), open(sys.argv[2], "rb")
    option = sys.argv[3] if len(sys.argv) > 3 else ""
    mask = open(option[5:], "rb") if option.startswith("mask=") else None
    size_a, size_b = (os.fstat(f.fileno()).st_size for f in (a, b))
    if option == "padded":
        if not size_b <= size_a < size_b + 512:
            sys.exit("sizes: %d, %d" % (size_a, size_b))
    elif size_a != size_b:
        sys.exit("sizes: %d, not %d" % (size_a, size_b))
    pos = 0
    while pos < size_a:
        pos = min(next_data(a, pos, size_a), next_data(b, pos, size_a))
        n = min(STEP, size_a - pos)
        bytes_a = os.pread(a.fileno(), n, pos)
        bytes_b = os.pread(b.fileno(), n, pos).ljust(n, b"\0")
        if bytes_a != bytes_b:
            m = os.pread(mask.fileno(), n, pos) if mask else None
            message = first_difference(bytes_a, bytes_b, m, pos)
            if message:
                sys.exit(message)
        pos += n


main()

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""dirty-free.py IMAGE

Fills every free block of an ext2/3/4 image with 0xDEADBEEF: bytes that no
file may ever show.
"""

import re
import subprocess
import sys

PATTERN = b"\xde\xad\xbe\xef"


def free_ranges(text):
    for line in text.splitlines():
        m = re.match(r"\s+Free blocks: (\S.*)$", line)
        for r in m.group(1).split(", ") if m else []:
            first, _, last = r.partition("-")
            yield int(first), int(last or first)


def main():
    image = sys.argv[1]
    text = subprocess.run(["dumpe2fs", image], check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True).stdout
    bs = int(re.search(r"^Block size:\s+(\d+)", text, re.M).group(1))
    count = 0
    with open(image, "r+b") as f:
        for first, last in free_ranges(text):
            f.seek(first * bs)
            for b in range(first, last + 1, 1024):
                n = min(1024, last + 1 - b)
                f.write(PATTERN * (n * bs // len(PATTERN)))
                count += n
    if count == 0:
        sys.exit("no free blocks were found")


main()

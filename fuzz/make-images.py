#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors
"""Makes images/*.base, the filesystems that the fuzzers damage.

Inputs name an image by its number and places in it by their numbers, so an
image that has inputs must stay as it is: add new ones at the end.  They are
committed, because mke2fs lays them out differently from version to version;
this was run with 1.47.0.

usage: make-images.py [NUMBER...]      those only, else all that are missing
"""

import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
UUID = "01234567-89ab-cdef-0123-456789abcdef"
EPOCH = 1700000000

# Name, KiB, arguments of mke2fs.
IMAGES = [
    ("ext2", 2048, "-t ext2 -b 1024"),
    ("ext3", 3072, "-t ext3 -b 1024 -J size=1"),
    ("extents", 2048, "-t ext4 -b 1024 -O ^metadata_csum,^has_journal"),
    ("ext4", 3072, "-t ext4 -b 1024 -O metadata_csum,^orphan_file "
     "-J size=1"),
    ("groups", 2048, "-t ext4 -b 1024 -g 512 -I 256 "
     "-O metadata_csum,metadata_csum_seed,inline_data,^has_journal"),
    ("uninit", 3072, "-t ext4 -b 1024 -g 1024 -I 256 "
     "-O ^metadata_csum,uninit_bg,inline_data -J size=1"),
    ("metabg", 3072, "-t ext4 -b 1024 -g 256 "
     "-O meta_bg,^resize_inode,metadata_csum,64bit,^orphan_file -J size=1"),
    ("bigalloc", 4096, "-t ext4 -b 1024 -C 4096 "
     "-O bigalloc,metadata_csum,^has_journal"),
    ("blocks4k", 10240, "-t ext4 -b 4096 -O metadata_csum,^orphan_file "
     "-J size=4"),
    ("mmp", 2048, "-t ext4 -b 1024 -O mmp,metadata_csum,^has_journal"),
    ("orphans", 3072, "-t ext4 -b 1024 -O metadata_csum,orphan_file "
     "-J size=1"),
    ("rev0", 2048, "-t ext2 -r 0 -b 1024 -I 128 -O none"),
    ("blocks64k", 8192, "-t ext4 -b 65536 -O metadata_csum,^has_journal"),
    ("mmplog", 3072, "-t ext3 -b 1024 -O mmp -J size=1"),
    ("csumext2", 2048, "-t ext2 -b 1024 -O metadata_csum"),
    ("quota", 3072, "-t ext4 -b 1024 -O quota,metadata_csum,^orphan_file "
     "-J size=1"),
]


def fill(number, index, length):
    """A block's content: one byte, so that the image packs well."""
    return bytes([1 + (number * 61 + index * 7) % 255]) * length


def write(path, number, block, indices, size):
    with open(path, "wb") as f:
        for i in indices:
            f.seek(i * block)
            f.write(fill(number, i, min(block, size - i * block)))
        f.truncate(size)
    os.utime(path, (EPOCH, EPOCH))


def tree(top, block):
    """What is in every image."""
    few = block > 4096
    step = range(0, 24 if few else 800 if block == 1024 else 700, 2)
    far = 12 + block // 4 + (block // 4) ** 2 + 5
    deep = list(step) + ([far] if block == 1024 else [])
    write(top / "deep", 0, block, deep, (deep[-1] + 1) * block - 99)
    write(top / "full", 1, block, range(12 if few else 30),
          (12 if few else 30) * block - 7)
    write(top / "other", 2, block, range(16 if few else 40),
          (16 if few else 40) * block)
    write(top / "tiny", 3, 100, range(1), 100)
    write(top / "holes", 4, block, [], 300 * block)
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "many").mkdir()
    os.symlink("../deep", top / "dir" / "link")
    os.symlink("loop2", top / "loop1")
    os.symlink("loop1", top / "loop2")
    os.symlink("/dir/" + "sub/../" * 20 + "link", top / "long")
    write(top / "dir" / "sub" / "file", 5, block, range(3), 3 * block)
    for i in range(60):
        write(top / "many" / f"{i}-{'n' * 40}", 6, block, [], 0)


def varint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def pack(data):
    """Runs of one byte (length * 2 + 1, byte) and others (length * 2,
    bytes); what is not said at the end is zeros."""
    out = bytearray(b"ext2base" + len(data).to_bytes(8, "little"))
    at, literal = 0, 0
    end = len(data.rstrip(b"\0"))

    def flush(to):
        if to > literal:
            out.extend(varint((to - literal) * 2) + data[literal:to])

    while at < end:
        run = len(data[at:at + 65536]) - len(
            data[at:at + 65536].lstrip(data[at:at + 1]))
        while run % 65536 == 0 and at + run < end:
            more = data[at + run:at + run + 65536]
            n = len(more) - len(more.lstrip(data[at:at + 1]))
            run += n
            if n < 65536:
                break
        if run >= 6:
            flush(at)
            out.extend(varint(run * 2 + 1) + data[at:at + 1])
            literal = at + run
        at += run
    flush(at)
    return bytes(out)


def make(number, name, kib, args):
    block = int(args.split("-b ")[1].split()[0])
    env = dict(os.environ, E2FSPROGS_FAKE_TIME=str(EPOCH), LC_ALL="C",
               PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    with tempfile.TemporaryDirectory() as tmp:
        top, image = pathlib.Path(tmp) / "top", pathlib.Path(tmp) / "image"
        top.mkdir()
        tree(top, block)
        subprocess.run(
            ["mke2fs", "-q", "-F", "-E", f"nodiscard,hash_seed={UUID}",
             "-U", UUID, "-N", "128", "-m", "1", *args.split(),
             "-d", top, image, f"{kib}k"], check=True, env=env)
        commands = ["set_current_time 20231114221320"]
        if "ext4" in args and "quota" not in args:
            commands.append("fallocate /holes 20 120")
        (pathlib.Path(tmp) / "commands").write_text("\n".join(commands))
        subprocess.run(["debugfs", "-w", "-f", f"{tmp}/commands", image],
                       check=True, env=env, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        # mke2fs -d does not keep quota files.
        if "quota" in args:
            subprocess.run(["e2fsck", "-fy", image], env=env,
                           stdout=subprocess.DEVNULL)
        subprocess.run(["e2fsck", "-fn", image], check=True, env=env,
                       stdout=subprocess.DEVNULL)
        packed = pack(image.read_bytes())
    path = HERE / "images" / f"{number:02}-{name}.base"
    path.write_bytes(packed)
    print(path.name, len(packed))


def main():
    wanted = [int(a) for a in sys.argv[1:]]
    (HERE / "images").mkdir(exist_ok=True)
    for number, (name, kib, args) in enumerate(IMAGES):
        path = HERE / "images" / f"{number:02}-{name}.base"
        if number in wanted or not wanted and not path.exists():
            make(number, name, kib, args)


main()

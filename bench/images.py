# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The images that the contenders serve; made once, copied for each."""

import errno
import os
import shutil

from contenders import OURS, RAW, THIN, Server
from load import Failed, client_load, run

MIB = 1024 * 1024
FRAGMENTS = 419_746             # extents of a real 150 GB disk image


def _noise(path, size, written=None):
    """A file of this size, the first bytes of it written."""
    chunk = bytearray(os.urandom(MIB))
    written = size if written is None else written
    with open(path, "wb") as f:
        for i in range(written // MIB):
            chunk[:8] = i.to_bytes(8, "little")
            f.write(chunk)
        if written % MIB:
            f.write(chunk[:written % MIB])
        f.truncate(size)
        # Or the writing back would disturb what is measured.
        f.flush()
        os.fsync(f.fileno())


def warm(path, large_pages=False):
    """Put into the page cache by reading, whatever wrote it: the sizes of
    the pages there depend on that, and with them the speed.

    By default page by page, as every kernel can: ext4 since Linux 6.16 has
    pages of up to 2 MiB, and for each write of 4 KiB into one it walks the
    512 buffer heads of it, which costs six times as much as all else and
    changes with what the processor's cache holds.

    Holes are left out.  Nobody reads those before they are filled, and
    reading would make pages of a mebibyte of them, which cost whoever then
    writes a part of one at random more than all else.
    """
    with open(path, "rb") as f:
        fd = f.fileno()
        os.fsync(fd)              # or what is dirty would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if not large_pages:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        end = 0
        while end < os.fstat(fd).st_size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            for at in range(start, end, MIB):
                os.pread(fd, min(MIB, end - at), at)


class Images:
    """Every image is named for what its /vm.raw is like."""

    def __init__(self, tools, large_pages=False):
        self.tools = tools
        self.large_pages = large_pages
        self.made = {}

    def _path(self, name):
        return os.path.join(self.tools.directory, name)

    def warm(self, path):
        warm(path, self.large_pages)

    def pages(self):
        return ("in the sizes that the kernel likes" if self.large_pages
                else "page by page")

    def copy(self, source, target):
        """With its holes, and warm."""
        run(["cp", "--sparse=always", "--reflink=auto", source, target])
        self.warm(target)
        return target

    def forget(self):
        """Removes them all."""
        for path in self.made.values():
            if os.path.exists(path):
                os.unlink(path)
        self.made = {}

    def _make(self, name, size, written=None, extra=0, fs="ext4"):
        """NAME.raw, and NAME.img which has it."""
        raw, image = self._path(name + ".raw"), self._path(name + ".img")
        if name not in self.made:
            _noise(raw, size, written)
            tree = self._path(name + ".d")
            os.mkdir(tree)
            os.link(raw, os.path.join(tree, "vm.raw"))
            total = (size + extra) * 17 // 16 + 96 * MIB
            run(["mke2fs", "-q", "-F", "-t", fs, "-d", tree, image,
                 f"{total // 1024}k"], 300)
            shutil.rmtree(tree)
            self.made[name] = raw
            self.made[name + "/img"] = image
        return raw, image

    def _of(self, name, kind, raw, image):
        """The contender's own copy, kept."""
        key = f"{name}/{kind}"
        if key not in self.made:
            source = raw if kind in (RAW, THIN) else image
            self.made[key] = self.copy(source, self._path(f"{name}-{kind}"))
        return self.made[key]

    def plain(self, kind, size):
        """A contiguous file full of data."""
        return self._of("plain", kind, *self._make("plain", size))

    def blocks(self, kind, size):
        """The same, mapped by blocks."""
        return self._of("blocks", kind, *self._make("blocks", size, fs="ext3"))

    def half(self, kind, data, holes):
        """Data, then holes."""
        return self._of("half", kind,
                        *self._make("half", data + holes, data))

    def holes(self, kind, size, target):
        """A new copy of a file that is one hole, for the caller."""
        raw, image = self._make(f"holes-{size}", size, 0)
        return self.copy(raw if kind in (RAW, THIN) else image, target)

    def small(self):
        return self._make("small", MIB)[1]

    def fragmented(self, extents):
        """4 KiB of data every 8 KiB, as many extents as said."""
        name = f"fragmented-{extents}"
        if name not in self.made:
            raw, image = self._make(name, extents * 8192, 0)
            with Server(self.tools, OURS, image) as server:
                r = client_load(self.tools.client("client-load"), server.uri,
                                600, o="w", b=4096, S=8192, c=2, d=16,
                                p="permuted", l=extents * 8192)
            if r["requests"] < extents - 2:
                raise Failed("the fragmented file has too few extents")
            # On the host it is to be in one piece, as the other is: else
            # that is what would be compared.
            run(["cp", "--sparse=never", image, image + ".dense"])
            os.rename(image + ".dense", image)
            self.warm(image)
        return self.made[name + "/img"]

    def packed(self, extents):
        """As long, in one piece and full, so that the same blocks of it are
        as far from each other on the disk."""
        name = f"packed-{extents}"
        if name not in self.made:
            raw, image = self._make(name, extents * 8192)
            os.unlink(raw)
            self.warm(image)
        return self.made[name + "/img"]

    def files(self, number):
        """Files /0, /1, ...: each one block and a hole."""
        image = self._path("files.img")
        if "files" not in self.made:
            tree = self._path("files.d")
            os.mkdir(tree)
            for i in range(number):
                _noise(os.path.join(tree, str(i)), MIB, 4096)
            run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image,
                 "256M"], 300)
            shutil.rmtree(tree)
            self.made["files"] = image
        return image

    def huge(self, largest=16 << 40):
        """A filesystem as large as the host allows; returns its size too."""
        image = self._path("huge.img")
        if "huge" not in self.made:
            self.made["huge"] = image
            for size in largest, largest - 4096, 8 << 40, 2 << 40, 1 << 40:
                with open(image, "wb") as f:
                    try:
                        f.truncate(size)
                        break
                    except OSError:
                        pass
            else:
                raise Failed("no sparse file of 1 TiB here")
            run(["mke2fs", "-q", "-F", "-t", "ext4", "-J", "size=64", "-E",
                 "lazy_itable_init=1,nodiscard", image], 120)
            hole = self._path("hole.raw")
            with open(hole, "wb") as f:
                f.truncate(min(size, 15 << 40) // 2)
            run(["debugfs", "-w", "-R", f"write {hole} vm.raw", image], 120)
            os.unlink(hole)
        return image, os.path.getsize(image)

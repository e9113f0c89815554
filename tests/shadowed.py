# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# For scripts run by nbd_script: requests that may fail, and what the disk
# must hold then.  After one that failed, any byte of its range is unknown
# until it is written again; all others are as they were.

import errno

import nbd


class Shadowed:
    def __init__(self, h):
        self.h = h
        self.data = bytearray(h.pread(h.get_size(), 0))
        self.known = bytearray(b"\1" * len(self.data))

    def _try(self, call, offset, new, fast=False):
        """Returns the name of the error, or None."""
        end = offset + len(new)
        try:
            call()
        except nbd.Error as e:
            assert e.errnum, "an error without a number"
            # Clients take this for the answer to a fast zero.
            assert e.errnum != errno.ENOTSUP or fast, e
            self.known[offset:end] = bytes(len(new))
            return e.errno
        self.data[offset:end] = new
        self.known[offset:end] = b"\1" * len(new)
        return None

    def write(self, offset, data, flags=0):
        return self._try(lambda: self.h.pwrite(data, offset, flags),
                         offset, data)

    def zero(self, offset, count, flags=0):
        return self._try(lambda: self.h.zero(count, offset, flags),
                         offset, bytes(count),
                         flags & nbd.CMD_FLAG_FAST_ZERO)

    def trim(self, offset, count, flags=0):
        """Of whole blocks."""
        return self._try(lambda: self.h.trim(count, offset, flags),
                         offset, bytes(count))

    def flush(self):
        return self._try(self.h.flush, 0, b"")

    def check(self):
        """All that is known is there."""
        got = self.h.pread(len(self.data), 0)
        if got == self.data:
            return
        for i in range(len(got)):
            if self.known[i] and got[i] != self.data[i]:
                raise AssertionError("byte %d is 0x%02x, not 0x%02x"
                                     % (i, got[i], self.data[i]))

    def forget(self, offset, count):
        """It was not made durable, or may not have been."""
        self.known[offset:offset + count] = bytes(count)

    def save(self, name):
        """What is known; and NAME.mask, not 0 where nothing is."""
        with open(name, "wb") as f:
            f.write(self.data)
        with open(name + ".mask", "wb") as f:
            f.write(bytes(1 - k for k in self.known))

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""abuse.py CASE [ARGUMENTS...]

A client that is out to do harm: CASE is a function of abuse_requests.py
or abuse_handshake.py.  It fails if the server answers anything but what
it must, keeps the well-behaved client (steady.py) waiting for ever, or
takes memory that it does not give back.

From the environment:
  ABUSE_SOCKET    of the server             ABUSE_PID       of the server
  ABUSE_PROGRESS  of steady.py, if it runs  NBD_TEST_SCALE  in percent
  EXT2_SANITIZER  memory is not looked at
"""

import os
import struct
import sys
import time

import rawnbd

SOCKET = os.environ["ABUSE_SOCKET"]
PID = os.environ["ABUSE_PID"]


def scaled(n, most=1 << 40):
    """n, less of it when each step is slow, more in make abuse."""
    n = n * int(os.environ.get("NBD_TEST_SCALE", "100")) // 100
    return min(max(n, 3), most)


def wait_until(condition, what):
    """Looks again until it is so."""
    end = time.monotonic() + rawnbd.LIMIT
    while not condition():
        assert time.monotonic() < end, "waited in vain: " + what
        time.sleep(0.02)


def server_status(field):
    """A number of /proc/PID/status: threads, or KiB."""
    with open("/proc/%s/status" % PID, encoding="ascii") as f:
        for line in f:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise KeyError(field)


def steady_done():
    """Requests of the well-behaved client so far."""
    with open(os.environ["ABUSE_PROGRESS"], "rb") as f:
        return struct.unpack("Q", f.read(8))[0]


def others_are_served():
    """Waits until the well-behaved client has got further, if it runs."""
    if "ABUSE_PROGRESS" in os.environ:
        before = steady_done()
        wait_until(lambda: steady_done() >= before + 20,
                   "another client is not served")


class Memory:
    """The server must not have grown for good.

    Made when the same abuse has been committed before, so that what is
    taken once (thread stacks, allocator's arenas, caches) is there.
    """

    SLACK = 3072                        # KiB

    def __init__(self):
        self.threads = server_status("Threads")
        self.before = server_status("VmRSS")
        with open("/proc/%s/clear_refs" % PID, "w", encoding="ascii") as f:
            f.write("5")                # VmHWM begins anew

    def check(self, what, at_peak=None):
        """at_peak: KiB it may have had in addition while under way."""
        wait_until(lambda: server_status("Threads") <= self.threads,
                   "the threads of clients that left are still there")
        after, peak = server_status("VmRSS"), server_status("VmHWM")
        print("memory: %s: %d KiB before, at most %d, %d after"
              % (what, self.before, peak, after))
        if "EXT2_SANITIZER" in os.environ:
            return
        assert after <= self.before + self.SLACK, "memory is not given back"
        if at_peak is not None:
            assert peak <= self.before + at_peak + self.SLACK, \
                "too much memory at once"


def main():
    import abuse_handshake
    import abuse_requests

    case, arguments = sys.argv[1], sys.argv[2:]
    for module in (abuse_requests, abuse_handshake):
        if hasattr(module, case):
            getattr(module, case)(*arguments)
            break
    else:
        sys.exit("no such case: " + case)
    others_are_served()


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A server with a client that changes nothing writes nothing, and does not
# even wake up, although it commits every second what is changed.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck cmp python3
requires_nbdsh

img=$tmp/disk.img
make_fs "$img" 32M -t ext4 -b 1024
debug "$img" "write /dev/null vm.raw" "sif /vm.raw size 8388608"
serve --filter=ext2 file "$img" ext2file=/vm.raw ext2commit=1
nbd_script <<END
import glob, os, subprocess, time

def consistent_copy():
    subprocess.run(["cp", "$img", "$tmp/copy.img"], check=True)
    subprocess.run(["e2fsck", "-fp", "$tmp/copy.img"],
                   stdout=subprocess.DEVNULL)
    return subprocess.run(["debugfs", "-R", "cat /vm.raw", "$tmp/copy.img"],
                          stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL).stdout

def switches():
    n = 0
    for name in glob.glob("/proc/$pid/task/*/status"):
        with open(name) as f:
            for line in f:
                if line.startswith("voluntary_ctxt_switches"):
                    n += int(line.split()[1])
    return n

def state():
    st = os.stat("$img")
    return (st.st_mtime_ns, st.st_ctime_ns, switches())

# One change, and its commit.
h.pwrite(b"d" * 1000, 3 << 20)
while consistent_copy()[3 << 20:(3 << 20) + 1000] != b"d" * 1000:
    time.sleep(0.1)
# The end of that, and requests that change nothing.
h.pread(1 << 20, 0)
h.block_status(8 << 20, 0, lambda *args: 0)
h.trim(1 << 20, 0)
before = None
while state() != before:
    before = state()
    time.sleep(0.5)
time.sleep(3)
assert state() == before, (before, state())
END
stop
check_clean "$img"

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Clients die with requests in flight, some in the middle of sending one:
# the others are served, and nothing is left behind.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 16M 0:8M
make_fs "$img" 64M -t ext4 -d "$tmp/src"

# clients_die NBDKIT-ARGUMENTS...
clients_die ()
{
    serve_file "$img" /vm.raw "$@"
    nbd_script <<'EOS'
import os, signal

WRITING = nbd.AIO_DIRECTION_WRITE

def dies(round):
    c = nbd.NBD()
    c.connect_uri(h.get_uri())
    for i in range(24):
        if (round + i) % 3:
            c.aio_pread(nbd.Buffer(1 << 18), i << 18)
        else:
            c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(1 << 18)),
                         (32 + i) << 18)
    # Every other one has sent all of them, or as much as goes without
    # reading the answers.
    for i in range(200):
        if round % 2 or not c.aio_get_direction() & WRITING:
            break
        c.poll(5)
    os.kill(os.getpid(), signal.SIGKILL)

for round in range(20):
    pid = os.fork()
    if pid == 0:
        dies(round)
    os.waitpid(pid, 0)
    h.pwrite(b"%4d" % round, 12345)
    h.flush()
    assert h.pread(4, 12345) == b"%4d" % round
EOS
    wait_clean "$img"
    stop
    check_clean "$img"
}

clients_die -t 1
nbdkit_outlives_clients ||
    skip "$("$NBDKIT" --version) aborts; fine with -t 1"
clients_die

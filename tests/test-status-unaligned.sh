#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# Block status asked for at odd offsets and lengths: the answer starts
# there, is contiguous, and is that of every byte.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs nbdinfo python3
requires_nbdsh

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 1000001 8K:4K 100K:8K 200K:1K every=300K:16K
for fs in "ext4 -b 1024" "ext2 -b 1024" "ext4 -b 4096"; do
    # shellcheck disable=SC2086
    make_fs "$img" 16M -t $fs -d "$tmp/src"
    serve_file "$img" /vm.raw
    nbd_script <<END
import nbd, os, random
seed = int(os.environ.get("NBD_TEST_SEED", "0")) or random.randrange(1 << 32)
print("seed", seed)
rng = random.Random(seed)
size = h.get_size()
truth = bytearray(size)
data = h.pread(size, 0)
def status(offset, count, flags=0):
    out = []
    def got(context, o, entries, error):
        assert o == offset
        out.extend(entries)
        return 0
    h.block_status(count, offset, got, flags)
    return list(zip(out[::2], out[1::2]))
pos = 0
while pos < size:
    for length, flags in status(pos, size - pos):
        truth[pos:pos + length] = bytes([flags]) * length
        pos += length
assert len(truth) == size and 0 in truth and 3 in truth
for i in range(size):
    assert data[i] == 0 or truth[i] == 0, i
for i in range(1000):
    offset = rng.randrange(size)
    count = rng.randint(1, min(size - offset, 1 << rng.randint(0, 20)))
    one = rng.randrange(4) == 0
    answer = status(offset, count, nbd.CMD_FLAG_REQ_ONE if one else 0)
    assert answer and (not one or len(answer) == 1)
    assert not one or answer[0][0] <= count
    pos = offset
    for length, flags in answer:
        assert length > 0 and pos + length <= size
        assert truth[pos:pos + length] == bytes([flags]) * length, (pos, length)
        pos += length
END
    stop
done

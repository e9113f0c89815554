/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* libext2fs's io_manager over the metadata cache, for reading.
 *
 * Notes on the design: libext2fs addresses blocks of the channel's
 * block size, which is 1024 while it reads the superblock and the
 * filesystem's afterwards; a negative count is a number of bytes.  The
 * cache is keyed by filesystem block throughout, so every request is
 * first turned into a byte range.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iomgr.h"
#include "locks.h"

/* Read around the cache from this many blocks on: the group descriptors
 * are read once, and would only push better blocks out.
 */
#define LARGE_READ 8

struct channel_data {
  struct mcache *mc;            /* [constant] */
  struct device *dev;           /* [constant] */
};

static _Thread_local struct channel_data target;

void
iomgr_set_target (struct mcache *mc, struct device *dev)
{
  target.mc = mc;
  target.dev = dev;
}

static errcode_t
mc_open (const char *name, int flags, io_channel *channel)
{
  struct struct_io_channel *io;
  struct channel_data *cd;

  if (target.mc == NULL || name == NULL)
    return EXT2_ET_BAD_DEVICE_NAME;
  io = calloc (1, sizeof *io);
  cd = calloc (1, sizeof *cd);
  if (io)
    io->name = strdup (name);
  if (io == NULL || cd == NULL || io->name == NULL) {
    if (io)
      free (io->name);
    free (io);
    free (cd);
    return EXT2_ET_NO_MEMORY;
  }
  *cd = target;
  io->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  io->manager = &mcache_io_manager;
  io->block_size = 1024;
  io->refcount = 1;
  io->private_data = cd;
  /* Under a serialising thread model a parallel reader gains nothing. */
  if (cd->dev->parallel)
    io->flags |= CHANNEL_FLAGS_THREADS;
  *channel = io;
  return 0;
}

static errcode_t
mc_close (io_channel io)
{
  if (--io->refcount > 0)
    return 0;
  free (io->private_data);
  free (io->name);
  free (io);
  return 0;
}

static errcode_t
mc_set_blksize (io_channel io, int blksize)
{
  if (blksize < 1024 || blksize > 65536)
    return EXT2_ET_UNEXPECTED_BLOCK_SIZE;
  io->block_size = blksize;
  return 0;
}

/* BLOCK and COUNT of a channel request as a byte range. */
static errcode_t
byte_range (io_channel io, unsigned long long block, int count,
            uint64_t *offset, uint64_t *len)
{
  struct channel_data *cd = io->private_data;

  *len = count < 0 ? (uint64_t) -(int64_t) count
    : (uint64_t) count * io->block_size;
  if (block > cd->dev->size / io->block_size)
    return EIO;
  *offset = block * io->block_size;
  if (*len > cd->dev->size - *offset)
    return EIO;
  return 0;
}

static errcode_t
mc_read_blk64 (io_channel io, unsigned long long block, int count, void *data)
{
  struct channel_data *cd = io->private_data;
  const uint32_t bs = mcache_block_size (cd->mc);
  uint64_t offset, len;
  uint8_t *p = data;
  bool large;
  errcode_t err;

  err = byte_range (io, block, count, &offset, &len);
  if (err)
    return err;
  large = len >= (uint64_t) LARGE_READ * bs;
  if (large) {
    /* Whatever is cached is newer, and copied over it below. */
    err = device_pread (cd->dev, data, len, offset);
    if (err)
      return err;
  }
  while (len > 0) {
    uint32_t in = offset % bs;
    uint32_t n = len < bs - in ? (uint32_t) len : bs - in;
    struct mbuf *mb = NULL;

    if (large)
      mb = mcache_find (cd->mc, offset / bs);
    else {
      err = mcache_read (cd->mc, offset / bs, &mb);
      if (err)
        return err;
    }
    if (mb) {
      memcpy (p, mb->data + in, n);
      mcache_unpin (cd->mc, mb);
    }
    p += n;
    offset += n;
    len -= n;
  }
  return 0;
}

static errcode_t
mc_read_blk (io_channel io, unsigned long block, int count, void *data)
{
  return mc_read_blk64 (io, block, count, data);
}

/* Everything that is written is written by code of our own. */
static errcode_t
mc_write_blk64 (io_channel io, unsigned long long block, int count,
                const void *data)
{
  return EROFS;
}

static errcode_t
mc_write_blk (io_channel io, unsigned long block, int count, const void *data)
{
  return EROFS;
}

static errcode_t
mc_flush (io_channel io)
{
  return 0;                     /* commits flush */
}

struct struct_io_manager mcache_io_manager = {
  .magic = EXT2_ET_MAGIC_IO_MANAGER,
  .name = "metadata cache",
  .open = mc_open,
  .close = mc_close,
  .set_blksize = mc_set_blksize,
  .read_blk = mc_read_blk,
  .write_blk = mc_write_blk,
  .read_blk64 = mc_read_blk64,
  .write_blk64 = mc_write_blk64,
  .flush = mc_flush,
};

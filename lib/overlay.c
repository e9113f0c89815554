/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Blocks in memory over a device.
 *
 * Notes on the design: a log of the writes in the order they came, sorted
 * by block at the freeze, when later ones replace earlier ones.  Writing
 * part of a block takes the rest from what was written to it before, or
 * from the device: rare, so that is looked for by hand.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "overlay.h"

struct kept {
  uint64_t blkno;
  size_t order;                 /* of writing */
  uint8_t *data;                /* one block */
};

struct overlay {
  struct device dev;            /* first: converted back by a cast */
  struct device *under;         /* [constant] */
  uint32_t block_size;          /* [constant] bytes */
  struct kept *kept;            /* [constant once frozen], then sorted */
  size_t count, size;           /* [constant once frozen] */
};

static struct overlay *
to_overlay (struct device *dev)
{
  return (struct overlay *) dev;
}

/* The first block kept at BLKNO or after it. */
static size_t
search (const struct overlay *o, uint64_t blkno)
{
  size_t lo = 0, hi = o->count;

  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;

    if (o->kept[mid].blkno < blkno)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

static errcode_t
ov_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct overlay *o = to_overlay (dev);
  const uint32_t bs = o->block_size;
  size_t i = search (o, offset / bs);
  uint8_t *p = buf;
  errcode_t err;

  while (count > 0) {
    const uint64_t next = i < o->count ? o->kept[i].blkno * bs : UINT64_MAX;
    uint32_t n = count;

    if (next > offset) {
      if (n > next - offset)
        n = next - offset;
      err = device_pread (o->under, p, n, offset);
      if (err)
        return err;
    }
    else {
      if (n > bs - (offset - next))
        n = bs - (offset - next);
      memcpy (p, o->kept[i].data + (offset - next), n);
      i++;
    }
    p += n;
    offset += n;
    count -= n;
  }
  return 0;
}

static errcode_t
make_room (struct overlay *o)
{
  size_t n = o->size ? 2 * o->size : 256;
  struct kept *p;

  if (o->count < o->size)
    return 0;
  p = realloc (o->kept, n * sizeof *p);
  if (p == NULL)
    return ENOMEM;
  o->kept = p;
  o->size = n;
  return 0;
}

/* What BLKNO holds so far, into DATA. */
static errcode_t
old_content (struct overlay *o, uint64_t blkno, uint8_t *data)
{
  const uint64_t offset = blkno * o->block_size;
  size_t i;

  for (i = o->count; i > 0; i--) {
    if (o->kept[i - 1].blkno == blkno) {
      memcpy (data, o->kept[i - 1].data, o->block_size);
      return 0;
    }
  }
  /* The device may end inside its last block. */
  memset (data, 0, o->block_size);
  return device_pread (o->under, data, o->dev.size - offset < o->block_size
                       ? o->dev.size - offset : o->block_size, offset);
}

static errcode_t
ov_pwrite (struct device *dev, const void *buf, uint32_t count,
           uint64_t offset, unsigned flags)
{
  struct overlay *o = to_overlay (dev);
  const uint32_t bs = o->block_size;
  const uint8_t *p = buf;
  errcode_t err;

  (void) flags;
  while (count > 0) {
    const uint32_t in = offset % bs, n = count < bs - in ? count : bs - in;
    uint8_t *data = malloc (bs);

    err = data ? make_room (o) : ENOMEM;
    if (!err && n < bs)
      err = old_content (o, offset / bs, data);
    if (err) {
      free (data);
      return err;
    }
    memcpy (data + in, p, n);
    o->kept[o->count] = (struct kept) { offset / bs, o->count, data };
    o->count++;
    p += n;
    offset += n;
    count -= n;
  }
  return 0;
}

static errcode_t
ov_cache (struct device *dev, uint32_t count, uint64_t offset)
{
  return device_cache (to_overlay (dev)->under, count, offset);
}

/* No flush, zero and trim: the capabilities say so. */
static const struct device_ops overlay_ops = {
  .pread = ov_pread,
  .pwrite = ov_pwrite,
  .cache = ov_cache,
};

struct overlay *
overlay_new (struct device *under, uint32_t block_size)
{
  struct overlay *o = calloc (1, sizeof *o);

  if (o == NULL)
    return NULL;
  o->under = under;
  o->block_size = block_size;
  o->dev = (struct device) {
    .ops = &overlay_ops, .size = under->size, .writable = true,
    .parallel = under->parallel, .can_fua = true,
    .can_cache = under->can_cache,
  };
  return o;
}

void
overlay_free (struct overlay *o)
{
  size_t i;

  if (o == NULL)
    return;
  for (i = 0; i < o->count; i++)
    free (o->kept[i].data);
  free (o->kept);
  free (o);
}

struct device *
overlay_device (struct overlay *o)
{
  return &o->dev;
}

/* By block, the latest first. */
static int
compare_kept (const void *av, const void *bv)
{
  const struct kept *a = av, *b = bv;

  if (a->blkno != b->blkno)
    return a->blkno < b->blkno ? -1 : 1;
  return (a->order < b->order) - (a->order > b->order);
}

void
overlay_freeze (struct overlay *o)
{
  size_t i, n = 0;

  if (o->count > 0)
    qsort (o->kept, o->count, sizeof *o->kept, compare_kept);
  for (i = 0; i < o->count; i++) {
    if (n > 0 && o->kept[i].blkno == o->kept[n - 1].blkno)
      free (o->kept[i].data);
    else
      o->kept[n++] = o->kept[i];
  }
  o->count = n;
  o->dev.writable = false;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A journal as replayed, over the device that holds it.
 *
 * Notes on the design: a read is cut into pieces, each from one place: a
 * block that was written here, blocks whose copies follow each other in the
 * log, or the device as far as neither of these begins.  What is written is
 * two blocks, so they are looked for one by one.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "jbd2.h"
#include "overlay.h"

struct written {
  struct written *next;
  uint64_t blkno;
  uint8_t data[];               /* one block */
};

struct overlay {
  struct device dev;            /* first: converted back by a cast */
  struct device *under;         /* [constant] */
  uint32_t block_size;          /* [constant] bytes */
  struct written *written;      /* [constant once frozen] */
  struct targets targets;       /* [constant once frozen] */
};

static struct overlay *
to_overlay (struct device *dev)
{
  return (struct overlay *) dev;
}

/* The first written block at BLKNO or after it, or NULL. */
static struct written *
find_written (const struct overlay *o, uint64_t blkno)
{
  struct written *w, *first = NULL;

  for (w = o->written; w; w = w->next)
    if (w->blkno >= blkno && (first == NULL || w->blkno < first->blkno))
      first = w;
  return first;
}

/* How many targets from I on are neighbours, as are their copies; none of
 * them is behind block END.
 */
static uint64_t
run_of_copies (const struct overlay *o, size_t i, uint64_t end)
{
  const struct target *t = &o->targets.t[i];
  uint64_t n = 1;

  while (t->blkno + n < end && i + n < o->targets.count &&
         t[n].blkno == t->blkno + n && t[n].copy == t->copy + n)
    n++;
  return n;
}

/* The magic number that the log has no room for: of block BLKNO, as far as
 * it lies in the N bytes at OFFSET, which are in P.
 */
static void
unescape (const struct overlay *o, uint64_t blkno, uint8_t *p, uint32_t n,
          uint64_t offset)
{
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);
  const uint64_t at = blkno * o->block_size;
  uint8_t bytes[sizeof magic];
  unsigned i;

  memcpy (bytes, &magic, sizeof magic);
  for (i = 0; i < sizeof magic; i++)
    if (at + i >= offset && at + i - offset < n)
      p[at + i - offset] = bytes[i];
}

/* N bytes at OFFSET, which lie in the LEN targets from I on. */
static errcode_t
read_copies (struct overlay *o, size_t i, uint64_t len, uint8_t *p,
             uint32_t n, uint64_t offset)
{
  const struct target *t = &o->targets.t[i];
  const uint64_t in = offset - t->blkno * o->block_size;
  errcode_t err;

  err = device_pread (o->under, p, n, t->copy * o->block_size + in);
  for (; len > 0 && !err; len--, t++)
    if (t->escaped)
      unescape (o, t->blkno, p, n, offset);
  return err;
}

/* As much of the COUNT bytes at OFFSET as comes from one place: *DONE. */
static errcode_t
read_piece (struct overlay *o, uint8_t *p, uint32_t count, uint64_t offset,
            uint32_t *done)
{
  const uint32_t bs = o->block_size;
  const uint64_t blkno = offset / bs, last = (offset + count - 1) / bs;
  const struct written *w = find_written (o, blkno);
  const size_t i = targets_search (&o->targets, blkno);
  const uint64_t copy = i < o->targets.count ? o->targets.t[i].blkno
    : UINT64_MAX;
  uint64_t end = last + 1;      /* of the piece, in blocks */

  if (w && w->blkno == blkno)
    end = blkno + 1;
  else if (w && w->blkno < end)
    end = w->blkno;
  if (copy == blkno)
    end = blkno + run_of_copies (o, i, end);
  else if (copy < end)
    end = copy;
  *done = end > last ? count : end * bs - offset;

  if (w && w->blkno == blkno) {
    memcpy (p, w->data + offset % bs, *done);
    return 0;
  }
  return copy == blkno ? read_copies (o, i, end - blkno, p, *done, offset)
    : device_pread (o->under, p, *done, offset);
}

static errcode_t
ov_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct overlay *o = to_overlay (dev);
  uint8_t *p = buf;
  uint32_t n;
  errcode_t err;

  for (; count > 0; p += n, offset += n, count -= n) {
    err = read_piece (o, p, count, offset, &n);
    if (err)
      return err;
  }
  return 0;
}

/* A place for BLKNO, with what has been there so far. */
static errcode_t
add_written (struct overlay *o, uint64_t blkno, struct written **wp)
{
  const uint64_t offset = blkno * o->block_size;
  struct written *w = calloc (1, sizeof *w + o->block_size);
  uint32_t n = o->block_size;
  errcode_t err;

  if (w == NULL)
    return ENOMEM;
  if (n > o->dev.size - offset) /* the device may end inside it */
    n = o->dev.size - offset;
  err = ov_pread (&o->dev, w->data, n, offset);
  if (err) {
    free (w);
    return err;
  }
  w->blkno = blkno;
  w->next = o->written;
  o->written = w;
  *wp = w;
  return 0;
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
    struct written *w = find_written (o, offset / bs);

    if (w == NULL || w->blkno != offset / bs) {
      err = add_written (o, offset / bs, &w);
      if (err)
        return err;
    }
    memcpy (w->data + in, p, n);
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
  struct written *w;

  if (o == NULL)
    return;
  while ((w = o->written)) {
    o->written = w->next;
    free (w);
  }
  targets_free (&o->targets);
  free (o);
}

struct device *
overlay_device (struct overlay *o)
{
  return &o->dev;
}

void
overlay_show (struct overlay *o, struct targets *ts)
{
  o->targets = *ts;
  memset (ts, 0, sizeof *ts);
}

void
overlay_freeze (struct overlay *o)
{
  o->dev.writable = false;
}

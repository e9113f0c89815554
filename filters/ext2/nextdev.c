/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block device over nbdkit's next layer.
 *
 * Notes on the design.  One context is opened for all connections
 * (nbdkit_next_context_open with shared = 1) and never given to a
 * connection with nbdkit_context_set_next: nbdkit 1.32 aborts on the
 * second prepare of such a context.
 *
 * Only the PARALLEL thread model lets a plugin be entered from several
 * connections at once.  Under SERIALIZE_REQUESTS nbdkit keeps one
 * request per *connection*, which does not help a context they share,
 * so every call is made under a lock then (LOCK_DEVICE).  The stricter
 * models come with a lock of the server's, and lose nothing by ours.
 *
 * A plugin with a minimum block size gets aligned requests.  What is
 * aligned of a request goes through as it is; of the edges, a block each,
 * is read what the request does not cover, and a write or zero of them is
 * a patch: read, changed and written back with all other writers kept out.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "locks.h"
#include "nextdev.h"
#include "spread-lock.h"

/* nbdkit's own limit on a request's data.  Bytes. */
#define MAX_REQUEST (UINT32_C (64) << 20)

struct nextdev {
  struct device dev;            /* first: converted back by a cast */
  nbdkit_next *next;            /* [constant] */
  bool serialise;               /* [constant] */
  struct lock lock;             /* DEVICE, if serialise */
  uint32_t minimum;             /* [constant] bytes, power of 2 */
  uint32_t maximum;             /* [constant] bytes, multiple of it */
  /* Exclusive: read-modify-write; shared: other writes.  Only used if
   * minimum > 1.  Taken before DEVICE, held by nobody who waits for
   * anything else.  Fair: a steady load of writes does not keep patches
   * out, as it would with a plain rwlock.
   */
  struct spread_lock patch_lock;
  char *description;            /* [constant] */
  bool rotational;              /* [constant] */
};

static struct nextdev *
to_nextdev (struct device *dev)
{
  return (void *) dev;
}

/* One call into the next layer, under the lock if there must be one.  A
 * failure without an error number would make the server abort.
 */
#define CALL_NEXT(nd, err, call)                        \
  do {                                                  \
    int r_, e_ = 0;                                     \
                                                        \
    if ((nd)->serialise)                                \
      lock_acquire (&(nd)->lock);                       \
    {                                                   \
      int *errp = &e_;                                  \
      nbdkit_next *next = (nd)->next;                   \
      r_ = (call);                                      \
    }                                                   \
    if ((nd)->serialise)                                \
      lock_release (&(nd)->lock);                       \
    (err) = r_ == -1 ? (e_ > 0 ? e_ : EIO) : 0;         \
  } while (0)

static uint32_t
piece (const struct nextdev *nd, uint32_t count)
{
  return count < nd->maximum ? count : nd->maximum;
}

/* Aligned reading and writing, cut to the plugin's maximum. */

static errcode_t
read_aligned (struct nextdev *nd, void *buf, uint32_t count, uint64_t offset)
{
  char *p = buf;
  errcode_t err = 0;

  for (; count > 0 && !err;) {
    uint32_t n = piece (nd, count);

    CALL_NEXT (nd, err, next->pread (next, p, n, offset, 0, errp));
    p += n;
    offset += n;
    count -= n;
  }
  return err;
}

static errcode_t
write_aligned (struct nextdev *nd, const void *buf, uint32_t count,
               uint64_t offset, unsigned flags)
{
  const uint32_t f = flags & DEVICE_FUA ? NBDKIT_FLAG_FUA : 0;
  const char *p = buf;
  errcode_t err = 0;

  for (; count > 0 && !err;) {
    uint32_t n = piece (nd, count);

    CALL_NEXT (nd, err, next->pwrite (next, p, n, offset, f, errp));
    p += n;
    offset += n;
    count -= n;
  }
  return err;
}

/* Requests that do not fit the plugin's minimum. */

static bool
is_aligned (const struct nextdev *nd, uint32_t count, uint64_t offset)
{
  return ((offset | count) & (nd->minimum - 1)) == 0;
}

/* The whole blocks that a range touches. */
struct widened {
  uint64_t offset;
  uint32_t count;
  uint32_t head;                /* where the range starts in it */
};

static struct widened
widen (const struct nextdev *nd, uint32_t count, uint64_t offset)
{
  const uint64_t mask = nd->minimum - 1;
  struct widened w;

  w.offset = offset & ~mask;
  w.count = (uint32_t) (((offset + count + mask) & ~mask) - w.offset);
  w.head = (uint32_t) (offset - w.offset);
  return w;
}

/* The parts of a range, in bytes: MIDDLE is whole blocks, and the edges
 * are within a block each.  Without a middle all of it is HEAD, in two
 * blocks at most.
 */
struct parts {
  uint32_t head, middle, tail;
};

static struct parts
divide (const struct nextdev *nd, uint32_t count, uint64_t offset)
{
  const uint32_t mask = nd->minimum - 1;
  const uint32_t head = (uint32_t) (-offset & mask);
  struct parts p = { .head = count };

  if (head < count && count - head > mask) {
    p.head = head;
    p.tail = (count - head) & mask;
    p.middle = count - head - p.tail;
  }
  return p;
}

/* An edge, or a few bytes in all: two blocks at most. */

static errcode_t
read_edge (struct nextdev *nd, void *buf, uint32_t count, uint64_t offset)
{
  const struct widened w = widen (nd, count, offset);
  char *b;
  errcode_t err;

  if (count == 0)
    return 0;
  b = malloc (w.count);
  if (b == NULL)
    return ENOMEM;
  err = read_aligned (nd, b, w.count, w.offset);
  if (!err)
    memcpy (buf, b + w.head, count);
  free (b);
  return err;
}

/* Writes zeros if BUF is NULL. */
static errcode_t
patch_edge (struct nextdev *nd, const void *buf, uint32_t count,
            uint64_t offset, unsigned flags)
{
  const struct widened w = widen (nd, count, offset);
  char *b;
  errcode_t err;

  if (count == 0)
    return 0;
  b = malloc (w.count);
  if (b == NULL)
    return ENOMEM;
  spread_lock_exclusive (&nd->patch_lock);
  err = read_aligned (nd, b, w.count, w.offset);
  if (!err) {
    if (buf)
      memcpy (b + w.head, buf, count);
    else
      memset (b + w.head, 0, count);
    err = write_aligned (nd, b, w.count, w.offset, flags);
  }
  spread_unlock_exclusive (&nd->patch_lock);
  free (b);
  return err;
}

/* Whole blocks, while nobody patches: a patch could write back what was
 * in them before.
 */

static errcode_t
write_middle (struct nextdev *nd, const void *buf, uint32_t count,
              uint64_t offset, unsigned flags)
{
  errcode_t err;

  if (nd->minimum > 1)
    spread_lock_shared (&nd->patch_lock);
  err = write_aligned (nd, buf, count, offset, flags);
  if (nd->minimum > 1)
    spread_unlock_shared (&nd->patch_lock);
  return err;
}

static errcode_t
zero_middle (struct nextdev *nd, uint32_t count, uint64_t offset,
             unsigned flags)
{
  uint32_t f = 0;
  errcode_t err;

  if (flags & DEVICE_MAY_TRIM)
    f |= NBDKIT_FLAG_MAY_TRIM;
  if (flags & DEVICE_FAST)
    f |= NBDKIT_FLAG_FAST_ZERO;
  if (nd->minimum > 1)
    spread_lock_shared (&nd->patch_lock);
  CALL_NEXT (nd, err, next->zero (next, count, offset, f, errp));
  if (nd->minimum > 1)
    spread_unlock_shared (&nd->patch_lock);
  return err == EOPNOTSUPP ? ENOTSUP : err;
}

/* The device's operations. */

static errcode_t
nextdev_pread (struct device *dev, void *buf, uint32_t count,
               uint64_t offset)
{
  struct nextdev *nd = to_nextdev (dev);
  struct parts p;
  char *b = buf;
  errcode_t err;

  if (is_aligned (nd, count, offset))
    return read_aligned (nd, buf, count, offset);
  p = divide (nd, count, offset);
  err = read_edge (nd, b, p.head, offset);
  if (!err)
    err = read_aligned (nd, b + p.head, p.middle, offset + p.head);
  if (!err)
    err = read_edge (nd, b + p.head + p.middle, p.tail,
                     offset + p.head + p.middle);
  return err;
}

static errcode_t
nextdev_pwrite (struct device *dev, const void *buf, uint32_t count,
                uint64_t offset, unsigned flags)
{
  struct nextdev *nd = to_nextdev (dev);
  struct parts p;
  const char *b = buf;
  errcode_t err;

  if (is_aligned (nd, count, offset))
    return write_middle (nd, buf, count, offset, flags);
  p = divide (nd, count, offset);
  err = patch_edge (nd, b, p.head, offset, flags);
  if (!err)
    err = write_middle (nd, b + p.head, p.middle, offset + p.head, flags);
  if (!err)
    err = patch_edge (nd, b + p.head + p.middle, p.tail,
                      offset + p.head + p.middle, flags);
  return err;
}

static errcode_t
nextdev_zero (struct device *dev, uint32_t count, uint64_t offset,
              unsigned flags)
{
  struct nextdev *nd = to_nextdev (dev);
  struct parts p;
  errcode_t err = 0;

  if (is_aligned (nd, count, offset))
    return zero_middle (nd, count, offset, flags);
  /* A patch writes.  Nothing has been changed yet. */
  if (flags & DEVICE_FAST)
    return ENOTSUP;
  p = divide (nd, count, offset);
  if (p.middle > 0)
    err = zero_middle (nd, p.middle, offset + p.head, flags);
  if (!err)
    err = patch_edge (nd, NULL, p.head, offset, flags);
  if (!err)
    err = patch_edge (nd, NULL, p.tail, offset + p.head + p.middle, flags);
  return err;
}

/* Advice, so the edges are left.  No patch is in the way of the blocks
 * between them: it would be of bytes that are trimmed.
 */
static errcode_t
nextdev_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  struct nextdev *nd = to_nextdev (dev);
  struct parts p = { .middle = count };
  errcode_t err = 0;

  if (!is_aligned (nd, count, offset))
    p = divide (nd, count, offset);
  if (p.middle > 0)
    CALL_NEXT (nd, err,
               next->trim (next, p.middle, offset + p.head, 0, errp));
  return err;
}

static errcode_t
nextdev_cache (struct device *dev, uint32_t count, uint64_t offset)
{
  struct nextdev *nd = to_nextdev (dev);
  struct widened w = widen (nd, count, offset);
  errcode_t err;

  if (w.count > dev->size - w.offset)
    return 0;                   /* advice */
  CALL_NEXT (nd, err, next->cache (next, w.count, w.offset, 0, errp));
  return err;
}

static errcode_t
nextdev_flush (struct device *dev)
{
  struct nextdev *nd = to_nextdev (dev);
  errcode_t err;

  CALL_NEXT (nd, err, next->flush (next, 0, errp));
  return err;
}

/* The first extent of the answer. */
static errcode_t
first_extent (struct nextdev *nd, uint32_t count, uint64_t offset,
              struct nbdkit_extents *extents, struct nbdkit_extent *first)
{
  errcode_t err;

  CALL_NEXT (nd, err, next->extents (next, count, offset,
                                     NBDKIT_FLAG_REQ_ONE, extents, errp));
  if (err)
    return err;
  if (nbdkit_extents_count (extents) == 0)
    return EIO;
  *first = nbdkit_get_extent (extents, 0);
  return 0;
}

static errcode_t
nextdev_status (struct device *dev, uint32_t count, uint64_t offset,
                uint32_t *len, bool *hole)
{
  const uint32_t zero_hole = NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
  struct nextdev *nd = to_nextdev (dev);
  struct nbdkit_extents *extents;
  struct nbdkit_extent first;
  errcode_t err;

  *len = count;
  *hole = false;
  if (!is_aligned (nd, count, offset))
    return 0;
  extents = nbdkit_extents_new (offset, offset + count);
  if (extents == NULL)
    return ENOMEM;
  err = first_extent (nd, count, offset, extents, &first);
  nbdkit_extents_free (extents);
  if (err)
    return err;
  if (first.length < count)
    *len = first.length;
  *hole = (first.type & zero_hole) == zero_hole;
  return 0;
}

static const struct device_ops nextdev_ops = {
  .pread = nextdev_pread,
  .pwrite = nextdev_pwrite,
  .zero = nextdev_zero,
  .trim = nextdev_trim,
  .cache = nextdev_cache,
  .flush = nextdev_flush,
  .status = nextdev_status,
};

/* Opening. */

static int
ask_limits (struct nextdev *nd)
{
  uint32_t preferred;

  if (nd->next->block_size (nd->next, &nd->minimum, &preferred,
                            &nd->maximum) == -1)
    return -1;
  if (nd->minimum == 0)         /* the plugin has no opinion */
    nd->minimum = 1;
  if (nd->maximum == 0 || nd->maximum > MAX_REQUEST)
    nd->maximum = MAX_REQUEST;
  nd->maximum &= ~(nd->minimum - 1);
  if (nd->maximum == 0)
    nd->maximum = nd->minimum;
  return 0;
}

static int
ask_everything (struct nextdev *nd)
{
  nbdkit_next *next = nd->next;
  struct device *dev = &nd->dev;
  int64_t size = next->get_size (next);
  int writable, flush, trim, zero, fast_zero, fua, extents, cache, multi,
    rotational;
  const char *description;

  if (size == -1 || ask_limits (nd) == -1)
    return -1;
  writable = next->can_write (next);
  flush = next->can_flush (next);
  trim = next->can_trim (next);
  zero = next->can_zero (next);
  fast_zero = next->can_fast_zero (next);
  fua = next->can_fua (next);
  extents = next->can_extents (next);
  cache = next->can_cache (next);
  multi = next->can_multi_conn (next);
  rotational = next->is_rotational (next);
  if (writable == -1 || flush == -1 || trim == -1 || zero == -1 ||
      fast_zero == -1 || fua == -1 || extents == -1 || cache == -1 ||
      multi == -1 || rotational == -1)
    return -1;
  description = next->export_description (next);
  if (description && (nd->description = strdup (description)) == NULL) {
    log_error ("no memory for the device");
    return -1;
  }
  /* With a minimum block size a ragged end could not be written. */
  dev->size = (uint64_t) size & ~((uint64_t) nd->minimum - 1);
  dev->writable = writable;
  dev->can_flush = flush;
  dev->can_trim = trim;
  /* EMULATE would write zeros without telling; it still is one call. */
  dev->can_zero = zero != NBDKIT_ZERO_NONE;
  dev->can_fast_zero = fast_zero;
  /* EMULATE would be a write and a flush, of which we could not tell which
   * one failed: device.c makes the same two calls itself.
   */
  dev->can_fua = fua == NBDKIT_FUA_NATIVE;
  dev->can_cache = cache == NBDKIT_CACHE_NATIVE;
  dev->can_status = extents;
  nd->rotational = rotational;
  return 0;
}

struct device *
nextdev_open (nbdkit_backend *backend, bool readonly, int thread_model)
{
  struct nextdev *nd = aligned_alloc (CACHE_LINE, sizeof *nd);

  if (nd == NULL) {
    log_error ("no memory for the device");
    return NULL;
  }
  memset (nd, 0, sizeof *nd);
  nd->serialise = thread_model < NBDKIT_THREAD_MODEL_PARALLEL;
  nd->dev.ops = &nextdev_ops;
  nd->dev.parallel = !nd->serialise;
  lock_init (&nd->lock, LOCK_DEVICE);
  spread_lock_init (&nd->patch_lock, 0);
  /* The default export: most plugins ignore the name, and two names
   * would mount one disk twice.
   */
  nd->next = nbdkit_next_context_open (backend, readonly, "", 1);
  if (nd->next == NULL)
    goto err;
  if (nd->next->prepare (nd->next) == -1)
    goto err_next;
  if (ask_everything (nd) == -1) {
    nd->next->finalize (nd->next);
    goto err_next;
  }
  return &nd->dev;

 err_next:
  nbdkit_next_context_close (nd->next);
 err:
  spread_lock_destroy (&nd->patch_lock);
  lock_destroy (&nd->lock);
  free (nd->description);
  free (nd);
  return NULL;
}

void
nextdev_close (struct device *dev)
{
  struct nextdev *nd = to_nextdev (dev);

  nd->next->finalize (nd->next);
  nbdkit_next_context_close (nd->next);
  spread_lock_destroy (&nd->patch_lock);
  lock_destroy (&nd->lock);
  free (nd->description);
  free (nd);
}

const char *
nextdev_description (const struct device *dev)
{
  const struct nextdev *nd = (const void *) dev;

  return nd->description;
}

bool
nextdev_is_rotational (const struct device *dev)
{
  const struct nextdev *nd = (const void *) dev;

  return nd->rotational;
}

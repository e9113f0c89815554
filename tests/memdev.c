/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A block device in memory: see memdev.h. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memdev.h"

/* From this size on zeros are made by punching a hole. */
#define PUNCH (UINT64_C (1) << 20)

static void
die (const char *what)
{
  perror (what);
  abort ();
}

uint64_t
rng_next (struct rng *r)
{
  uint64_t z = r->state += UINT64_C (0x9e3779b97f4a7c15);

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

uint64_t
rng_below (struct rng *r, uint64_t n)
{
  return rng_next (r) % n;
}

void
rng_fill (struct rng *r, void *buf, size_t len)
{
  uint8_t *p = buf;

  while (len > 0) {
    uint64_t v = rng_next (r);
    size_t n = len < sizeof v ? len : sizeof v;

    memcpy (p, &v, n);
    p += n;
    len -= n;
  }
}

static struct memdev *
to_memdev (struct device *dev)
{
  return (struct memdev *) dev;
}

static void
dawdle (struct memdev *md)
{
  static _Thread_local struct rng rng;

  if (md->delay_us == 0)
    return;
  if (rng.state == 0)
    rng.state = (uintptr_t) &rng;
  /* Mostly not at all: that is what makes the order vary. */
  if (rng_below (&rng, 4) == 0)
    usleep (rng_below (&rng, md->delay_us) + 1);
}

/* No lock and no ordering here: the test device must not hide races by
 * ordering its callers.
 */
static errcode_t
enter (struct memdev *md, enum memdev_call call)
{
  uint64_t n;

  atomic_fetch_add_explicit (&md->calls[call], 1, memory_order_relaxed);
  dawdle (md);
  if (!(md->fail_mask & MEMDEV_MASK (call)))
    return 0;
  n = atomic_fetch_add_explicit (&md->fail_seen, 1, memory_order_relaxed) + 1;
  return n >= md->fail_from && n < md->fail_to ? md->fail_error : 0;
}

static void
check_call (struct memdev *md, uint64_t count, uint64_t offset)
{
  if (count == 0 || offset > md->dev.size || count > md->dev.size - offset) {
    fprintf (stderr, "memdev: %llu bytes at %llu are outside the device\n",
             (unsigned long long) count, (unsigned long long) offset);
    abort ();
  }
}

static void
log_add (struct memdev *md, enum memdev_call call, const void *data,
         uint32_t count, uint64_t offset, unsigned flags)
{
  struct memdev_entry *e;

  if (!md->logging)
    return;
  pthread_mutex_lock (&md->log_lock);
  if (md->log_count == md->log_size) {
    md->log_size = md->log_size ? md->log_size * 2 : 256;
    md->log = realloc (md->log, md->log_size * sizeof *md->log);
    if (md->log == NULL)
      die ("realloc");
  }
  e = &md->log[md->log_count++];
  *e = (struct memdev_entry) { call, offset, count, flags, NULL };
  if (data) {
    e->data = malloc (count);
    if (e->data == NULL)
      die ("malloc");
    memcpy (e->data, data, count);
  }
  pthread_mutex_unlock (&md->log_lock);
}

static errcode_t
md_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_READ);

  check_call (md, count, offset);
  if (!err)
    memcpy (buf, md->mem + offset, count);
  return err;
}

static errcode_t
md_pwrite (struct device *dev, const void *buf, uint32_t count,
           uint64_t offset, unsigned flags)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_WRITE);

  check_call (md, count, offset);
  if ((flags & ~DEVICE_FUA) || ((flags & DEVICE_FUA) && !dev->can_fua))
    abort ();
  if (err)
    return err;
  memcpy (md->mem + offset, buf, count);
  log_add (md, MEMDEV_WRITE, buf, count, offset, flags);
  return 0;
}

static void
clear (struct memdev *md, uint64_t count, uint64_t offset)
{
  if (count >= PUNCH &&
      fallocate (md->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                 count) == 0)
    return;
  memset (md->mem + offset, 0, count);
}

static errcode_t
md_zero (struct device *dev, uint32_t count, uint64_t offset, unsigned flags)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_ZERO);

  check_call (md, count, offset);
  if (!dev->can_zero || ((flags & DEVICE_FAST) && !dev->can_fast_zero) ||
      ((flags & DEVICE_FUA) && !dev->can_fua))
    abort ();
  if (err)
    return err;
  clear (md, count, offset);
  log_add (md, MEMDEV_ZERO, NULL, count, offset, flags);
  return 0;
}

static errcode_t
md_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_TRIM);

  check_call (md, count, offset);
  if (!dev->can_trim)
    abort ();
  if (err)
    return err;
  if (md->trim_discards)
    memset (md->mem + offset, 0xdd, count);
  log_add (md, MEMDEV_TRIM, NULL, count, offset, 0);
  return 0;
}

static errcode_t
md_cache (struct device *dev, uint32_t count, uint64_t offset)
{
  struct memdev *md = to_memdev (dev);

  check_call (md, count, offset);
  return enter (md, MEMDEV_CACHE);
}

static errcode_t
md_flush (struct device *dev)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_FLUSH);

  if (!err)
    log_add (md, MEMDEV_FLUSH, NULL, 0, 0, 0);
  return err;
}

static const struct device_ops memdev_ops = {
  .pread = md_pread,
  .pwrite = md_pwrite,
  .zero = md_zero,
  .trim = md_trim,
  .cache = md_cache,
  .flush = md_flush,
};

struct memdev *
memdev_new (uint64_t size)
{
  struct memdev *md = calloc (1, sizeof *md);

  if (md == NULL)
    die ("calloc");
  md->fd = memfd_create ("memdev", 0);
  if (md->fd == -1 || ftruncate (md->fd, size) == -1)
    die ("memfd_create");
  md->mem = mmap (NULL, size, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_NORESERVE, md->fd, 0);
  if (md->mem == MAP_FAILED)
    die ("mmap");
  md->dev = (struct device) {
    .ops = &memdev_ops, .size = size, .writable = true, .parallel = true,
    .can_flush = true, .can_fua = true, .can_zero = true,
    .can_fast_zero = true, .can_trim = true, .can_cache = true,
  };
  md->trim_discards = true;
  pthread_mutex_init (&md->log_lock, NULL);
  return md;
}

static void
log_clear (struct memdev *md)
{
  size_t i;

  for (i = 0; i < md->log_count; i++)
    free (md->log[i].data);
  free (md->log);
  free (md->log_base);
  md->log = NULL;
  md->log_base = NULL;
  md->log_count = md->log_size = 0;
  md->logging = false;
}

void
memdev_free (struct memdev *md)
{
  if (md == NULL)
    return;
  log_clear (md);
  munmap (md->mem, md->dev.size);
  close (md->fd);
  pthread_mutex_destroy (&md->log_lock);
  free (md);
}

const char *
memdev_path (struct memdev *md, char *buf, size_t len)
{
  snprintf (buf, len, "/proc/self/fd/%d", md->fd);
  return buf;
}

/* Holes stay holes. */
static void
copy_data (struct memdev *to, const uint8_t *from, uint64_t size)
{
  static const uint8_t zeros[65536];
  uint64_t at, n;

  for (at = 0; at < size; at += n) {
    n = size - at < sizeof zeros ? size - at : sizeof zeros;
    if (memcmp (from + at, zeros, n) != 0)
      memcpy (to->mem + at, from + at, n);
  }
}

struct memdev *
memdev_copy (struct memdev *md)
{
  struct memdev *copy = memdev_new (md->dev.size);

  copy->dev = md->dev;
  copy->trim_discards = md->trim_discards;
  copy_data (copy, md->mem, md->dev.size);
  return copy;
}

void
memdev_fail (struct memdev *md, unsigned mask, uint64_t n, uint64_t count,
             errcode_t error)
{
  md->fail_mask = mask;
  md->fail_error = error;
  md->fail_from = n;
  md->fail_to = count > UINT64_MAX - n ? UINT64_MAX : n + count;
  atomic_store (&md->fail_seen, 0);
}

void
memdev_heal (struct memdev *md)
{
  md->fail_mask = 0;
}

bool
memdev_has_failed (struct memdev *md)
{
  return atomic_load (&md->fail_seen) >= md->fail_from;
}

uint64_t
memdev_count (struct memdev *md, unsigned mask)
{
  uint64_t n = 0;
  int i;

  for (i = 0; i < MEMDEV_CALLS; i++)
    if (mask & MEMDEV_MASK (i))
      n += atomic_load (&md->calls[i]);
  return n;
}

void
memdev_log_start (struct memdev *md)
{
  log_clear (md);
  md->log_base = malloc (md->dev.size);
  if (md->log_base == NULL)
    die ("malloc");
  memcpy (md->log_base, md->mem, md->dev.size);
  md->logging = true;
}

void
memdev_log_stop (struct memdev *md)
{
  md->logging = false;
}

struct memdev *
memdev_power_cut (struct memdev *md, size_t n, uint64_t seed)
{
  struct memdev *cut = memdev_new (md->dev.size);
  struct rng rng = { seed };
  size_t durable = 0, i;

  cut->dev = md->dev;
  copy_data (cut, md->log_base, md->dev.size);
  for (i = 0; i < n; i++)
    if (md->log[i].call == MEMDEV_FLUSH)
      durable = i;
  for (i = 0; i < n; i++) {
    const struct memdev_entry *e = &md->log[i];

    if (i > durable && seed != 0 && !(e->flags & DEVICE_FUA) &&
        rng_next (&rng) % 2 == 0)
      continue;
    if (e->call == MEMDEV_WRITE)
      memcpy (cut->mem + e->offset, e->data, e->count);
    else if (e->call == MEMDEV_ZERO)
      memset (cut->mem + e->offset, 0, e->count);
    else if (e->call == MEMDEV_TRIM && md->trim_discards)
      memset (cut->mem + e->offset, 0xdd, e->count);
  }
  return cut;
}

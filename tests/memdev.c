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
#include "powercut.h"

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
  if (md->before)
    md->before (md->opaque, call);
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

uint64_t
memdev_stamp (struct memdev *md)
{
  uint64_t stamp;

  pthread_mutex_lock (&md->log_lock);
  stamp = ++md->stamp;
  pthread_mutex_unlock (&md->log_lock);
  return stamp;
}

/* A call begins.  Returns the number of its entry, for log_end. */
static size_t
log_begin (struct memdev *md, enum memdev_call call, const void *data,
           uint32_t count, uint64_t offset, unsigned flags)
{
  uint8_t *copy = NULL;
  size_t n;

  if (!md->logging)
    return SIZE_MAX;
  if (data) {
    copy = malloc (count);
    if (copy == NULL)
      die ("malloc");
    memcpy (copy, data, count);
  }
  pthread_mutex_lock (&md->log_lock);
  if (md->log_count == md->log_size) {
    md->log_size = md->log_size ? md->log_size * 2 : 256;
    md->log = realloc (md->log, md->log_size * sizeof *md->log);
    if (md->log == NULL)
      die ("realloc");
  }
  n = md->log_count++;
  md->log[n] = (struct memdev_entry) {
    .call = call, .offset = offset, .count = count, .flags = flags,
    .data = copy, .begin = ++md->stamp, .end = UINT64_MAX,
  };
  pthread_mutex_unlock (&md->log_lock);
  return n;
}

static void
log_end (struct memdev *md, size_t n)
{
  if (n == SIZE_MAX)
    return;
  dawdle (md);                  /* so that calls overlap in the log too */
  pthread_mutex_lock (&md->log_lock);
  md->log[n].end = ++md->stamp;
  pthread_mutex_unlock (&md->log_lock);
}

/* Byte by byte, so that no two threads race in the language's sense. */
static void
copy_relaxed (uint8_t *to, const uint8_t *from, uint32_t count)
{
  uint32_t i;

  for (i = 0; i < count; i++)
    __atomic_store_n (&to[i], __atomic_load_n (&from[i], __ATOMIC_RELAXED),
                      __ATOMIC_RELAXED);
}

static void
set_relaxed (uint8_t *to, uint8_t with, uint32_t count)
{
  uint32_t i;

  for (i = 0; i < count; i++)
    __atomic_store_n (&to[i], with, __ATOMIC_RELAXED);
}

static void
copy (struct memdev *md, void *to, const void *from, uint32_t count)
{
  if (md->overlaps)
    copy_relaxed (to, from, count);
  else
    memcpy (to, from, count);
}

static void
set (struct memdev *md, uint64_t offset, uint8_t with, uint32_t count)
{
  if (md->overlaps)
    set_relaxed (md->mem + offset, with, count);
  else
    memset (md->mem + offset, with, count);
}

static void
stay_if_held (struct memdev *md, uint32_t count, uint64_t offset)
{
  const uint64_t at = atomic_load_explicit (&md->hold, memory_order_relaxed);

  if (at == 0 || at < offset || at - offset >= count)
    return;
  atomic_store (&md->held, true);
  while (atomic_load (&md->hold) == at)
    usleep (100);
}

void
memdev_hold (struct memdev *md, uint64_t offset)
{
  atomic_store (&md->held, false);
  atomic_store (&md->hold, offset);
}

static void
stay_if_byte (struct memdev *md, const uint8_t *data)
{
  const unsigned byte = atomic_load_explicit (&md->hold_byte,
                                              memory_order_relaxed);

  if (byte == 0 || data[0] != byte)
    return;
  atomic_store (&md->held, true);
  while (atomic_load (&md->hold_byte) == byte)
    usleep (100);
}

void
memdev_hold_byte (struct memdev *md, uint8_t byte)
{
  atomic_store (&md->held, false);
  atomic_store (&md->hold_byte, byte);
}

static void
stay_if_trim (struct memdev *md)
{
  if (!atomic_load_explicit (&md->hold_trims, memory_order_relaxed))
    return;
  atomic_store (&md->held, true);
  while (atomic_load (&md->hold_trims))
    usleep (100);
}

void
memdev_hold_trims (struct memdev *md, bool hold)
{
  atomic_store (&md->held, false);
  atomic_store (&md->hold_trims, hold);
}

void
memdev_hold_flush (struct memdev *md, bool hold)
{
  atomic_store (&md->held, false);
  atomic_store (&md->hold_flushes, hold);
}

void
memdev_wait_held (struct memdev *md)
{
  while (!atomic_load (&md->held))
    usleep (100);
}

static errcode_t
md_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_READ);

  check_call (md, count, offset);
  stay_if_held (md, count, offset);
  if (!err)
    copy (md, buf, md->mem + offset, count);
  return err;
}

static errcode_t
md_pwrite (struct device *dev, const void *buf, uint32_t count,
           uint64_t offset, unsigned flags)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_WRITE);
  size_t n;

  check_call (md, count, offset);
  if ((flags & ~DEVICE_FUA) || ((flags & DEVICE_FUA) && !dev->can_fua))
    abort ();
  if (err)
    return err;
  stay_if_held (md, count, offset);
  stay_if_byte (md, buf);
  n = log_begin (md, MEMDEV_WRITE, buf, count, offset, flags);
  copy (md, md->mem + offset, buf, count);
  log_end (md, n);
  return 0;
}

static void
clear (struct memdev *md, uint64_t count, uint64_t offset)
{
  if (count >= PUNCH &&
      fallocate (md->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                 count) == 0)
    return;
  set (md, offset, 0, count);
}

static errcode_t
md_zero (struct device *dev, uint32_t count, uint64_t offset, unsigned flags)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_ZERO);
  size_t n;

  check_call (md, count, offset);
  if (!dev->can_zero || ((flags & DEVICE_FAST) && !dev->can_fast_zero) ||
      ((flags & DEVICE_FUA) && !dev->can_fua))
    abort ();
  if (err)
    return err;
  stay_if_held (md, count, offset);
  n = log_begin (md, MEMDEV_ZERO, NULL, count, offset, flags);
  clear (md, count, offset);
  log_end (md, n);
  return 0;
}

static errcode_t
md_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  struct memdev *md = to_memdev (dev);
  errcode_t err = enter (md, MEMDEV_TRIM);
  size_t n;

  check_call (md, count, offset);
  if (!dev->can_trim)
    abort ();
  if (err)
    return err;
  stay_if_trim (md);
  n = log_begin (md, MEMDEV_TRIM, NULL, count, offset, 0);
  if (md->trim_discards)
    set (md, offset, MEMDEV_TRIMMED, count);
  log_end (md, n);
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

  if (atomic_load_explicit (&md->hold_flushes, memory_order_relaxed)) {
    atomic_store (&md->held, true);
    while (atomic_load (&md->hold_flushes))
      usleep (100);
  }
  if (!err)
    log_end (md, log_begin (md, MEMDEV_FLUSH, NULL, 0, 0, 0));
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

/* Up to this size, all pages are there at once: it is cheaper than a fault
 * for each of them.
 */
#define SMALL (UINT64_C (8) << 20)

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
                  MAP_SHARED | MAP_NORESERVE
                  | (size <= SMALL ? MAP_POPULATE : 0), md->fd, 0);
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
  atomic_init (&copy->dev.flush_failed, false);
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
  const struct powercut how = {
    .at = n < md->log_count ? md->log[n].begin : UINT64_MAX,
    .mode = seed ? POWERCUT_SOME : POWERCUT_ALL, .seed = seed,
  };
  struct replay *r = replay_new (md->log_base, md->dev.size, md->log,
                                 md->log_count, SECTOR);

  cut->dev = md->dev;
  replay_cut (r, &how, cut->mem);
  replay_free (r);
  return cut;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A block device for the fuzzers: see fuzz-device.h. */

#include <config.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz-device.h"

#define PAGE 4096u

/* What a trimmed range reads as. */
#define TRIMMED 0xdd

void
fuzz_die (const char *fmt, ...)
{
  va_list ap;

  fputs ("fuzz: ", stderr);
  va_start (ap, fmt);
  vfprintf (stderr, fmt, ap);
  va_end (ap);
  fputc ('\n', stderr);
  abort ();
}

static struct fuzz_device *
to_fuzz (struct device *dev)
{
  return (struct fuzz_device *) dev;
}

static void
mark (struct fuzz_device *d, uint64_t offset, uint64_t len)
{
  uint64_t page;

  for (page = offset / PAGE; len > 0 && page <= (offset + len - 1) / PAGE;
       page++)
    atomic_store_explicit (&d->dirty[page], 1, memory_order_relaxed);
}

/* How many of COUNT bytes at OFFSET are in memory. */
static uint64_t
inside (const struct fuzz_device *d, uint64_t count, uint64_t offset)
{
  if (offset >= d->mem_size)
    return 0;
  return count < d->mem_size - offset ? count : d->mem_size - offset;
}

static void
spend (struct fuzz_device *d, uint64_t count)
{
  if (atomic_fetch_sub (&d->calls, 1) == 0)
    fuzz_die ("more calls of the device than the image explains");
  if (atomic_fetch_sub (&d->bytes, count) < count)
    fuzz_die ("more bytes of the device than the image explains");
}

static bool
is_fault_for (enum fuzz_fault fault, enum fuzz_fault call)
{
  switch (fault) {
  case FUZZ_FAULT_SPACE:
  case FUZZ_FAULT_DEAD:
    return call == FUZZ_FAULT_WRITE ||
      (fault == FUZZ_FAULT_DEAD && call == FUZZ_FAULT_FLUSH);
  default:
    return fault == call;
  }
}

/* A call of the kind CALL begins. */
static errcode_t
enter (struct fuzz_device *d, enum fuzz_fault call, uint64_t count)
{
  uint64_t n;

  spend (d, count);
  if (call == FUZZ_FAULT_WRITE) {
    if (d->frozen || !d->dev.writable)
      fuzz_die ("a change of a device that is to be left alone");
    atomic_fetch_add (&d->changes, 1);
  }
  if (d->fault == FUZZ_FAULT_DEAD && atomic_load (&d->failed))
    return EIO;
  if (!is_fault_for (d->fault, call))
    return 0;
  n = atomic_fetch_add (&d->seen, 1) + 1;
  if (n != d->fault_at)
    return 0;
  atomic_store (&d->failed, true);
  return d->fault == FUZZ_FAULT_SPACE ? ENOSPC : EIO;
}

static errcode_t
fd_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct fuzz_device *d = to_fuzz (dev);
  const errcode_t err = enter (d, FUZZ_FAULT_READ, count);
  const uint64_t n = inside (d, count, offset);

  if (err)
    return err;
  if (n > 0)
    memcpy (buf, d->mem + offset, n);
  memset ((uint8_t *) buf + n, 0, count - n);
  return 0;
}

static void
check_flags (const struct device *dev, unsigned flags, unsigned known)
{
  if ((flags & ~known) || ((flags & DEVICE_FUA) && !dev->can_fua) ||
      ((flags & DEVICE_FAST) && !dev->can_fast_zero))
    fuzz_die ("flags 0x%x that the device does not know", flags);
}

static errcode_t
fd_pwrite (struct device *dev, const void *buf, uint32_t count,
           uint64_t offset, unsigned flags)
{
  struct fuzz_device *d = to_fuzz (dev);
  const errcode_t err = enter (d, FUZZ_FAULT_WRITE, count);
  const uint64_t n = inside (d, count, offset);

  check_flags (dev, flags, DEVICE_FUA);
  if (err)
    return err;
  mark (d, offset, n);
  if (n > 0)
    memcpy (d->mem + offset, buf, n);
  return 0;
}

static void
fill (struct fuzz_device *d, uint8_t with, uint32_t count, uint64_t offset)
{
  const uint64_t n = inside (d, count, offset);

  mark (d, offset, n);
  if (n > 0)
    memset (d->mem + offset, with, n);
}

static errcode_t
fd_zero (struct device *dev, uint32_t count, uint64_t offset, unsigned flags)
{
  struct fuzz_device *d = to_fuzz (dev);
  const errcode_t err = enter (d, FUZZ_FAULT_WRITE, 0);

  if (!dev->can_zero)
    fuzz_die ("a zero although the device has none");
  check_flags (dev, flags, DEVICE_FUA | DEVICE_FAST | DEVICE_MAY_TRIM);
  if (!err)
    fill (d, 0, count, offset);
  return err;
}

static errcode_t
fd_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  struct fuzz_device *d = to_fuzz (dev);
  const errcode_t err = enter (d, FUZZ_FAULT_WRITE, 0);

  if (!dev->can_trim)
    fuzz_die ("a trim although the device has none");
  if (!err)
    fill (d, TRIMMED, count, offset);
  return err;
}

static errcode_t
fd_cache (struct device *dev, uint32_t count, uint64_t offset)
{
  struct fuzz_device *d = to_fuzz (dev);

  (void) count;
  (void) offset;
  return enter (d, FUZZ_FAULT_NONE, 0);
}

static errcode_t
fd_flush (struct device *dev)
{
  return enter (to_fuzz (dev), FUZZ_FAULT_FLUSH, 0);
}

static const struct device_ops ops = {
  .pread = fd_pread, .pwrite = fd_pwrite, .zero = fd_zero, .trim = fd_trim,
  .cache = fd_cache, .flush = fd_flush,
};

struct fuzz_device *
fuzz_device_new (uint8_t *base, uint64_t size, bool writable)
{
  struct fuzz_device *d = calloc (1, sizeof *d);

  if (d == NULL)
    fuzz_die ("no memory");
  d->base = base;
  d->mem_size = size;
  d->mem = writable ? malloc (size) : base;
  d->dirty = calloc (size / PAGE + 1, sizeof *d->dirty);
  if (d->mem == NULL || d->dirty == NULL)
    fuzz_die ("no memory");
  if (writable)
    memcpy (d->mem, base, size);
  fuzz_device_reset (d);
  d->dev.writable = writable;
  return d;
}

void
fuzz_device_reset (struct fuzz_device *d)
{
  uint64_t at, n;

  for (at = 0; at < d->mem_size; at += PAGE) {
    if (!d->dirty[at / PAGE])
      continue;
    n = inside (d, PAGE, at);
    memcpy (d->mem + at, d->base + at, n);
    d->dirty[at / PAGE] = 0;
  }
  d->dev = (struct device) {
    .ops = &ops, .size = d->mem_size, .writable = true, .parallel = true,
    .can_flush = true, .can_fua = true, .can_zero = true,
    .can_fast_zero = true, .can_trim = true, .can_cache = true,
  };
  d->fault = FUZZ_FAULT_NONE;
  d->frozen = false;
  d->failed = false;
  d->calls = d->bytes = d->seen = d->changes = 0;
}

void
fuzz_device_allow (struct fuzz_device *d, uint64_t calls, uint64_t bytes)
{
  atomic_fetch_add (&d->calls, calls);
  atomic_fetch_add (&d->bytes, bytes);
}

void
fuzz_device_fault (struct fuzz_device *d, enum fuzz_fault fault, uint64_t at)
{
  d->fault = fault;
  d->fault_at = at;
  d->failed = false;
  d->seen = 0;
}

uint8_t *
fuzz_device_at (struct fuzz_device *d, uint64_t offset, uint64_t len)
{
  if (len == 0 || inside (d, len, offset) != len)
    return NULL;
  mark (d, offset, len);
  return d->mem + offset;
}

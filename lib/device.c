/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Range checks, splitting and fallbacks around a device's operations. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "device.h"
#include "errors.h"

/* One call to the device is at most this long: an NBD request's length,
 * and what nbdkit's zero path takes before 1.44.1.  Bytes.
 */
#define MAX_CALL (UINT32_C (64) << 20)

/* Zeros to write where there is no zero operation.  Bytes. */
#define ZEROS (UINT32_C (256) << 10)

static bool
in_range (const struct device *dev, uint64_t count, uint64_t offset)
{
  return offset <= dev->size && count <= dev->size - offset;
}

static errcode_t
out_of_range (const struct device *dev, const char *op, uint64_t count,
              uint64_t offset)
{
  log_error ("%s of %llu bytes at offset %llu is outside the device "
             "(%llu bytes): the filesystem is damaged, run e2fsck", op,
             (unsigned long long) count, (unsigned long long) offset,
             (unsigned long long) dev->size);
  return EIO;
}

static bool
is_revoked (struct device *dev)
{
  return atomic_load_explicit (&dev->revoked, memory_order_relaxed);
}

static void
count_written (struct device *dev, uint64_t count)
{
  atomic_fetch_add_explicit (&dev->written[spread_own_part ()].bytes, count,
                             memory_order_relaxed);
}

uint64_t
device_written (const struct device *dev)
{
  uint64_t sum = 0;
  unsigned i;

  for (i = 0; i < SPREAD_PARTS; i++)
    sum += atomic_load_explicit (&dev->written[i].bytes,
                                 memory_order_relaxed);
  return sum;
}

static uint32_t
first_part (uint64_t count, uint32_t most)
{
  return count < most ? (uint32_t) count : most;
}

/* What ERR of an operation means to our callers (device.h); CHANGE: it was
 * a write or zero.
 */
static errcode_t
meaning (errcode_t err, bool change)
{
  switch (err) {
  case 0:
  case EIO:
  case ENOMEM:
  case ESHUTDOWN:
    return err;
  case EROFS:
  case EPERM:
    return change ? err : EIO;
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
    return change ? ENOSPC : EIO;
  default:
    log_debug ("error %ld of the device is taken for EIO", (long) err);
    return EIO;
  }
}

errcode_t
device_pread (struct device *dev, void *buf, uint64_t count, uint64_t offset)
{
  char *p = buf;
  errcode_t err;

  if (!in_range (dev, count, offset))
    return out_of_range (dev, "read", count, offset);
  while (count > 0) {
    uint32_t n = first_part (count, MAX_CALL);

    err = dev->ops->pread (dev, p, n, offset);
    if (err)
      return meaning (err, false);
    p += n;
    offset += n;
    count -= n;
  }
  return 0;
}

bool
device_flush_failed (const struct device *dev)
{
  return atomic_load (&dev->flush_failed);
}

void
device_set_flush_failed (struct device *dev)
{
  atomic_store (&dev->flush_failed, true);
}

static void
flush_has_failed (struct device *dev, errcode_t err)
{
  char why[128];

  if (!atomic_exchange (&dev->flush_failed, true))
    log_error ("the device could not make data durable: %s: flushes fail "
               "from now on, because what was lost is not known; restart "
               "the server when the device is well",
               errcode_text (err, why, sizeof why));
}

/* A write with FUA has failed.  Was it the write, or the flush that many
 * plugins make of the rest of FUA?  The first is about this range only.
 * The second is about everybody's data, and the plugin's next flush would
 * succeed all the same.  So it counts as the first only if the range cannot
 * be written without FUA either, and what has been can be flushed.
 */
static void
blame (struct device *dev, const char *p, uint32_t n, uint64_t offset,
       errcode_t err)
{
  if (dev->ops->pwrite (dev, p, n, offset, 0) == 0)
    flush_has_failed (dev, err);
  else
    device_flush (dev);
}

errcode_t
device_pwrite (struct device *dev, const void *buf, uint64_t count,
               uint64_t offset, unsigned flags)
{
  const char *p = buf;
  unsigned f = dev->can_fua ? flags & DEVICE_FUA : 0;
  errcode_t err;

  if (!dev->writable)
    return EROFS;
  if (!in_range (dev, count, offset))
    return out_of_range (dev, "write", count, offset);
  if (is_revoked (dev))
    return EIO;
  count_written (dev, count);
  while (count > 0) {
    uint32_t n = first_part (count, MAX_CALL);

    err = dev->ops->pwrite (dev, p, n, offset, f);
    if (err) {
      err = meaning (err, true);
      if (f)
        blame (dev, p, n, offset, err);
      return err;
    }
    p += n;
    offset += n;
    count -= n;
  }
  if ((flags & DEVICE_FUA) && !f)
    return device_flush (dev);
  return 0;
}

static errcode_t
write_zeros (struct device *dev, uint64_t count, uint64_t offset)
{
  char *zeros = calloc (1, ZEROS);
  errcode_t err = 0;

  if (zeros == NULL)
    return ENOMEM;
  while (count > 0 && !err) {
    uint32_t n = first_part (count, ZEROS);

    err = device_pwrite (dev, zeros, n, offset, 0);
    offset += n;
    count -= n;
  }
  free (zeros);
  return err;
}

errcode_t
device_zero (struct device *dev, uint64_t count, uint64_t offset,
             unsigned flags)
{
  errcode_t err;

  if (!dev->writable)
    return EROFS;
  if (!in_range (dev, count, offset))
    return out_of_range (dev, "zero", count, offset);
  if (is_revoked (dev))
    return EIO;
  if ((flags & DEVICE_FAST) && !dev->can_fast_zero)
    return ENOTSUP;
  if (!dev->can_zero)
    return write_zeros (dev, count, offset);

  while (count > 0) {
    uint32_t n = first_part (count, MAX_CALL);

    err = dev->ops->zero (dev, n, offset, flags);
    if (err == ENOTSUP)
      return flags & DEVICE_FAST ? ENOTSUP
        : write_zeros (dev, count, offset);
    if (err)
      return meaning (err, true);
    count_written (dev, n);
    offset += n;
    count -= n;
  }
  return 0;
}

void
device_trim (struct device *dev, uint64_t count, uint64_t offset)
{
  errcode_t err;

  if (!dev->writable || !dev->can_trim || is_revoked (dev) ||
      !in_range (dev, count, offset))
    return;
  while (count > 0) {
    uint32_t n = first_part (count, MAX_CALL);

    err = dev->ops->trim (dev, n, offset);
    if (err) {
      log_debug ("trim of %lu bytes at %llu was refused by the device",
                 (unsigned long) n, (unsigned long long) offset);
      return;
    }
    offset += n;
    count -= n;
  }
}

errcode_t
device_cache (struct device *dev, uint64_t count, uint64_t offset)
{
  errcode_t err;

  if (!dev->can_cache)
    return 0;
  if (!in_range (dev, count, offset))
    return out_of_range (dev, "cache", count, offset);
  while (count > 0) {
    uint32_t n = first_part (count, MAX_CALL);

    err = dev->ops->cache (dev, n, offset);
    if (err)
      return meaning (err, false);
    offset += n;
    count -= n;
  }
  return 0;
}

errcode_t
device_reserve (struct device *dev, uint64_t count, uint64_t offset)
{
  uint32_t len;
  bool hole;
  errcode_t err = 0;

  if (!dev->writable)
    return EROFS;
  if (!in_range (dev, count, offset))
    return out_of_range (dev, "reservation", count, offset);
  if (!dev->can_status)
    return 0;
  for (; count > 0 && !err; offset += len, count -= len) {
    const uint32_t n = first_part (count, MAX_CALL);

    err = meaning (dev->ops->status (dev, n, offset, &len, &hole), false);
    if (err)
      break;
    if (len == 0 || len > n)
      return EIO;
    if (hole)
      err = device_zero (dev, len, offset, 0);
  }
  return err;
}

errcode_t
device_flush (struct device *dev)
{
  errcode_t err;

  if (is_revoked (dev))
    return EIO;
  if (!dev->writable || !dev->can_flush)
    return 0;
  err = meaning (dev->ops->flush (dev), true);
  if (err)
    flush_has_failed (dev, err);
  return err;
}

void
device_revoke (struct device *dev)
{
  atomic_store (&dev->revoked, true);
}

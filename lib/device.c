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
      return err;
    p += n;
    offset += n;
    count -= n;
  }
  return 0;
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
    if (err)
      return err;
    p += n;
    offset += n;
    count -= n;
  }
  if ((flags & DEVICE_FUA) && !f)
    return device_flush (dev);
  return 0;
}

static errcode_t
write_zeros (struct device *dev, uint64_t count, uint64_t offset,
             unsigned flags)
{
  char *zeros = calloc (1, ZEROS);
  errcode_t err = 0;

  if (zeros == NULL)
    return ENOMEM;
  while (count > 0 && !err) {
    uint32_t n = first_part (count, ZEROS);

    /* Only the last write pays for a flush. */
    err = device_pwrite (dev, zeros, n, offset,
                         dev->can_fua || n == count ? flags & DEVICE_FUA : 0);
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
  unsigned f = flags;
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
    return write_zeros (dev, count, offset, flags);

  if (!dev->can_fua)
    f &= ~DEVICE_FUA;
  while (count > 0) {
    uint32_t n = first_part (count, MAX_CALL);

    err = dev->ops->zero (dev, n, offset, f);
    if (err == ENOTSUP && !(flags & DEVICE_FAST))
      return write_zeros (dev, count, offset, flags);
    if (err)
      return err;
    count_written (dev, n);
    offset += n;
    count -= n;
  }
  if ((flags & DEVICE_FUA) && !dev->can_fua)
    return device_flush (dev);
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
      return err;
    offset += n;
    count -= n;
  }
  return 0;
}

errcode_t
device_flush (struct device *dev)
{
  if (is_revoked (dev))
    return EIO;
  if (!dev->writable || !dev->can_flush)
    return 0;
  return dev->ops->flush (dev);
}

void
device_revoke (struct device *dev)
{
  atomic_store (&dev->revoked, true);
}

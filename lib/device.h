/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block device beneath the filesystem, as a small vtable.
 *
 * The filter implements it over a shared nbdkit_next, tests implement
 * it in memory.  Callers use the device_* functions, never the ops: the
 * functions check every range against the size (a corrupt filesystem
 * must not reach a server that asserts), turn an empty request into
 * success, and supply what the device lacks.
 *
 * All functions may be called by several threads at once; an
 * implementation that cannot bear this takes its own lock
 * (LOCK_DEVICE) and sets parallel = false.
 */

#ifndef EXT2SERVE_DEVICE_H
#define EXT2SERVE_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <et/com_err.h>

#include "spread-lock.h"

struct device;

/* Flags of zero, trim and pwrite. */
#define DEVICE_FUA      1u      /* durable when the call returns */
#define DEVICE_MAY_TRIM 2u      /* zero: the range need not stay allocated */
#define DEVICE_FAST     4u      /* zero: ENOTSUP unless faster than writing */

/* Called with a range inside the device and COUNT > 0. */
struct device_ops {
  errcode_t (*pread) (struct device *dev, void *buf, uint32_t count,
                      uint64_t offset);
  errcode_t (*pwrite) (struct device *dev, const void *buf, uint32_t count,
                       uint64_t offset, unsigned flags);
  errcode_t (*zero) (struct device *dev, uint32_t count, uint64_t offset,
                     unsigned flags);
  errcode_t (*trim) (struct device *dev, uint32_t count, uint64_t offset);
  errcode_t (*cache) (struct device *dev, uint32_t count, uint64_t offset);
  errcode_t (*flush) (struct device *dev);
};

struct device {
  const struct device_ops *ops;
  uint64_t size;                /* bytes */
  bool writable;
  bool parallel;                /* enters itself from many threads */
  bool can_flush;               /* false: flush does nothing */
  bool can_fua;                 /* pwrite and zero take DEVICE_FUA */
  bool can_zero;                /* has an operation for it */
  bool can_fast_zero;           /* takes DEVICE_FAST */
  bool can_trim;
  bool can_cache;

  /* See device_revoke.  [atomic: only ever set] */
  atomic_bool revoked;

  /* Bytes written, for the superblock: a sum of what threads of each part
   * have written.  Every write adds to one, so they are in cache lines of
   * their own, also apart from the fields above, which every request reads.
   */
  char apart[CACHE_LINE];
  struct {
    _Atomic uint64_t bytes;     /* [atomic] */
    char apart[CACHE_LINE - sizeof (uint64_t)];
  } written[SPREAD_PARTS];
};

/* COUNT and OFFSET in bytes.  A range outside the device is EIO: only
 * damaged metadata leads there.  Locks: none needed.
 */
extern errcode_t device_pread (struct device *dev, void *buf,
                               uint64_t count, uint64_t offset);
extern errcode_t device_pwrite (struct device *dev, const void *buf,
                                uint64_t count, uint64_t offset,
                                unsigned flags);

/* The range reads back as zeros afterwards.  With DEVICE_FAST, ENOTSUP
 * (and nothing changed) where that would cost as much as writing;
 * otherwise zeros are written where the device has no operation for it.
 */
extern errcode_t device_zero (struct device *dev, uint64_t count,
                              uint64_t offset, unsigned flags);

/* Advice: errors other than programming mistakes are not reported. */
extern void device_trim (struct device *dev, uint64_t count,
                         uint64_t offset);
extern errcode_t device_cache (struct device *dev, uint64_t count,
                               uint64_t offset);

/* Everything written by calls that have returned is durable. */
extern errcode_t device_flush (struct device *dev);

/* Bytes written since it was opened, those of failed calls as well. */
extern uint64_t device_written (const struct device *dev);

/* The device is somebody else's from now on: whatever would change it,
 * and flushes, fail with EIO (trims do nothing).  Calls that are in the
 * device already are not stopped.
 */
extern void device_revoke (struct device *dev);

#endif /* EXT2SERVE_DEVICE_H */

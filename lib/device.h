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
 * What an implementation says of an error is not taken on trust.  Only these
 * come out of the functions:
 *
 *   EIO        whatever is not one of the others
 *   ENOMEM, ESHUTDOWN
 *   ENOSPC     writes and zeros: the device has no room (EDQUOT and EFBIG
 *              mean the same)
 *   EROFS, EPERM   writes and zeros
 *   ENOTSUP    zeros with DEVICE_FAST
 *
 * So no caller can take an error of the device for one that the layers
 * above it use among themselves.
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

/* Flags of zero and pwrite. */
#define DEVICE_FUA      1u      /* pwrite: durable when the call returns */
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
  /* Is there storage behind OFFSET, and behind the first *LEN of the COUNT
   * bytes from there on?  *HOLE: there is none, and zeros are read.
   */
  errcode_t (*status) (struct device *dev, uint32_t count, uint64_t offset,
                       uint32_t *len, bool *hole);
};

struct device {
  const struct device_ops *ops;
  uint64_t size;                /* bytes */
  bool writable;
  bool parallel;                /* enters itself from many threads */
  bool can_flush;               /* false: flush does nothing */
  bool can_fua;                 /* pwrite takes DEVICE_FUA */
  bool can_zero;                /* has an operation for it */
  bool can_fast_zero;           /* takes DEVICE_FAST */
  bool can_trim;
  bool can_cache;
  bool can_status;

  /* See device_revoke.  [atomic: only ever set] */
  atomic_bool revoked;

  /* See device_flush_failed.  [atomic: only ever set] */
  atomic_bool flush_failed;

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
 *
 * A write with DEVICE_FUA may fail because the write failed, or because a
 * flush did: then device_flush_failed.
 */
extern errcode_t device_pread (struct device *dev, void *buf,
                               uint64_t count, uint64_t offset);
extern errcode_t device_pwrite (struct device *dev, const void *buf,
                                uint64_t count, uint64_t offset,
                                unsigned flags);

/* The range reads back as zeros afterwards.  With DEVICE_FAST, ENOTSUP
 * where that would cost as much as writing (what is zeros by then, if
 * anything, lies inside the range); otherwise zeros are written where the
 * device has no operation for it.
 * FLAGS: not DEVICE_FUA.
 */
extern errcode_t device_zero (struct device *dev, uint64_t count,
                              uint64_t offset, unsigned flags);

/* Advice: errors other than programming mistakes are not reported. */
extern void device_trim (struct device *dev, uint64_t count,
                         uint64_t offset);
extern errcode_t device_cache (struct device *dev, uint64_t count,
                               uint64_t offset);

/* Storage for all of the range, where the device can tell that there is
 * none yet, so that writes there need no room any more.  What is read does
 * not change.
 */
extern errcode_t device_reserve (struct device *dev, uint64_t count,
                                 uint64_t offset);

/* Everything written by calls that have returned is durable.  Unless a
 * flush has failed before: success then says nothing about what was
 * written before that one.
 */
extern errcode_t device_flush (struct device *dev);

/* Has a flush failed, or a write with FUA for a reason that was not the
 * write's own?  What was to become durable may be lost, whoever wrote it,
 * and no later flush would tell: systems report such a failure once.
 */
extern bool device_flush_failed (const struct device *dev);

/* A flush of what DEV leads to failed before it was opened. */
extern void device_set_flush_failed (struct device *dev);

/* Bytes written since it was opened, those of failed calls as well. */
extern uint64_t device_written (const struct device *dev);

/* The device is somebody else's from now on: whatever would change it,
 * and flushes, fail with EIO (trims do nothing).  Calls that are in the
 * device already are not stopped.
 */
extern void device_revoke (struct device *dev);

#endif /* EXT2SERVE_DEVICE_H */

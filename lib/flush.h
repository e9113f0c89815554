/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Flushing the device for several callers at once.
 *
 * A flush covers what was written before it *started*.  So callers that
 * come while one is under way all need the next one, and share it.
 */

#ifndef EXT2SERVE_FLUSH_H
#define EXT2SERVE_FLUSH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "device.h"
#include "locks.h"

struct flusher {
  struct device *dev;           /* [constant] */

  /* Once a flush has failed, what it should have made durable may be
   * lost and no later flush can tell, so all fail from then on.
   * [atomic: only ever set]
   */
  atomic_bool failed;

  struct lock lock;             /* FLUSH */
  pthread_cond_t done;          /* finished has grown */
  bool running;                 /* [FLUSH] */
  uint64_t started, finished;   /* [FLUSH] flushes, counted */
};

extern void flusher_init (struct flusher *f, struct device *dev);
extern void flusher_destroy (struct flusher *f);

/* All that was written before the call is durable on return.  EIO from
 * the first failure on.  Locks: any up to COMMIT.
 */
extern errcode_t flusher_flush (struct flusher *f);

#endif /* EXT2SERVE_FLUSH_H */

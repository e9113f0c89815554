/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Flushing the device for several callers at once. */

#include <config.h>

#include <errno.h>

#include "errors.h"
#include "flush.h"

void
flusher_init (struct flusher *f, struct device *dev)
{
  f->dev = dev;
  lock_init (&f->lock, LOCK_FLUSH);
  pthread_cond_init (&f->done, NULL);
}

void
flusher_destroy (struct flusher *f)
{
  pthread_cond_destroy (&f->done);
  lock_destroy (&f->lock);
}

static void
note_failure (struct flusher *f, errcode_t err)
{
  char why[128];

  if (!atomic_exchange (&f->failed, true))
    log_error ("the device could not be flushed: %s: flushes fail from now "
               "on, because what was lost is not known; restart the server "
               "when the device is well",
               errcode_text (err, why, sizeof why));
}

errcode_t
flusher_flush (struct flusher *f)
{
  uint64_t mine, this_one;
  errcode_t err;

  lock_acquire (&f->lock);
  mine = f->started + 1;        /* the first that starts from now on */
  while (f->finished < mine) {
    if (f->running) {
      lock_wait (&f->done, &f->lock);
      continue;
    }
    f->running = true;
    this_one = ++f->started;
    lock_release (&f->lock);
    err = device_flush (f->dev);
    if (err)
      note_failure (f, err);
    lock_acquire (&f->lock);
    f->running = false;
    f->finished = this_one;
    pthread_cond_broadcast (&f->done);
  }
  lock_release (&f->lock);
  return atomic_load (&f->failed) ? EIO : 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A reader/writer lock for which readers hardly ever touch the same
 * memory: each thread counts itself in one of several places, and a writer
 * adds them up.  With an ordinary one each reader writes the same cache
 * line twice, which two processors doing 4 KiB requests pass to and fro.
 *
 * It is fair by phases: readers that come while a writer waits let him go
 * first, and when he is done all of them have their turn before the next
 * writer.  So neither steady reading nor steady writing starves the other.
 *
 * The thread that has taken it gives it back, and does not take it twice.
 *
 * Why it is right.  A reader first counts itself, then looks at CLOSED; a
 * writer first sets CLOSED, then looks at the counts.  All four are
 * sequentially consistent, so one of them sees the other: either the
 * writer waits, or the reader takes its count back and waits.  While
 * CLOSED is set a count goes up only for such a moment, and each reader
 * leaves the place where it (or the writer for it, see below) was
 * counted, or another one, exactly once: the sum that a writer reads is
 * never smaller than the number of those who have the lock.
 */

#ifndef EXT2SERVE_SPREAD_LOCK_H
#define EXT2SERVE_SPREAD_LOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define SPREAD_PARTS 8
#define CACHE_LINE 64

struct spread_lock {
  /* What every reader looks at, and nobody but writers changes. */
  atomic_bool closed;           /* a writer has it or waits for readers */
  unsigned spins;               /* [constant] */

  struct {
    _Alignas (CACHE_LINE) atomic_int readers;
  } part[SPREAD_PARTS];

  _Alignas (CACHE_LINE)
  pthread_mutex_t writer;       /* held by the one whose turn it is */
  pthread_mutex_t mutex;        /* of what follows; the last to be taken */
  pthread_cond_t left;          /* a reader has left while it was closed */
  pthread_cond_t turn;          /* turns has changed */
  unsigned waiting;             /* [mutex] readers that wait for it */
  unsigned turns;               /* [mutex] of readers that have waited */
};

/* Who finds it taken looks again SPINS times before going to sleep. */
extern void spread_lock_init (struct spread_lock *l, unsigned spins);
extern void spread_lock_destroy (struct spread_lock *l);
extern void spread_lock_shared (struct spread_lock *l);
extern void spread_unlock_shared (struct spread_lock *l);
extern void spread_lock_exclusive (struct spread_lock *l);
extern void spread_unlock_exclusive (struct spread_lock *l);

#endif /* EXT2SERVE_SPREAD_LOCK_H */

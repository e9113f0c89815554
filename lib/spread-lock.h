/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A reader/writer lock for which readers hardly ever touch the same
 * memory, and of which a part of a range can be had: readers and writers
 * of a file do not wait for each other if their ranges do not overlap.
 *
 * Each thread enters itself in one of several places, with its range, and
 * a writer looks at all of them.  With an ordinary lock each reader writes
 * the same cache line twice, which two processors doing 4 KiB requests
 * pass to and fro.
 *
 * It is fair by phases: readers that come while a writer waits let him go
 * first, and when he is done all of them have their turn before the next
 * writer.  So neither steady reading nor steady writing starves the other.
 * Writers come one after the other, whatever their ranges are, and a reader
 * who has waited for one counts as a reader of everything.
 *
 * The thread that has taken it gives it back, and does not take it twice.
 *
 * Why it is right.  A reader first enters itself, then looks at CLOSED; a
 * writer first sets CLOSED, then looks at the entries.  All four are
 * sequentially consistent, so one of them sees the other: either the
 * writer waits, or the reader takes its entry back and waits.
 *
 * Most readers enter a range.  Who finds no place for one is counted as a
 * reader of everything.  While CLOSED is set a count goes up only for a
 * moment, and each reader leaves where it (or, after a wait, the writer
 * for it) was counted, or elsewhere, exactly once: the sum that a writer
 * reads is never smaller than the number of those who have the lock.
 *
 * All executions of a few threads: tests/test-explore-spread-lock.c.
 */

#ifndef EXT2SERVE_SPREAD_LOCK_H
#define EXT2SERVE_SPREAD_LOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define CACHE_LINE 64
#ifndef SPREAD_PARTS            /* tests have fewer */
#define SPREAD_PARTS 8
#define SPREAD_PLACES 7         /* a part; with the count a cache line */
#endif

/* A range in units: the first and the last of them plus one, in 32 bits
 * each; 0: none.
 */
#define SPREAD_UNIT_BITS 17
typedef _Atomic uint64_t spread_range;

struct spread_lock {
  /* What every reader looks at, and nobody but writers changes. */
  spread_range closed;          /* the writer that has it or waits for it */
  unsigned spins;               /* [constant] */

  struct {
    _Alignas (CACHE_LINE) atomic_int counted;
    spread_range place[SPREAD_PLACES];
  } part[SPREAD_PARTS];

  _Alignas (CACHE_LINE)
  pthread_mutex_t writer;       /* held by the one whose turn it is */
  pthread_mutex_t mutex;        /* of what follows; the last to be taken */
  pthread_cond_t left;          /* a reader in the writer's way has left */
  pthread_cond_t turn;          /* turns has changed */
  unsigned waiting;             /* [mutex] readers that wait for it */
  unsigned turns;               /* [mutex] of readers that have waited */
};

/* The part of the calling thread, below SPREAD_PARTS: always the same, and
 * as evenly given as can be.  For other things that are spread as well.
 */
extern unsigned spread_own_part (void);

/* Who finds it taken looks again SPINS times before going to sleep. */
extern void spread_lock_init (struct spread_lock *l, unsigned spins);
extern void spread_lock_destroy (struct spread_lock *l);

/* All of it. */
extern void spread_lock_shared (struct spread_lock *l);
extern void spread_unlock_shared (struct spread_lock *l);
extern void spread_lock_exclusive (struct spread_lock *l);
extern void spread_unlock_exclusive (struct spread_lock *l);

/* At least COUNT bytes from OFFSET on; none are as good as one.  What it
 * returns is for giving it back.
 */
extern spread_range *spread_lock_range_shared (struct spread_lock *l,
                                               uint64_t offset,
                                               uint64_t count);
extern void spread_unlock_range_shared (struct spread_lock *l,
                                        spread_range *place);

/* Given back as all of it is. */
extern void spread_lock_range_exclusive (struct spread_lock *l,
                                         uint64_t offset, uint64_t count);

#endif /* EXT2SERVE_SPREAD_LOCK_H */

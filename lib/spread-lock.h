/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A reader/writer lock for which readers hardly ever touch the same
 * memory: an array of locks, of which a reader takes the one of his
 * thread, and a writer all.  With an ordinary one each reader writes the
 * same cache line twice, which two processors doing 4 KiB requests pass to
 * and fro.
 *
 * The thread that has taken it gives it back.
 */

#ifndef EXT2SERVE_SPREAD_LOCK_H
#define EXT2SERVE_SPREAD_LOCK_H

#include <pthread.h>

#define SPREAD_PARTS 8
#define CACHE_LINE 64

struct spread_lock {
  unsigned spins;               /* [constant] */
  struct {
    _Alignas (CACHE_LINE) pthread_rwlock_t lock;
  } part[SPREAD_PARTS];
};

/* Who finds it taken looks again SPINS times before going to sleep. */
extern void spread_lock_init (struct spread_lock *l, unsigned spins);
extern void spread_lock_destroy (struct spread_lock *l);
extern void spread_lock_shared (struct spread_lock *l);
extern void spread_unlock_shared (struct spread_lock *l);

/* Comes before readers that arrive later, once it sleeps. */
extern void spread_lock_exclusive (struct spread_lock *l);
extern void spread_unlock_exclusive (struct spread_lock *l);

#endif /* EXT2SERVE_SPREAD_LOCK_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A reader/writer lock for many readers. */

#include <config.h>

#include <stdatomic.h>

#include "locks.h"
#include "spread-lock.h"

static atomic_uint threads;
static _Thread_local unsigned number;   /* from 1 on; 0: not yet given */

static pthread_rwlock_t *
own_part (struct spread_lock *l)
{
  if (number == 0)
    number = atomic_fetch_add (&threads, 1) % SPREAD_PARTS + 1;
  return &l->part[number - 1].lock;
}

void
spread_lock_init (struct spread_lock *l, unsigned spins)
{
  pthread_rwlockattr_t attr;
  unsigned i;

  l->spins = spins;
  pthread_rwlockattr_init (&attr);
  pthread_rwlockattr_setkind_np
    (&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  for (i = 0; i < SPREAD_PARTS; i++)
    pthread_rwlock_init (&l->part[i].lock, &attr);
  pthread_rwlockattr_destroy (&attr);
}

void
spread_lock_destroy (struct spread_lock *l)
{
  unsigned i;

  for (i = 0; i < SPREAD_PARTS; i++)
    pthread_rwlock_destroy (&l->part[i].lock);
}

void
spread_lock_shared (struct spread_lock *l)
{
  pthread_rwlock_t *part = own_part (l);
  unsigned i;

  for (i = 0; i < l->spins; i++) {
    if (pthread_rwlock_tryrdlock (part) == 0)
      return;
    lock_relax ();
  }
  pthread_rwlock_rdlock (part);
}

void
spread_unlock_shared (struct spread_lock *l)
{
  pthread_rwlock_unlock (own_part (l));
}

static void
lock_part (pthread_rwlock_t *part, unsigned spins)
{
  unsigned i;

  for (i = 0; i < spins; i++) {
    if (pthread_rwlock_trywrlock (part) == 0)
      return;
    lock_relax ();
  }
  pthread_rwlock_wrlock (part);
}

/* In order, so that two writers cannot wait for each other. */
void
spread_lock_exclusive (struct spread_lock *l)
{
  unsigned i;

  for (i = 0; i < SPREAD_PARTS; i++)
    lock_part (&l->part[i].lock, l->spins);
}

void
spread_unlock_exclusive (struct spread_lock *l)
{
  unsigned i;

  for (i = 0; i < SPREAD_PARTS; i++)
    pthread_rwlock_unlock (&l->part[i].lock);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A reader/writer lock for many readers. */

#include <config.h>

#include "locks.h"
#include "spread-lock.h"

static atomic_uint threads;
static _Thread_local unsigned number;   /* from 1 on; 0: not yet given */

/* Where this thread counts itself. */
static atomic_int *
own_count (struct spread_lock *l)
{
  if (number == 0)
    number = atomic_fetch_add (&threads, 1) % SPREAD_PARTS + 1;
  return &l->part[number - 1].readers;
}

void
spread_lock_init (struct spread_lock *l, unsigned spins)
{
  pthread_mutexattr_t attr;
  unsigned i;

  atomic_init (&l->closed, false);
  l->spins = spins;
  for (i = 0; i < SPREAD_PARTS; i++)
    atomic_init (&l->part[i].readers, 0);
  pthread_mutexattr_init (&attr);
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
  if (spins > 0)
    pthread_mutexattr_settype (&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
  pthread_mutex_init (&l->writer, &attr);
  pthread_mutexattr_destroy (&attr);
  pthread_mutex_init (&l->mutex, NULL);
  pthread_cond_init (&l->left, NULL);
  pthread_cond_init (&l->turn, NULL);
  l->waiting = l->turns = 0;
}

void
spread_lock_destroy (struct spread_lock *l)
{
  pthread_cond_destroy (&l->turn);
  pthread_cond_destroy (&l->left);
  pthread_mutex_destroy (&l->mutex);
  pthread_mutex_destroy (&l->writer);
}

/* Readers. */

static bool
try_shared (struct spread_lock *l, atomic_int *count)
{
  atomic_fetch_add (count, 1);
  return !atomic_load (&l->closed);
}

/* Writers read the counts under the mutex before they sleep, so they do
 * not miss this.
 */
static __attribute__ ((__noinline__)) void
wake_writer (struct spread_lock *l)
{
  pthread_mutex_lock (&l->mutex);
  pthread_cond_signal (&l->left);
  pthread_mutex_unlock (&l->mutex);
}

/* A writer may have seen the count, and sleep for it. */
static void
leave (struct spread_lock *l, atomic_int *count)
{
  atomic_fetch_sub (count, 1);
  if (atomic_load (&l->closed))
    wake_writer (l);
}

/* Without the count: wait until the writer lets us in, counted. */
static void
wait_for_turn (struct spread_lock *l, atomic_int *count)
{
  unsigned mine;

  pthread_mutex_lock (&l->mutex);
  /* It is opened under the mutex, so who waits below is not forgotten;
   * but it may be closed at any time.  The writer who does so sleeps under
   * the mutex, so he will see the count taken back.
   */
  if (!atomic_load (&l->closed)) {
    if (try_shared (l, count)) {
      pthread_mutex_unlock (&l->mutex);
      return;
    }
    atomic_fetch_sub (count, 1);
  }
  mine = l->turns;
  l->waiting++;
  while (l->turns == mine)
    pthread_cond_wait (&l->turn, &l->mutex);
  pthread_mutex_unlock (&l->mutex);
}

/* There is a writer. */
static __attribute__ ((__noinline__)) void
lock_shared_slowly (struct spread_lock *l, atomic_int *count)
{
  unsigned i;

  leave (l, count);
  for (i = 0; i < l->spins; i++) {
    lock_relax ();
    if (!atomic_load_explicit (&l->closed, memory_order_relaxed)) {
      if (try_shared (l, count))
        return;
      leave (l, count);
    }
  }
  wait_for_turn (l, count);
}

void
spread_lock_shared (struct spread_lock *l)
{
  atomic_int *count = own_count (l);

  if (!try_shared (l, count))
    lock_shared_slowly (l, count);
}

void
spread_unlock_shared (struct spread_lock *l)
{
  leave (l, own_count (l));
}

/* Writers. */

static bool
has_readers (struct spread_lock *l)
{
  int sum = 0;
  unsigned i;

  for (i = 0; i < SPREAD_PARTS; i++)
    sum += atomic_load (&l->part[i].readers);
  return sum != 0;
}

void
spread_lock_exclusive (struct spread_lock *l)
{
  unsigned i;

  pthread_mutex_lock (&l->writer);
  atomic_store (&l->closed, true);
  for (i = 0; i < l->spins; i++) {
    if (!has_readers (l))
      return;
    lock_relax ();
  }
  pthread_mutex_lock (&l->mutex);
  while (has_readers (l))
    pthread_cond_wait (&l->left, &l->mutex);
  pthread_mutex_unlock (&l->mutex);
}

void
spread_unlock_exclusive (struct spread_lock *l)
{
  pthread_mutex_lock (&l->mutex);
  if (l->waiting > 0) {
    atomic_fetch_add (&l->part[0].readers, (int) l->waiting);
    l->waiting = 0;
    l->turns++;
    pthread_cond_broadcast (&l->turn);
  }
  atomic_store (&l->closed, false);
  pthread_mutex_unlock (&l->mutex);
  pthread_mutex_unlock (&l->writer);
}

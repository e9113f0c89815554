/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A reader/writer lock for many readers, and for ranges. */

#include <config.h>

#include <stdbool.h>

#include "locks.h"
#include "spread-lock.h"

/* Ranges. */

#define EVERYTHING ((UINT64_C (1) << 32) | UINT32_MAX)

static uint64_t
unit (uint64_t offset)
{
  const uint64_t n = (offset >> SPREAD_UNIT_BITS) + 1;

  return n < UINT32_MAX ? n : UINT32_MAX;
}

static uint64_t
make_range (uint64_t offset, uint64_t count)
{
  return unit (offset) << 32 | unit (offset + (count > 0 ? count - 1 : 0));
}

/* Nothing overlaps 0. */
static bool
overlap (uint64_t a, uint64_t b)
{
  return a >> 32 <= (uint32_t) b && b >> 32 <= (uint32_t) a;
}

/* The lock. */

static atomic_uint threads;
static _Thread_local unsigned number;   /* from 1 on; 0: not yet given */

unsigned
spread_own_part (void)
{
  if (number == 0)
    number = atomic_fetch_add (&threads, 1) % SPREAD_PARTS + 1;
  return number - 1;
}

void
spread_lock_init (struct spread_lock *l, unsigned spins)
{
  pthread_mutexattr_t attr;
  unsigned i, j;

  atomic_init (&l->closed, 0);
  l->spins = spins;
  for (i = 0; i < SPREAD_PARTS; i++) {
    atomic_init (&l->part[i].counted, 0);
    for (j = 0; j < SPREAD_PLACES; j++)
      atomic_init (&l->part[i].place[j], 0);
  }
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

/* Readers, counted. */

static bool
try_shared (struct spread_lock *l, atomic_int *counted)
{
  atomic_fetch_add (counted, 1);
  return atomic_load (&l->closed) == 0;
}

/* Writers look at the entries under the mutex before they sleep, so they
 * do not miss this.
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
leave (struct spread_lock *l, atomic_int *counted)
{
  atomic_fetch_sub (counted, 1);
  if (atomic_load (&l->closed) != 0)
    wake_writer (l);
}

/* Not entered: wait until the writer lets us in, counted. */
static void
wait_for_turn (struct spread_lock *l, atomic_int *counted)
{
  unsigned mine;

  pthread_mutex_lock (&l->mutex);
  /* It is opened under the mutex, so who waits below is not forgotten;
   * but it may be closed at any time.  The writer who does so sleeps under
   * the mutex, so he will see the count taken back.
   */
  if (atomic_load (&l->closed) == 0) {
    if (try_shared (l, counted)) {
      pthread_mutex_unlock (&l->mutex);
      return;
    }
    atomic_fetch_sub (counted, 1);
  }
  mine = l->turns;
  l->waiting++;
  while (l->turns == mine)
    pthread_cond_wait (&l->turn, &l->mutex);
  pthread_mutex_unlock (&l->mutex);
}

/* There is a writer. */
static __attribute__ ((__noinline__)) void
lock_shared_slowly (struct spread_lock *l, atomic_int *counted)
{
  unsigned i;

  for (i = 0; i < l->spins; i++) {
    lock_relax ();
    if (atomic_load_explicit (&l->closed, memory_order_relaxed) == 0) {
      if (try_shared (l, counted))
        return;
      leave (l, counted);
    }
  }
  wait_for_turn (l, counted);
}

void
spread_lock_shared (struct spread_lock *l)
{
  atomic_int *counted = &l->part[spread_own_part ()].counted;

  if (!try_shared (l, counted)) {
    leave (l, counted);
    lock_shared_slowly (l, counted);
  }
}

void
spread_unlock_shared (struct spread_lock *l)
{
  leave (l, &l->part[spread_own_part ()].counted);
}

/* Readers of a range. */

static spread_range *
enter_part (spread_range *place, uint64_t range)
{
  unsigned i;

  for (i = 0; i < SPREAD_PLACES; i++) {
    uint64_t none = 0;

    if (atomic_load_explicit (&place[i], memory_order_relaxed) == 0 &&
        atomic_compare_exchange_strong (&place[i], &none, range))
      return &place[i];
  }
  return NULL;
}

/* Elsewhere only if the own part is full. */
static spread_range *
enter (struct spread_lock *l, unsigned part, uint64_t range)
{
  spread_range *place = NULL;
  unsigned i;

  for (i = 0; i < SPREAD_PARTS && place == NULL; i++)
    place = enter_part (l->part[(part + i) % SPREAD_PARTS].place, range);
  return place;
}

static void
leave_place (struct spread_lock *l, spread_range *place, uint64_t range)
{
  atomic_store (place, 0);
  if (overlap (atomic_load (&l->closed), range))
    wake_writer (l);
}

spread_range *
spread_lock_range_shared (struct spread_lock *l, uint64_t offset,
                          uint64_t count)
{
  const uint64_t range = make_range (offset, count);
  const unsigned part = spread_own_part ();
  spread_range *place = enter (l, part, range);

  if (place == NULL) {
    spread_lock_shared (l);
    return NULL;
  }
  if (overlap (atomic_load (&l->closed), range)) {
    leave_place (l, place, range);
    lock_shared_slowly (l, &l->part[part].counted);
    return NULL;
  }
  return place;
}

void
spread_unlock_range_shared (struct spread_lock *l, spread_range *place)
{
  if (place == NULL)
    spread_unlock_shared (l);
  else
    leave_place (l, place, atomic_load_explicit (place, memory_order_relaxed));
}

/* Writers. */

static bool
has_readers (struct spread_lock *l, uint64_t range)
{
  unsigned sum = 0;             /* counts of single parts drift apart */
  unsigned i, j;

  for (i = 0; i < SPREAD_PARTS; i++) {
    sum += (unsigned) atomic_load (&l->part[i].counted);
    for (j = 0; j < SPREAD_PLACES; j++)
      if (overlap (atomic_load (&l->part[i].place[j]), range))
        return true;
  }
  return sum != 0;
}

static void
lock_exclusive (struct spread_lock *l, uint64_t range)
{
  unsigned i;

  pthread_mutex_lock (&l->writer);
  atomic_store (&l->closed, range);
  for (i = 0; i < l->spins; i++) {
    if (!has_readers (l, range))
      return;
    lock_relax ();
  }
  pthread_mutex_lock (&l->mutex);
  while (has_readers (l, range))
    pthread_cond_wait (&l->left, &l->mutex);
  pthread_mutex_unlock (&l->mutex);
}

void
spread_lock_exclusive (struct spread_lock *l)
{
  lock_exclusive (l, EVERYTHING);
}

void
spread_lock_range_exclusive (struct spread_lock *l, uint64_t offset,
                             uint64_t count)
{
  lock_exclusive (l, make_range (offset, count));
}

void
spread_unlock_exclusive (struct spread_lock *l)
{
  pthread_mutex_lock (&l->mutex);
  if (l->waiting > 0) {
    atomic_fetch_add (&l->part[0].counted, (int) l->waiting);
    l->waiting = 0;
    l->turns++;
    pthread_cond_broadcast (&l->turn);
  }
  atomic_store (&l->closed, 0);
  pthread_mutex_unlock (&l->mutex);
  pthread_mutex_unlock (&l->writer);
}

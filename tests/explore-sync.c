/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Locks, had by one thread or shared, and conditions. */

#include <config.h>

#include "explore-impl.h"

#define LOCKS 64

/* A lock, or a condition. */
struct sync {
  void *address;
  unsigned exclusive;           /* set of threads that have it: one or none */
  unsigned shared;
  unsigned waiting;             /* for the condition */
  struct clock released, released_shared;
  uint64_t hash;                /* of the order of its events, but */
  uint64_t sharers;             /* in any order, since the last of others */
};

static struct sync syncs[LOCKS];
static unsigned nsyncs;

void
sync_reset (void)
{
  nsyncs = 0;
}

static struct sync *
sync_of (void *address)
{
  unsigned i;

  for (i = 0; i < nsyncs; i++)
    if (syncs[i].address == address)
      return &syncs[i];
  if (nsyncs == LOCKS)
    explore_fail ("more locks than the explorer can have");
  memset (&syncs[nsyncs], 0, sizeof syncs[0]);
  syncs[nsyncs].address = address;
  return &syncs[nsyncs++];
}

static unsigned
add_choice (const struct thread *t, struct choice *c, enum how how,
            unsigned at)
{
  *c = (struct choice) {
    .thread = (uint8_t) t->number, .how = (uint8_t) how, .at = (uint8_t) at,
  };
  return 1;
}

/* A thread that waits, and is not woken, may go on by a whim. */
static unsigned
choices_waiting (const struct thread *t, struct choice *c)
{
  const struct sync *cond = sync_of (t->op->object);
  const struct sync *mutex = sync_of (t->op->mutex);
  const bool woken = !(cond->waiting & 1u << t->number);

  if (!t->op->waiting)
    return add_choice (t, c, HOW_SIMPLY, 0);
  if (mutex->exclusive || (!woken && t->whims == 0))
    return 0;
  return add_choice (t, c, woken ? HOW_SIMPLY : HOW_FOR_NO_REASON, 0);
}

/* Any of those that wait. */
static unsigned
choices_wake (const struct thread *t, struct choice *c)
{
  const unsigned waiting = sync_of (t->op->object)->waiting;
  unsigned n = 0, i;

  for (i = 0; i < THREADS; i++)
    if (waiting & 1u << i)
      n += add_choice (t, &c[n], HOW_SIMPLY, i);
  return n > 0 ? n : add_choice (t, c, HOW_SIMPLY, THREADS);
}

unsigned
sync_choices (const struct thread *t, struct choice *c)
{
  const struct sync *s = sync_of (t->op->object);

  switch (t->op->kind) {
  case OP_LOCK:
    return s->exclusive || s->shared ? 0 : add_choice (t, c, HOW_SIMPLY, 0);
  case OP_LOCK_SHARED:
    return s->exclusive ? 0 : add_choice (t, c, HOW_SIMPLY, 0);
  case OP_WAIT:
    return choices_waiting (t, c);
  case OP_WAKE:
    return choices_wake (t, c);
  default:
    return add_choice (t, c, HOW_SIMPLY, 0);
  }
}

static void
note (struct sync *s, const struct thread *t, unsigned what)
{
  s->hash = mix (mix (s->hash, s->sharers), t->number * 1000 + t->events);
  s->hash = mix (s->hash, what);
  s->sharers = 0;
}

static void
note_shared (struct sync *s, const struct thread *t)
{
  s->sharers += mix (1, t->number * 1000 + t->events);
}

static void
lock (struct sync *s, struct thread *t)
{
  s->exclusive |= 1u << t->number;
  clock_join (&t->clock, &s->released);
  clock_join (&t->clock, &s->released_shared);
  note (s, t, OP_LOCK);
}

static void
unlock (struct sync *s, struct thread *t)
{
  if (!(s->exclusive & 1u << t->number))
    explore_fail ("%s: given back by another thread", name_of (s->address));
  s->exclusive = 0;
  s->released = t->clock;
  note (s, t, OP_UNLOCK);
}

static void
lock_shared (struct sync *s, struct thread *t)
{
  s->shared |= 1u << t->number;
  clock_join (&t->clock, &s->released);
  note_shared (s, t);
}

static void
unlock_shared (struct sync *s, struct thread *t)
{
  if (!(s->shared & 1u << t->number))
    explore_fail ("%s: given back by another thread", name_of (s->address));
  s->shared &= ~(1u << t->number);
  clock_join (&s->released_shared, &t->clock);
  note_shared (s, t);
}

/* First it goes to sleep; and then, when it has been woken, gets the lock. */
static void
wait (struct thread *t, const struct choice *c)
{
  struct sync *s = sync_of (t->op->object);

  if (!t->op->waiting) {
    unlock (sync_of (t->op->mutex), t);
    s->waiting |= 1u << t->number;
    note (s, t, OP_WAIT);
  }
  else {
    if (c->how == HOW_FOR_NO_REASON) {
      s->waiting &= ~(1u << t->number);
      t->whims--;
      note (s, t, OP_WAIT);
    }
    lock (sync_of (t->op->mutex), t);
  }
  t->op->waiting = !t->op->waiting;
}

void
sync_perform (struct thread *t, const struct choice *c)
{
  struct sync *s = sync_of (t->op->object);

  t->clock.of[t->number] = ++t->events;
  switch (t->op->kind) {
  case OP_LOCK: lock (s, t); break;
  case OP_UNLOCK: unlock (s, t); break;
  case OP_LOCK_SHARED: lock_shared (s, t); break;
  case OP_UNLOCK_SHARED: unlock_shared (s, t); break;
  case OP_WAIT: wait (t, c); break;
  case OP_WAKE:
  case OP_WAKE_ALL:
    s->waiting &= t->op->kind == OP_WAKE ? ~(1u << c->at) : 0;
    note (s, t, c->at);
    break;
  default: break;
  }
}

uint64_t
sync_hash (void)
{
  uint64_t sum = 0;
  unsigned i;

  for (i = 0; i < nsyncs; i++)
    if (syncs[i].hash || syncs[i].sharers)
      sum += mix (mix ((uintptr_t) syncs[i].address, syncs[i].hash),
                  syncs[i].sharers);
  return sum;
}

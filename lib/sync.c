/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The sync thread. */

#include <config.h>

#include <errno.h>

#include "clock.h"
#include "commit.h"
#include "fs.h"
#include "sync.h"
#include "thread.h"

enum work { SYNC, REST, STOP };

/* A piece of the rest is never planned to take longer.  Microseconds. */
#define LONGEST_REST UINT64_C (100000)

/* Its part of the time when it is not urgent: one in so many. */
#define REST_SHARE 8

/* How long the next piece of the rest may take.  Locks: SYNC. */
static uint64_t
time_for_rest (struct filesystem *fs)
{
  const struct syncer *s = &fs->syncer;
  const uint64_t all = s->took < LONGEST_REST ? s->took : LONGEST_REST;

  return s->draining > 0 || commit_is_behind (fs) ? all : all / REST_SHARE;
}

/* Wait for work: syncs and pieces of the rest take turns as long as both
 * are there.
 */
static enum work
next_work (struct filesystem *fs, uint64_t *target, uint64_t *time)
{
  struct syncer *s = &fs->syncer;

  LOCK_FOR_SCOPE (&s->lock);
  while (s->requested == s->completed && !s->more && !s->stop)
    lock_wait (&s->wanted, &s->lock);
  *target = s->requested;
  if (s->requested != s->completed && !(s->more && s->rest_is_next)) {
    s->rest_is_next = true;
    return SYNC;
  }
  s->rest_is_next = false;
  *time = time_for_rest (fs);
  return s->stop ? STOP : REST;
}

/* A sync may leave something to do: a checkpoint, freed blocks. */
static void
end_sync (struct syncer *s, uint64_t target, errcode_t err)
{
  LOCK_FOR_SCOPE (&s->lock);
  s->completed = target;
  s->error = err;
  s->more = true;
  pthread_cond_broadcast (&s->done);
}

static void
end_rest (struct syncer *s, bool more)
{
  LOCK_FOR_SCOPE (&s->lock);
  s->more = more;
  if (!more)
    s->drained++;
  if (s->draining > 0)
    pthread_cond_broadcast (&s->done);
}

static errcode_t
timed_sync (struct filesystem *fs)
{
  const uint64_t start = clock_us ();
  errcode_t err = commit_sync (fs);

  fs->syncer.took = clock_us () - start;
  return err;
}

static void *
sync_thread (void *arg)
{
  struct filesystem *fs = arg;
  struct syncer *s = &fs->syncer;
  uint64_t target, time;

  for (;;) {
    switch (next_work (fs, &target, &time)) {
    case SYNC:
      end_sync (s, target, timed_sync (fs));
      break;
    case REST:
      end_rest (s, commit_rest (fs, time));
      break;
    case STOP:
      end_sync (s, target, commit_last (fs));
      return NULL;
    }
  }
}

void
syncer_init (struct syncer *s)
{
  lock_init (&s->lock, LOCK_SYNC);
  pthread_cond_init (&s->wanted, NULL);
  pthread_cond_init (&s->done, NULL);
}

void
syncer_fini (struct syncer *s)
{
  lock_destroy (&s->lock);
  pthread_cond_destroy (&s->wanted);
  pthread_cond_destroy (&s->done);
}

errcode_t
syncer_start (struct filesystem *fs)
{
  struct syncer *s = &fs->syncer;
  int r = thread_start (&s->thread, sync_thread, fs);

  s->started = r == 0;
  return r;
}

errcode_t
syncer_wait (struct filesystem *fs)
{
  struct syncer *s = &fs->syncer;
  uint64_t mine;

  lock_assert_can_take (LOCK_SYNC);
  LOCK_FOR_SCOPE (&s->lock);
  mine = ++s->requested;
  pthread_cond_signal (&s->wanted);
  while (s->completed < mine)
    lock_wait (&s->done, &s->lock);
  /* If a later sync has ended since, its result holds for us as well. */
  return s->error;
}

void
syncer_drain_until (struct filesystem *fs,
                    bool (*enough) (struct filesystem *, const void *),
                    const void *opaque)
{
  struct syncer *s = &fs->syncer;
  uint64_t before;

  lock_assert_can_take (LOCK_SYNC);
  LOCK_FOR_SCOPE (&s->lock);
  before = s->drained;
  s->draining++;
  while (s->more && s->drained == before && !enough (fs, opaque))
    lock_wait (&s->done, &s->lock);
  s->draining--;
}

static bool
never (struct filesystem *fs, const void *opaque)
{
  (void) fs;
  (void) opaque;
  return false;
}

void
syncer_drain (struct filesystem *fs)
{
  syncer_drain_until (fs, never, NULL);
}

errcode_t
syncer_stop (struct filesystem *fs)
{
  struct syncer *s = &fs->syncer;

  if (!s->started)
    return 0;
  lock_acquire (&s->lock);
  s->stop = true;
  pthread_cond_signal (&s->wanted);
  lock_release (&s->lock);
  pthread_join (s->thread, NULL);
  return s->error;
}

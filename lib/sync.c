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

enum work { SYNC, COMMIT, REST, STOP };

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

/* Locks: SYNC. */
static void
set_timer (struct filesystem *fs)
{
  struct syncer *s = &fs->syncer;

  if (atomic_load (&fs->to_settle) & SETTLE_TIMER) {
    atomic_fetch_and (&fs->to_settle, ~SETTLE_TIMER);
    if (s->due == 0 && s->interval > 0)
      s->due = clock_us () + s->interval;
  }
}

static bool
is_due (const struct syncer *s)
{
  return s->due != 0 && clock_us () >= s->due;
}

/* Its own changes, for which nobody sets the timer, are releases without a
 * journal.  Locks: SYNC.
 */
static void
wait_for_work (struct filesystem *fs)
{
  struct syncer *s = &fs->syncer;

  set_timer (fs);
  while (s->requested == s->completed && !s->more && !s->stop &&
         !is_due (s)) {
    if (s->due != 0)
      lock_wait_until (&s->wanted, &s->lock, s->due);
    else
      lock_wait (&s->wanted, &s->lock);
  }
}

/* Syncs and pieces of the rest take turns as long as both are there. */
static enum work
next_work (struct filesystem *fs, uint64_t *target, uint64_t *time)
{
  struct syncer *s = &fs->syncer;
  bool wanted;

  LOCK_FOR_SCOPE (&s->lock);
  wait_for_work (fs);
  *target = s->requested;
  wanted = s->requested != s->completed;
  if ((wanted || is_due (s)) && !(s->more && s->rest_is_next)) {
    s->rest_is_next = true;
    s->due = 0;                 /* what is changed from now on sets it */
    return wanted ? SYNC : COMMIT;
  }
  s->rest_is_next = false;
  *time = time_for_rest (fs);
  return s->stop ? STOP : REST;
}

/* A sync may leave something to do: a checkpoint, freed blocks.  One that
 * has failed without having aborted the filesystem is tried again in time.
 * Locks: SYNC.
 */
static void
note_end (struct filesystem *fs, errcode_t err)
{
  struct syncer *s = &fs->syncer;

  s->more = true;
  if (err && s->interval > 0 && s->due == 0 && !atomic_load (&fs->aborted))
    s->due = clock_us () + s->interval;
}

static void
end_sync (struct filesystem *fs, uint64_t target, errcode_t err)
{
  struct syncer *s = &fs->syncer;

  LOCK_FOR_SCOPE (&s->lock);
  note_end (fs, err);
  s->completed = target;
  s->error = err;
  pthread_cond_broadcast (&s->done);
}

/* Nobody waits for this one. */
static void
end_commit (struct filesystem *fs, errcode_t err)
{
  LOCK_FOR_SCOPE (&fs->syncer.lock);
  note_end (fs, err);
}

static void
end_rest (struct filesystem *fs, bool more)
{
  struct syncer *s = &fs->syncer;

  LOCK_FOR_SCOPE (&s->lock);
  s->more = more;
  if (!more)
    s->drained++;
  if (s->draining > 0)
    pthread_cond_broadcast (&s->done);
}

static errcode_t
timed (struct filesystem *fs, errcode_t (*what) (struct filesystem *))
{
  const uint64_t start = clock_us ();
  errcode_t err = what (fs);

  fs->syncer.took = clock_us () - start;
  return err;
}

static void *
sync_thread (void *arg)
{
  struct filesystem *fs = arg;
  uint64_t target, time;

  for (;;) {
    switch (next_work (fs, &target, &time)) {
    case SYNC:
      end_sync (fs, target, timed (fs, commit_sync));
      break;
    case COMMIT:
      end_commit (fs, timed (fs, commit_changes));
      break;
    case REST:
      end_rest (fs, commit_rest (fs, time));
      break;
    case STOP:
      end_sync (fs, target, commit_last (fs));
      return NULL;
    }
  }
}

void
syncer_init (struct syncer *s)
{
  lock_init (&s->lock, LOCK_SYNC);
  lock_cond_init (&s->wanted);
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
syncer_set_timer (struct filesystem *fs)
{
  struct syncer *s = &fs->syncer;

  lock_assert_can_take (LOCK_SYNC);
  LOCK_FOR_SCOPE (&s->lock);
  set_timer (fs);
  pthread_cond_signal (&s->wanted);
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

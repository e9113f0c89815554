/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The sync thread. */

#include <config.h>

#include <errno.h>

#include "commit.h"
#include "fs.h"
#include "sync.h"
#include "thread.h"

enum work { SYNC, IDLE, STOP };

/* So many syncs may go before the rest. */
#define MOST_PUT_OFF 8

/* Locks: SYNC. */
static bool
rest_is_urgent (const struct syncer *s)
{
  return s->more && (s->draining > 0 || s->put_off >= MOST_PUT_OFF);
}

/* Wait for work.  A sync comes first as a rule, the rest when there is
 * time.
 */
static enum work
next_work (struct syncer *s, uint64_t *target)
{
  LOCK_FOR_SCOPE (&s->lock);
  while (s->requested == s->completed && !s->more && !s->stop)
    lock_wait (&s->wanted, &s->lock);
  *target = s->requested;
  if (s->requested != s->completed && !rest_is_urgent (s)) {
    s->put_off++;
    return SYNC;
  }
  s->put_off = 0;
  return s->stop ? STOP : IDLE;
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
end_idle (struct syncer *s, bool more)
{
  LOCK_FOR_SCOPE (&s->lock);
  s->more = more;
  if (!more)
    s->drained++;
  if (s->draining > 0)
    pthread_cond_broadcast (&s->done);
}

static void *
sync_thread (void *arg)
{
  struct filesystem *fs = arg;
  struct syncer *s = &fs->syncer;
  uint64_t target;

  for (;;) {
    switch (next_work (s, &target)) {
    case SYNC:
      end_sync (s, target, commit_sync (fs));
      break;
    case IDLE:
      end_idle (s, commit_idle (fs));
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

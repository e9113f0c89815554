/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a request does that has found no space; or that is about to free
 * some.
 *
 * It may only answer so if there was none at one moment, and none was on
 * its way.  Space comes back
 *
 *   - from trims that have been answered: when a commit has made them
 *     durable, and the device has been told (release.c);
 *   - from requests that have reserved more than they need, which are all
 *     that give blocks to a file: when they end.
 *
 * Both may happen at any time, also between the search of the request and
 * its look at them here.  So the allocator counts (alloc.h, returned), and
 * the request has noted the count before its search: if it has risen, the
 * search is out of date.
 *
 * Others may be quicker each time.  That somebody else got the space is
 * progress, but the request must end: after some time it gives up.
 */

#include <config.h>

#include "clock.h"
#include "fs.h"
#include "map.h"

/* How long a request tries.  Clients begin to worry after 30 seconds.
 * Microseconds.
 */
#define TRY_FOR (UINT64_C (10) * 1000000)

/* Any reservation succeeds with so many blocks. */
#define ENOUGH (1 + MAP_MAX_META)

/* Is it worth looking again, without waiting for more?  Locks: FS. */
static bool
enough_is_back (struct filesystem *fs, const struct shortage *s)
{
  return atomic_load (&fs->alloc.returned) != s->since &&
    alloc_has_space (fs, ENOUGH);
}

static bool
enough_is_released (struct filesystem *fs, const void *opaque)
{
  LOCK_FOR_SCOPE (&fs->lock);
  return enough_is_back (fs, opaque);
}

/* Has something been freed that nobody can have yet? */
static bool
is_freeing (struct filesystem *fs, const struct shortage *s)
{
  LOCK_FOR_SCOPE (&fs->lock);
  return !enough_is_back (fs, s) &&
    (fs->alloc.pending.count > 0 || fs->freeing);
}

/* Waits for requests that have reserved something. */
static void
wait_for_others (struct filesystem *fs, const struct shortage *s)
{
  struct allocator *a = &fs->alloc;

  LOCK_FOR_SCOPE (&fs->lock);
  a->waiting++;
  while (a->promised > 0 && !enough_is_back (fs, s) &&
         lock_wait_until (&fs->space_back, &fs->lock, s->until))
    ;
  a->waiting--;
}

bool
filesystem_reclaim (struct filesystem *fs, struct shortage *s)
{
  const uint64_t now = clock_us ();

  if (s->until == 0)
    s->until = now + TRY_FOR;
  else if (now >= s->until)
    return false;
  if (is_freeing (fs, s) && filesystem_flush (fs) == 0)
    syncer_drain_until (fs, enough_is_released, s);
  wait_for_others (fs, s);
  return atomic_load (&fs->alloc.returned) != s->since;
}

static bool
has_caught_up (struct filesystem *fs, const void *opaque)
{
  (void) opaque;
  return !atomic_load (&fs->behind);
}

void
filesystem_pace_frees (struct filesystem *fs)
{
  filesystem_balance (fs);
  if (atomic_load_explicit (&fs->behind, memory_order_relaxed))
    syncer_drain_until (fs, has_caught_up, NULL);
}

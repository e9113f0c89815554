/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The sync thread: the only one that commits and flushes.
 *
 * Why a thread of its own: a request runs on its connection's thread,
 * and some layers beneath (nbdkit's delay, rate and retry filters) fail
 * a call when *that* connection hangs up.  A commit is made for
 * everybody and must not die with the client who happened to ask.
 *
 * The rest of its work is to checkpoint, and to give freed blocks back to
 * the device and the allocator.  Between two syncs a piece of that has its
 * turn, so it goes on under a steady load of flushes too; and it is no
 * longer than an eighth of the time that the sync before took, or all of
 * that time when somebody waits for it (syncer_drain), or the log or the
 * list of freed blocks has grown long.  A piece is at least one call to the
 * device, which cannot be cut short.  So a flush waits for the sync under
 * way if there is one, for about as long again, and for its own.
 *
 * When nobody asks, it commits what has been changed some seconds after the
 * first of the changes (interval), so that no more than that is lost when
 * the server dies.  The timer runs only while something is uncommitted:
 * whoever makes the first change sets it (filesystem_balance).
 *
 * A sync covers what was done before it *started*.  So callers that come
 * while one is under way all wait for the next, and share it.
 */

#ifndef EXT2SERVE_SYNC_H
#define EXT2SERVE_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include <et/com_err.h>

#include "locks.h"

struct filesystem;

struct syncer {
  pthread_t thread;             /* [constant] */
  bool started;                 /* [constant] */
  uint64_t interval;            /* [constant] from a change to its commit, in
                                   microseconds; 0: until somebody asks */

  struct lock lock;             /* SYNC */
  pthread_cond_t wanted;        /* requested, due or stop has changed */
  pthread_cond_t done;          /* completed or drained has changed, or a
                                   piece of the rest been done */
  uint64_t requested;           /* [SYNC] */
  uint64_t completed;           /* [SYNC] */
  errcode_t error;              /* [SYNC] of the last sync */
  bool more;                    /* [SYNC] some of the rest is left to do */
  unsigned draining;            /* [SYNC] how many wait for it */
  uint64_t drained;             /* [SYNC] times that nothing was left */
  uint64_t due;                 /* [SYNC] when to commit what has been
                                   changed, clock_us (); 0: the timer is off */
  bool stop;                    /* [SYNC] */

  bool rest_is_next;            /* [the sync thread's] it comes before a
                                   sync now */
  uint64_t took;                /* [the sync thread's] by the last sync, in
                                   microseconds */
};

extern void syncer_init (struct syncer *s);
extern void syncer_fini (struct syncer *s);
extern errcode_t syncer_start (struct filesystem *fs);

/* A whole sync, started after this call, has ended; its result.  Locks:
 * none held.
 */
extern errcode_t syncer_wait (struct filesystem *fs);

/* The running set has got its first change (SETTLE_TIMER): have it
 * committed in time.  Locks: none held.
 */
extern void syncer_set_timer (struct filesystem *fs);

/* All blocks whose freeing was committed before the call are free, and
 * a checkpoint that was due has been made.
 * Locks: none held.
 */
extern void syncer_drain (struct filesystem *fs);

/* The same, but at most until ENOUGH, which is asked again and again and
 * may take FS, says that it is.  Locks: none held.
 */
extern void syncer_drain_until (struct filesystem *fs,
                                bool (*enough) (struct filesystem *fs,
                                                const void *opaque),
                                const void *opaque);

/* Lets the thread make the last commits and end; their result.  Nobody
 * may be in syncer_wait.
 */
extern errcode_t syncer_stop (struct filesystem *fs);

#endif /* EXT2SERVE_SYNC_H */

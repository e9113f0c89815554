/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The sync thread: the only one that commits and flushes.
 *
 * Why a thread of its own: a request runs on its connection's thread,
 * and some layers beneath (nbdkit's delay, rate and retry filters) fail
 * a call when *that* connection hangs up.  A commit is made for
 * everybody and must not die with the client who happened to ask.
 *
 * In between, it checkpoints, and gives freed blocks back to the device
 * and the allocator.  That waits while syncs are wanted, but not for ever:
 * a piece of it comes first when several syncs have gone before it, or
 * when somebody waits for it (syncer_drain) because space has run out.
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

  struct lock lock;             /* SYNC */
  pthread_cond_t wanted;        /* requested or stop has changed */
  pthread_cond_t done;          /* completed or drained has changed, or a
                                   piece of the rest been done */
  uint64_t requested;           /* [SYNC] */
  uint64_t completed;           /* [SYNC] */
  errcode_t error;              /* [SYNC] of the last sync */
  bool more;                    /* [SYNC] something is left to do, when
                                   no sync is wanted (commit_idle) */
  unsigned put_off;             /* [SYNC] syncs since it had its turn */
  unsigned draining;            /* [SYNC] how many wait for it */
  uint64_t drained;             /* [SYNC] times that nothing was left */
  bool stop;                    /* [SYNC] */
};

extern void syncer_init (struct syncer *s);
extern void syncer_fini (struct syncer *s);
extern errcode_t syncer_start (struct filesystem *fs);

/* A whole sync, started after this call, has ended; its result.  Locks:
 * none held.
 */
extern errcode_t syncer_wait (struct filesystem *fs);

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

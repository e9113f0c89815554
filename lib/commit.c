/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Commit: the running set of metadata becomes durable.
 *
 *   1. Under FS: put checksums on bitmaps and descriptors, copy the
 *      superblock and all dirty blocks, take the lists of freed blocks,
 *      start the next running set.  All memory that the rest needs has been
 *      reserved by then.  From here on without FS.
 *   2. Put checksums on the copies of tree nodes, and make the copies
 *      durable: commit-journal.c or commit-ordered.c.
 *   3. Requests waiting for it are answered.
 *   4. Blocks freed by the set go to the sync thread's list (release.c).
 *
 * Transactions are numbered from 1: running_tid is the one that changes
 * are added to, committed_tid the last durable one; at most one is in
 * between, fs->commit, in the hands of the sync thread.  (The journal has
 * numbers of its own.)
 *
 *              1              2
 *   running ------> fs->commit ------> committed
 *                     ^    |   \
 *                     +----+    \ a flush failed, or it fits nowhere
 *                   2 failed:    v
 *                 try it again   aborted
 *
 * If a write of 2 fails (no room on the host of the image, a path to the
 * storage that is gone for a while), what is on the device is a state that a
 * power cut could have left.  So nothing is lost: the transaction stays what
 * it is, who waits gets the error, and the next sync does 2 again, with the
 * same blocks at the same places.  That is right whatever of the first
 * attempt has reached the device:
 *
 *   - in the log, because the head has not moved: what is written again is
 *     the same transaction, with the same number;
 *   - without a journal, because each write of it is a change on its own,
 *     and writing it twice is the same as once.
 *
 * Only when a flush has failed is it not known what the device holds: then
 * the filesystem is aborted, and nothing more is written.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "commit.h"
#include "errors.h"
#include "extent-node.h"
#include "log.h"

errcode_t
commit_init (struct filesystem *fs)
{
  fs->commit_batch = malloc (COMMIT_BATCH);
  fs->commit = calloc (1, sizeof *fs->commit);
  return fs->commit_batch && fs->commit ? 0 : ENOMEM;
}

/* FS's transaction in step 2 is done with, or given up. */
static void
drop (struct filesystem *fs, bool written)
{
  struct commit *c = fs->commit;

  mcache_thaw (fs->mc, &c->set, written);
  free (c->freed.ranges);
  free (c->revoked);
  memset (c, 0, sizeof *c);
}

void
commit_fini (struct filesystem *fs)
{
  if (fs->commit)
    drop (fs, false);
  free (fs->commit);
  free (fs->commit_batch);
  free (fs->releasing.ranges);
}

void
filesystem_abort_at (struct filesystem *fs, const char *func, unsigned line,
                     const char *why, errcode_t err)
{
  char text[128];

  lock_assert_held (LOCK_FS);
  if (atomic_exchange (&fs->aborted, true))
    return;
  log_error ("%s: %s: no more changes are accepted, reading goes on; end "
             "the server, run e2fsck -f, and start it again", why,
             errcode_text (err, text, sizeof text));
  super_note_error (fs, func, line, 0, err);
  if (!fs->marked)
    return;                     /* nothing has been changed on disk */
  /* The counts of the running set may be ahead; e2fsck recomputes them. */
  if (super_write (fs, fs->e2->super,
                   fs->original_state & ~EXT2_VALID_FS) == 0)
    device_flush (fs->dev);
}

errcode_t
commit_super (struct filesystem *fs, const struct ext2_super_block *sb)
{
  uint16_t state = fs->original_state;

  /* With a journal needs_recovery tells it, as Linux has it. */
  if (!fs->log)
    state &= ~EXT2_VALID_FS;
  return super_write (fs, sb, state);
}

/* The size of the running set. */

static size_t
running_blocks (const struct filesystem *fs)
{
  size_t n = mcache_dirty_count (fs->mc) + fs->alloc.ngdt_dirty;

  /* With revocations as if each took eight bytes; see J7. */
  if (fs->log)
    n += 1 + fs->alloc.nrevoked * 8 / (fs->block_size / 2);
  return n;
}

/* J7.  What is in the set may grow until it is frozen: descriptors. */
static bool
has_room (const struct filesystem *fs)
{
  return !fs->log ||
    running_blocks (fs) + MAX_OPERATION <= fs->log->max_running;
}

errcode_t
filesystem_begin_change (struct filesystem *fs)
{
  lock_assert_held (LOCK_FS);
  if (!fs->writable || atomic_load (&fs->aborted))
    return EROFS;
  /* Without a log nothing depends on it, and a release may take more. */
  LOCK_DEBUG (assert (!fs->log || running_blocks (fs)
                      <= fs->last_running + MAX_OPERATION));
  if (!has_room (fs))
    return TRANSACTION_FULL;
  LOCK_DEBUG (fs->last_running = running_blocks (fs));
  if (!fs->changed)
    atomic_fetch_or (&fs->to_settle, SETTLE_TIMER);
  fs->changed = true;
  return 0;
}

void
filesystem_note_growth (struct filesystem *fs)
{
  const size_t n = running_blocks (fs);

  lock_assert_held (LOCK_FS);
  if (n * fs->block_size >= LARGE_DIRTY ||
      (fs->log && n >= fs->log->max_running / 2) ||
      fs->alloc.pending.count >= LARGE_FREES)
    atomic_fetch_or (&fs->to_settle, SETTLE_GROWTH);
}

/* Step 1.  *WORK false: there is nothing to commit. */

static int
compare_blocks (const void *av, const void *bv)
{
  const uint64_t a = *(const uint64_t *) av, b = *(const uint64_t *) bv;

  return a < b ? -1 : a > b;
}

static void
take_lists (struct filesystem *fs, struct commit *c)
{
  struct allocator *a = &fs->alloc;

  c->freed = a->pending;
  memset (&a->pending, 0, sizeof a->pending);
  if (c->freed.count > 0)
    fs->freeing = true;
  c->revoked = a->revoked;
  c->nrevoked = a->nrevoked;
  a->revoked = NULL;
  a->nrevoked = a->revoked_size = 0;
}

/* What the steps after it need must not fail for want of memory.  Locks:
 * FS.
 */
static errcode_t
reserve (struct filesystem *fs)
{
  errcode_t err = commit_reserve_freed (fs, fs->alloc.pending.count);

  if (!err && fs->log)
    err = checkpoint_prepare (fs->log, mcache_dirty_count (fs->mc));
  return err;
}

static errcode_t
freeze (struct filesystem *fs, struct commit *c, bool *work)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  /* What an abort has left in the running set may be half a change. */
  if (atomic_load (&fs->aborted))
    return EIO;
  *work = fs->changed;
  if (!fs->changed)
    return 0;
  LOCK_DEBUG (alloc_check (fs));
  if ((err = group_prepare_freeze (fs)) || (err = reserve (fs)) ||
      (err = mcache_freeze (fs->mc, &c->set)))
    return err;
  c->first = !fs->marked;
  if (c->first && fs->log)
    ext2fs_set_feature_journal_needs_recovery (fs->e2->super);
  if (c->first)
    super_begin_changes (fs);
  fs->marked = true;
  c->super = *fs->e2->super;
  c->super_dirty = fs->super_dirty;
  take_lists (fs, c);
  fs->super_dirty = false;
  fs->changed = false;
  LOCK_DEBUG (fs->last_running = 0);
  atomic_fetch_and (&fs->to_settle, ~SETTLE_GROWTH);
  c->tid = fs->running_tid++;
  return 0;
}

errcode_t
write_in_place (struct filesystem *fs, const struct frozen_set *set,
                bool (*wanted) (const struct frozen_block *))
{
  const size_t bs = fs->block_size, most = COMMIT_BATCH / bs;
  const struct frozen_block *b = set->blocks;
  uint8_t *batch = fs->commit_batch;
  size_t i = 0, n;
  errcode_t err = 0;

  while (i < set->count && !err) {
    uint64_t start = b[i].blkno;

    for (n = 0; n < most && i + n < set->count && b[i + n].blkno == start + n
           && (!wanted || wanted (&b[i + n])); n++)
      memcpy (batch + n * bs, b[i + n].data, bs);
    if (n > 0)
      err = device_pwrite (fs->dev, batch, n * bs, start * bs, 0);
    i += n > 0 ? n : 1;
  }
  return err;
}

static void
seal_nodes (struct frozen_set *set)
{
  size_t i;

  for (i = 0; i < set->count; i++)
    if (set->blocks[i].seal)
      node_seal (set->blocks[i].data, set->blocks[i].seal);
}

/* Is there a transaction that could not be made durable yet? */
static bool
is_kept (const struct filesystem *fs)
{
  return fs->commit->tid != 0;
}

/* Steps 1 and, on the copies, 2.  *WORK: there is something to commit. */
static errcode_t
prepare (struct filesystem *fs, bool *work)
{
  struct commit *c = fs->commit;
  errcode_t err = freeze (fs, c, work);

  if (err || !*work)
    return err;                 /* as if nothing had been tried */
  seal_nodes (&c->set);
  if (c->nrevoked > 0)
    qsort (c->revoked, c->nrevoked, sizeof *c->revoked, compare_blocks);
  log_debug ("commit %llu: %zu blocks, %zu revoked, %zu ranges freed",
             (unsigned long long) c->tid, c->set.count, c->nrevoked,
             c->freed.count);
  return 0;
}

/* Metadata could not be written: may that be tried again?  Else the
 * filesystem is aborted.
 */
static bool
may_try_again (struct filesystem *fs, errcode_t err)
{
  char why[128];

  if (err == EFBIG || device_flush_failed (fs->dev)) {
    LOCK_FOR_SCOPE (&fs->lock);
    filesystem_abort (fs, "metadata could not be written", err);
  }
  if (atomic_load (&fs->aborted))
    return false;
  if (!fs->troubled)
    log_error ("metadata could not be written: %s: flushes fail until they "
               "can be, and nothing is lost meanwhile: %s, then flush again; "
               "the server must not be ended before",
               errcode_text (err, why, sizeof why), err == ENOSPC
               ? "make room where the image is stored, or trim"
               : err == ENOMEM ? "see to the memory of this machine"
               : "see to the device");
  fs->troubled = true;
  return true;
}

static void
note_success (struct filesystem *fs)
{
  if (fs->troubled)
    log_warning ("metadata can be written again: nothing was lost");
  fs->troubled = false;
}

/* *WORK: there was something to commit. */
static errcode_t
commit_once (struct filesystem *fs, bool *work)
{
  struct commit *c = fs->commit;
  errcode_t err = 0;

  *work = is_kept (fs);
  if (*work && atomic_load (&fs->aborted))
    return EIO;
  if (!*work)
    err = prepare (fs, work);
  if (err || !*work)
    return err;
  err = fs->log ? commit_journal (fs, c) : commit_ordered (fs, c);
  if (err) {
    if (!may_try_again (fs, err))
      drop (fs, false);
    return err;
  }
  note_success (fs);
  commit_queue_freed (fs, &c->freed);
  atomic_store (&fs->committed_tid, c->tid);
  drop (fs, true);
  return 0;
}

errcode_t
commit_sync (struct filesystem *fs)
{
  const bool kept = is_kept (fs);
  bool work;
  errcode_t err = commit_once (fs, &work);

  if (!err && kept)             /* and what has been changed since */
    err = commit_once (fs, &work);
  return err || work ? err : device_flush (fs->dev);
}

errcode_t
commit_changes (struct filesystem *fs)
{
  bool work;

  return commit_once (fs, &work);
}

static errcode_t
checkpoint (struct filesystem *fs,
            errcode_t (*how) (struct filesystem *, struct log *))
{
  errcode_t err;

  if (atomic_load (&fs->aborted))
    return EIO;
  err = how (fs, fs->log);
  if (err)
    may_try_again (fs, err);    /* the log has it all */
  else if (!is_kept (fs))
    note_success (fs);
  return err;
}

static bool
rest_once (struct filesystem *fs)
{
  bool more = false;

  if (fs->log && checkpoint_due (fs, fs->log))
    more = checkpoint (fs, checkpoint_some) == 0 &&
      checkpoint_due (fs, fs->log);
  return commit_release_some (fs) || more;
}

bool
commit_rest (struct filesystem *fs, uint64_t time)
{
  const uint64_t until = clock_us () + time;
  bool more;

  do
    more = rest_once (fs);
  while (more && clock_us () < until);
  return more;
}

bool
commit_is_behind (const struct filesystem *fs)
{
  return fs->releasing.count > fs->most_releasing / 2 ||
    (fs->log && fs->log->used > fs->log->capacity / 4 * 3);
}

/* The last of all. */

static errcode_t
commit_all (struct filesystem *fs)
{
  bool work;
  errcode_t err;

  /* Without a journal releasing is a change to be committed. */
  do {
    while (commit_release_some (fs))
      ;
    err = commit_once (fs, &work);
  } while (!err && work);
  if (!err && fs->log)
    err = checkpoint (fs, checkpoint_all);
  if (!err)
    err = device_flush (fs->dev);
  if (!err && device_flush_failed (fs->dev))
    err = EIO;                  /* an earlier one: keep it unclean */
  return err;
}

errcode_t
commit_last (struct filesystem *fs)
{
  uint16_t state = fs->original_state;
  errcode_t err = commit_all (fs);

  if (err || !fs->marked)
    return err;
  if (fs->log)
    err = log_end (fs, fs->log);

  LOCK_FOR_SCOPE (&fs->lock);
  if (fs->damaged)
    state = (state & ~EXT2_VALID_FS) | EXT2_ERROR_FS;
  if (!err) {
    ext2fs_clear_feature_journal_needs_recovery (fs->e2->super);  /* J1 */
    err = super_write (fs, fs->e2->super, state);
  }
  if (!err)
    err = device_flush (fs->dev);
  if (err)
    filesystem_abort (fs, "the superblock could not be written", err);
  return err;
}

/* What requests call. */

errcode_t
filesystem_flush (struct filesystem *fs)
{
  errcode_t err;

  if (!fs->writable)
    return 0;
  if (atomic_load (&fs->aborted) || device_flush_failed (fs->dev))
    return EIO;
  err = syncer_wait (fs);
  return !err && device_flush_failed (fs->dev) ? EIO : err;
}

errcode_t
filesystem_make_room (struct filesystem *fs)
{
  return filesystem_flush (fs);
}

errcode_t
filesystem_commit_tid (struct filesystem *fs, uint64_t tid)
{
  if (atomic_load (&fs->committed_tid) >= tid)
    return 0;
  return filesystem_flush (fs);
}

void
filesystem_balance (struct filesystem *fs)
{
  const unsigned what = atomic_load_explicit (&fs->to_settle,
                                              memory_order_relaxed);

  if (what & SETTLE_TIMER)
    syncer_set_timer (fs);
  if (what & SETTLE_GROWTH)
    filesystem_flush (fs);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Commit: the running set of metadata becomes durable.
 *
 *   1. Under FS: put checksums on bitmaps and descriptors, copy the
 *      superblock and all dirty blocks, take the lists of freed blocks,
 *      start the next running set.  From here on without FS.
 *   2. Put checksums on the copies of tree nodes, and make the copies
 *      durable: commit-journal.c or commit-ordered.c.
 *   3. Requests waiting for it are answered.
 *   4. Blocks freed by the set go to the sync thread's list (release.c).
 *
 * A failure in 2 aborts the filesystem: what is on the device is then a
 * state that a power cut could have left, and nothing more is written.
 *
 * Transactions are numbered from 1: running_tid is the one that changes
 * are added to, committed_tid the last durable one; at most one is in
 * between, in the hands of the sync thread.  (The journal has numbers of
 * its own.)
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "errors.h"
#include "extent-node.h"
#include "log.h"

void
filesystem_abort_at (struct filesystem *fs, const char *func, unsigned line,
                     const char *why, errcode_t err)
{
  char text[128];

  lock_assert_held (LOCK_FS);
  if (atomic_exchange (&fs->aborted, true))
    return;
  log_error ("%s: %s: no more changes are accepted, reading goes on; "
             "restart the server after running e2fsck", why,
             errcode_text (err, text, sizeof text));
  super_note_error (fs, func, line, 0, err);
  if (!fs->marked)
    return;                     /* nothing has been changed on disk */
  /* The counts of the running set may be ahead; e2fsck recomputes them. */
  if (super_write (fs, fs->e2->super,
                   fs->original_state & ~EXT2_VALID_FS) == 0)
    device_flush (fs->dev);
}

void
filesystem_flush_failed (struct filesystem *fs, errcode_t err)
{
  char why[128];

  if (!atomic_exchange (&fs->flush_failed, true))
    log_error ("the device could not make data durable: %s: flushes fail "
               "from now on, because what was lost is not known; restart "
               "the server when the device is well",
               errcode_text (err, why, sizeof why));
}

errcode_t
commit_flush (struct filesystem *fs)
{
  errcode_t err = device_flush (fs->dev);

  if (err)
    filesystem_flush_failed (fs, err);
  return err;
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
    atomic_store (&fs->grown, true);
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
  err = group_prepare_freeze (fs);
  if (!err)
    err = mcache_freeze (fs->mc, &c->set);
  if (err)
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
  atomic_store (&fs->grown, false);
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

/* *WORK: there was something to commit. */
static errcode_t
commit_once (struct filesystem *fs, bool *work)
{
  struct commit c = { .tid = 0 };
  errcode_t err;

  *work = false;
  err = freeze (fs, &c, work);
  if (err || !*work)
    return err;                 /* as if nothing had been tried */
  seal_nodes (&c.set);
  if (c.nrevoked > 0)
    qsort (c.revoked, c.nrevoked, sizeof *c.revoked, compare_blocks);
  log_debug ("commit %llu: %zu blocks, %zu revoked, %zu ranges freed",
             (unsigned long long) c.tid, c.set.count, c.nrevoked,
             c.freed.count);
  err = fs->log ? commit_journal (fs, &c) : commit_ordered (fs, &c);
  if (err) {
    LOCK_FOR_SCOPE (&fs->lock);
    filesystem_abort (fs, "metadata could not be written", err);
  }
  mcache_thaw (fs->mc, &c.set, err == 0);
  if (!err) {
    /* Without memory for the list they stay allocated: a leak. */
    if (commit_queue_freed (fs, &c.freed) != 0)
      log_error ("out of memory: %zu ranges of freed blocks are lost until "
                 "e2fsck is run", c.freed.count);
    atomic_store (&fs->committed_tid, c.tid);
  }
  free (c.freed.ranges);
  free (c.revoked);
  return err;
}

errcode_t
commit_sync (struct filesystem *fs)
{
  bool work;
  errcode_t err = commit_once (fs, &work);

  return err || work ? err : commit_flush (fs);
}

static errcode_t
checkpoint_or_abort (struct filesystem *fs,
                     errcode_t (*how) (struct filesystem *, struct log *))
{
  errcode_t err;

  if (atomic_load (&fs->aborted))
    return EIO;
  err = how (fs, fs->log);
  if (err) {
    LOCK_FOR_SCOPE (&fs->lock);
    filesystem_abort (fs, "metadata could not be written", err);
  }
  return err;
}

bool
commit_idle (struct filesystem *fs)
{
  bool more = false;

  if (fs->log && checkpoint_due (fs, fs->log))
    more = checkpoint_or_abort (fs, checkpoint_some) == 0 &&
      checkpoint_due (fs, fs->log);
  return commit_release_some (fs) || more;
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
    err = checkpoint_or_abort (fs, checkpoint_all);
  if (!err)
    err = commit_flush (fs);
  if (!err && atomic_load (&fs->flush_failed))
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
    err = commit_flush (fs);
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
  if (atomic_load (&fs->aborted) || atomic_load (&fs->flush_failed))
    return EIO;
  err = syncer_wait (fs);
  return !err && atomic_load (&fs->flush_failed) ? EIO : err;
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

bool
filesystem_reclaim (struct filesystem *fs, uint64_t since)
{
  bool worth;

  lock_acquire (&fs->lock);
  worth = fs->alloc.pending.count > 0 || fs->freeing;
  lock_release (&fs->lock);
  if (!worth)
    return atomic_load (&fs->committed_tid) != since;
  if (filesystem_flush (fs) != 0)
    return false;
  syncer_drain (fs);
  return true;
}

void
filesystem_balance (struct filesystem *fs)
{
  if (atomic_load_explicit (&fs->grown, memory_order_relaxed))
    filesystem_flush (fs);
}

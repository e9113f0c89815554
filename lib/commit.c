/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Commit: the running set of metadata becomes durable.
 *
 * The order, without a journal.  "Flush" is a flush of the device.
 *
 *   1. Under FS: put checksums on bitmaps and descriptors, copy the
 *      superblock and all dirty blocks, take the list of freed blocks,
 *      start the next running set.  From here on without FS.
 *   2. Before the first change ever: superblock with VALID_FS cleared,
 *      flush.
 *   3. Bitmaps, descriptors, superblock counts; tree blocks that nothing
 *      on disk points at yet.
 *   4. Flush.  That covers 3, and also all file data written before 1:
 *      both are durable before any pointer to them.
 *      A crash up to here leaks blocks, which e2fsck -p frees.
 *   5. Tree blocks and inodes that existed before, in any order: each
 *      single block's write is a whole change of its own (extent-edit.c).
 *      Flush.  The set is durable: requests waiting for it are answered.
 *      A crash here leaks blocks and leaves wrong block counts of inodes,
 *      which e2fsck -p corrects.
 *   6. Blocks freed by the set go to the sync thread's list; when it has
 *      nothing more urgent to do, it tells the device and clears their
 *      bits, a few at a time.  That is a change of a later set, so a
 *      crash before it leaks at worst.
 *
 * A failure in 2 to 5 aborts the filesystem: what is on the device is
 * then one of the states above, and nothing more is written.
 *
 * Transactions are numbered from 1: running_tid is the one that changes
 * are added to, committed_tid the last durable one; at most one is in
 * between, in the hands of the sync thread.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "commit.h"
#include "errors.h"

#define SUPER_OFFSET 1024
#define SUPER_SIZE 1024

struct commit {
  uint64_t tid;
  struct frozen_set set;
  struct free_list freed;
  struct ext2_super_block super;        /* as it is to be on disk */
  bool super_dirty;
  bool first;                           /* VALID_FS still set on disk */
};

/* The superblock. */

static errcode_t
write_super (struct filesystem *fs, const struct ext2_super_block *sb,
             uint16_t state)
{
  union {
    struct ext2_super_block sb;
    uint8_t bytes[SUPER_SIZE];
  } u;

  _Static_assert (sizeof u.sb == SUPER_SIZE, "superblock is 1024 bytes");
  u.sb = *sb;
  u.sb.s_state = state;
  if (atomic_load (&fs->aborted))
    u.sb.s_state |= EXT2_ERROR_FS;      /* whoever writes it last */
  u.sb.s_wtime = (uint32_t) time (NULL);
#ifdef WORDS_BIGENDIAN
  ext2fs_swap_super (&u.sb);
#endif
  ext2fs_superblock_csum_set (fs->e2, &u.sb);
  return device_pwrite (fs->dev, u.bytes, SUPER_SIZE, SUPER_OFFSET, 0);
}

void
filesystem_abort (struct filesystem *fs, const char *why, errcode_t err)
{
  struct ext2_super_block sb;
  char text[128];

  lock_assert_held (LOCK_FS);
  if (atomic_exchange (&fs->aborted, true))
    return;
  log_error ("%s: %s: no more changes are accepted, reading goes on; "
             "restart the server after running e2fsck", why,
             errcode_text (err, text, sizeof text));
  if (!fs->unmarked_valid)
    return;                     /* nothing has been changed on disk */
  /* The counts of the running set may be ahead; e2fsck recomputes them. */
  sb = *fs->e2->super;
  sb.s_error_count++;
  if (write_super (fs, &sb, fs->original_state & ~EXT2_VALID_FS) == 0)
    device_flush (fs->dev);
}

errcode_t
filesystem_begin_change (struct filesystem *fs)
{
  lock_assert_held (LOCK_FS);
  if (!fs->writable || atomic_load (&fs->aborted))
    return EROFS;
  fs->changed = true;
  return 0;
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

static errcode_t
flush (struct filesystem *fs)
{
  errcode_t err = device_flush (fs->dev);

  if (err)
    filesystem_flush_failed (fs, err);
  return err;
}

/* Step 1.  Returns with *WORK false if there is nothing to commit. */
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
  err = alloc_prepare_freeze (fs);
  if (!err)
    err = mcache_freeze (fs->mc, &c->set);
  if (err)
    return err;
  c->super = *fs->e2->super;
  c->super_dirty = fs->super_dirty;
  c->freed = fs->alloc.pending;
  memset (&fs->alloc.pending, 0, sizeof fs->alloc.pending);
  if (c->freed.count > 0)
    fs->freeing = true;
  c->first = !fs->unmarked_valid;
  fs->unmarked_valid = true;
  fs->super_dirty = false;
  fs->changed = false;
  atomic_store (&fs->grown, false);
  c->tid = fs->running_tid++;
  return 0;
}

static bool
in_first_wave (const struct frozen_block *fb)
{
  return fb->fresh || fb->mclass == MCLASS_BITMAP;
}

/* Writes the blocks of one wave, neighbours together. */
static errcode_t
write_wave (struct filesystem *fs, const struct frozen_set *set, bool first)
{
  const size_t bs = fs->block_size, most = COMMIT_BATCH / bs;
  uint8_t *batch = fs->commit_batch;
  size_t i = 0, n;
  errcode_t err = 0;

  while (i < set->count && !err) {
    uint64_t start = set->blocks[i].blkno;

    if (in_first_wave (&set->blocks[i]) != first) {
      i++;
      continue;
    }
    for (n = 0; n < most && i + n < set->count &&
           set->blocks[i + n].blkno == start + n &&
           in_first_wave (&set->blocks[i + n]) == first; n++)
      memcpy (batch + n * bs, set->blocks[i + n].data, bs);
    err = device_pwrite (fs->dev, batch, n * bs, start * bs, 0);
    i += n;
  }
  return err;
}

/* Steps 2 to 5. */
static errcode_t
write_commit (struct filesystem *fs, struct commit *c)
{
  const uint16_t state = fs->original_state & ~EXT2_VALID_FS;
  errcode_t err;

  log_debug ("commit %llu: %zu blocks, %zu ranges freed",
             (unsigned long long) c->tid, c->set.count, c->freed.count);
  if (c->first && ((err = write_super (fs, &c->super, state)) ||
                   (err = flush (fs))))
    return err;
  if ((err = write_wave (fs, &c->set, true)))
    return err;
  if (c->super_dirty && (err = write_super (fs, &c->super, state)))
    return err;
  if ((err = flush (fs)))
    return err;
  if ((err = write_wave (fs, &c->set, false)))
    return err;
  return flush (fs);
}

/* Step 6. */

/* How much of it to do before looking for other work again. */
#define RELEASE_RANGES 64
#define RELEASE_BLOCKS 65536

/* Hands C's freed blocks over to the sync thread's list. */
static errcode_t
queue_freed (struct filesystem *fs, struct free_list *freed)
{
  struct free_list *l = &fs->releasing;
  struct free_range *p;

  if (freed->count == 0)
    return 0;
  if (l->count == 0) {
    free (l->ranges);
    *l = *freed;
    memset (freed, 0, sizeof *freed);
    return 0;
  }
  p = realloc (l->ranges, (l->count + freed->count) * sizeof *p);
  if (p == NULL)
    return ENOMEM;
  memcpy (p + l->count, freed->ranges, freed->count * sizeof *p);
  l->ranges = p;
  l->count += freed->count;
  l->size = l->count;
  return 0;
}

/* A range that is not wholly allocated comes from a damaged image: it may
 * be somebody else's, and is left alone.
 */
static void
release_range (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  bool ours;

  lock_acquire (&fs->lock);
  ours = !atomic_load (&fs->aborted) && alloc_is_allocated (fs, blk, len);
  lock_release (&fs->lock);
  if (!ours)
    return;
  /* Its bits are set, so nobody can take it meanwhile. */
  device_trim (fs->dev, len << fs->block_bits, blk << fs->block_bits);
  LOCK_FOR_SCOPE (&fs->lock);
  if (filesystem_begin_change (fs) == 0)
    alloc_free_now (fs, blk, len);
}

bool
commit_release_some (struct filesystem *fs)
{
  struct free_list *l = &fs->releasing;
  uint64_t ranges = 0, blocks = 0;

  while (l->count > 0 && ranges < RELEASE_RANGES && blocks < RELEASE_BLOCKS) {
    struct free_range *r = &l->ranges[l->count - 1];
    uint64_t n = r->len < RELEASE_BLOCKS ? r->len : RELEASE_BLOCKS;

    release_range (fs, r->blk + r->len - n, n);
    r->len -= n;
    if (r->len == 0)
      l->count--;
    ranges++;
    blocks += n;
  }
  if (l->count > 0)
    return true;
  LOCK_FOR_SCOPE (&fs->lock);
  fs->freeing = false;
  return false;
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
  err = write_commit (fs, &c);
  if (err) {
    LOCK_FOR_SCOPE (&fs->lock);
    filesystem_abort (fs, "metadata could not be written", err);
  }
  mcache_thaw (fs->mc, &c.set, err == 0);
  if (!err) {
    /* Without memory for the list they stay allocated: a leak. */
    if (queue_freed (fs, &c.freed) != 0)
      log_error ("out of memory: %zu ranges of freed blocks are lost until "
                 "e2fsck is run", c.freed.count);
    atomic_store (&fs->committed_tid, c.tid);
  }
  free (c.freed.ranges);
  return err;
}

errcode_t
commit_sync (struct filesystem *fs)
{
  bool work;
  errcode_t err = commit_once (fs, &work);

  return err || work ? err : flush (fs);
}

errcode_t
commit_last (struct filesystem *fs)
{
  uint16_t state = fs->original_state;
  bool work;
  errcode_t err;

  /* A commit frees blocks, which is a change to be committed. */
  do {
    while (commit_release_some (fs))
      ;
    err = commit_once (fs, &work);
  } while (!err && work);
  if (!err)
    err = flush (fs);
  if (!err && atomic_load (&fs->flush_failed))
    err = EIO;                  /* an earlier one: keep it unclean */
  if (err || !fs->unmarked_valid)
    return err;

  LOCK_FOR_SCOPE (&fs->lock);
  if (fs->damaged)
    state = (state & ~EXT2_VALID_FS) | EXT2_ERROR_FS;
  err = write_super (fs, fs->e2->super, state);
  if (!err)
    err = flush (fs);
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

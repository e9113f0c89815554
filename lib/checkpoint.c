/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Checkpointing: what is in the log goes to its place.
 *
 * Of each block only the last committed copy is kept, in an array sorted
 * by block number; a commit merges its own into it.  So many commits of
 * the same few blocks, as flushes bring them, cost one write in place.
 *
 * A checkpoint goes once through the array, in pieces of one write each, so
 * that a flush need not wait for all of it.  It is about the transactions that were in
 * the log when it began.  A commit in between may replace a copy that it
 * has not come to by one of a later transaction, and then writes that; or
 * one that it has written; or revoke the block.  Either way the later
 * transaction is in the log behind the tail to be, and a replay finds it
 * there.  In the end what is left in the array is of later transactions.
 *
 * If a write fails, the log still holds everything: the checkpoint stays
 * where it is, and goes on from there when it is next its turn.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "errors.h"
#include "log.h"

/* A checkpoint is made when so many bytes wait for it, or when half of
 * the log is used.
 */
#define MANY_LOGGED ((size_t) 16 << 20)

/* A piece of it at most, in bytes: what is one write. */
#define PIECE COMMIT_BATCH

errcode_t
checkpoint_prepare (struct log *log, size_t blocks)
{
  size_t n = log->logged.count + blocks;
  struct frozen_block *p;

  if (n <= log->logged_size)
    return 0;
  n *= 2;
  p = realloc (log->logged.blocks, n * sizeof *p);
  if (p == NULL)
    return ENOMEM;
  log->logged.blocks = p;
  log->logged_size = n;
  return 0;
}

/* From the back, so that it can be done within the larger array. */
static void
merge (struct filesystem *fs, struct frozen_set *into,
       const struct frozen_set *from)
{
  size_t a = into->count, b = from->count, to = a + b;
  struct frozen_block *p = into->blocks;

  while (b > 0) {
    if (a > 0 && p[a - 1].blkno > from->blocks[b - 1].blkno)
      p[--to] = p[--a];
    else {
      if (a > 0 && p[a - 1].blkno == from->blocks[b - 1].blkno)
        mcache_thaw_block (fs->mc, &p[--a]);    /* replaced */
      p[--to] = from->blocks[--b];
    }
  }
  /* A gap as wide as there were replacements. */
  into->count = a + (into->count + from->count - to);
  memmove (p + a, p + to, (into->count - a) * sizeof *p);
}

/* J6 */
static void
drop_revoked (struct filesystem *fs, struct frozen_set *set,
              const uint64_t *revoked, size_t n)
{
  size_t i, to = 0, r = 0;

  for (i = 0; n > 0 && i < set->count; i++) {
    while (r < n && revoked[r] < set->blocks[i].blkno)
      r++;
    if (r < n && revoked[r] == set->blocks[i].blkno)
      mcache_thaw_block (fs->mc, &set->blocks[i]);
    else
      set->blocks[to++] = set->blocks[i];
  }
  if (n > 0)
    set->count = to;
}

void
checkpoint_add (struct filesystem *fs, struct log *log,
                struct frozen_set *set, const uint64_t *revoked,
                size_t nrevoked)
{
  size_t i;

  assert (log->logged_size >= log->logged.count + set->count);
  for (i = 0; i < set->count; i++)
    set->blocks[i].logged_tid = log->tid - 1;   /* the one just committed */
  drop_revoked (fs, &log->logged, revoked, nrevoked);
  merge (fs, &log->logged, set);
  free (set->blocks);
  set->blocks = NULL;
  set->count = 0;
}

bool
checkpoint_due (const struct filesystem *fs, const struct log *log)
{
  return log->checkpoint.active || log->used > log->capacity / 2 ||
    log->logged.count * fs->block_size >= MANY_LOGGED;
}

static void
begin (struct log *log)
{
  log->checkpoint.active = true;
  log->checkpoint.head = log->head;
  log->checkpoint.tid = log->tid;
  log->checkpoint.used = log->used;
  log->checkpoint.next = 0;
}

/* Index of the first block at or after BLKNO. */
static size_t
find (const struct frozen_set *set, uint64_t blkno)
{
  size_t lo = 0, hi = set->count;

  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;

    if (set->blocks[mid].blkno < blkno)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* How many neighbours there are from index FROM on, up to MOST. */
static size_t
count_neighbours (const struct frozen_set *set, size_t from, size_t most)
{
  const struct frozen_block *b = set->blocks + from;
  size_t n = 0;

  while (n < most && from + n < set->count && b[n].blkno == b[0].blkno + n)
    n++;
  return n;
}

/* *DONE: there was nothing left to write. */
static errcode_t
write_piece (struct filesystem *fs, struct log *log, bool *done)
{
  struct frozen_set *all = &log->logged, piece;
  const size_t from = find (all, log->checkpoint.next);
  errcode_t err;

  piece.blocks = all->blocks + from;
  piece.count = count_neighbours (all, from, PIECE / fs->block_size);
  *done = piece.count == 0;
  if (*done)
    return 0;
  err = write_in_place (fs, &piece, NULL);
  if (!err)
    log->checkpoint.next = piece.blocks[piece.count - 1].blkno + 1;
  return err;
}

/* J4: in place, flush, then the superblock, durably; then, and not
 * before, may the space be used again.
 */
static errcode_t
end (struct filesystem *fs, struct log *log)
{
  struct frozen_set *set = &log->logged;
  size_t i, to = 0;
  errcode_t err;

  log_debug ("checkpoint: %zu blocks, %u of %u blocks of the log used",
             set->count, (unsigned) log->used, (unsigned) log->capacity);
  if ((err = device_flush (fs->dev)) ||
      (err = log_set_tail (fs, log, log->checkpoint.head,
                           log->checkpoint.tid)))
    return err;
  log->used -= log->checkpoint.used;
  for (i = 0; i < set->count; i++) {
    if (jbd2_tid_geq (set->blocks[i].logged_tid, log->checkpoint.tid))
      set->blocks[to++] = set->blocks[i];
    else
      mcache_thaw_block (fs->mc, &set->blocks[i]);
  }
  set->count = to;
  log->checkpoint.active = false;
  return 0;
}

errcode_t
checkpoint_some (struct filesystem *fs, struct log *log)
{
  bool done;
  errcode_t err;

  if (!log->checkpoint.active)
    begin (log);
  err = write_piece (fs, log, &done);
  return err || !done ? err : end (fs, log);
}

errcode_t
checkpoint_all (struct filesystem *fs, struct log *log)
{
  errcode_t err = 0;

  /* Perhaps one that has begun, and one for what came since. */
  while (log->used > 0 && !err)
    err = checkpoint_some (fs, log);
  return err;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Checkpointing: what is in the log goes to its place.
 *
 * Of each block only the last committed copy is kept, in an array sorted
 * by block number; a commit merges its own into it.  A checkpoint writes
 * the whole array: many commits of the same few blocks, as flushes bring
 * them, cost one write in place.
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
  assert (log->logged_size >= log->logged.count + set->count);
  drop_revoked (fs, &log->logged, revoked, nrevoked);
  merge (fs, &log->logged, set);
  free (set->blocks);
  set->blocks = NULL;
  set->count = 0;
}

bool
checkpoint_due (const struct filesystem *fs, const struct log *log)
{
  return log->used > log->capacity / 2 ||
    log->logged.count * fs->block_size >= MANY_LOGGED;
}

/* J4: in place, flush, then the superblock, durably; then, and not
 * before, may the space be used again.
 */
errcode_t
checkpoint (struct filesystem *fs, struct log *log)
{
  errcode_t err;

  if (log->used == 0)
    return 0;
  log_debug ("checkpoint: %zu blocks, %u of %u blocks of the log used",
             log->logged.count, (unsigned) log->used,
             (unsigned) log->capacity);
  if ((err = write_in_place (fs, &log->logged, NULL)) ||
      (err = commit_flush (fs)))
    return err;
  err = log_begin (fs, log);
  if (!err) {
    mcache_thaw (fs->mc, &log->logged, true);
    log->logged_size = 0;
  }
  return err;
}

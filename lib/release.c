/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Blocks whose freeing has become durable: the device is told, and they
 * can be had again.  By the sync thread, a call to the device at a time,
 * so that it can look for other work.
 *
 * The device may be slower than those who free.  Then the list grows, the
 * thread takes more time for it (commit_is_behind), and in the end those who
 * free have to wait: as for the device itself, if it were theirs.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "fs.h"

/* The device takes so much in one call (device.c).  Bytes. */
#define ONE_CALL (UINT64_C (64) << 20)

/* Whoever frees more has to wait meanwhile (reclaim.c). */
static void
note_length (struct filesystem *fs)
{
  atomic_store (&fs->behind, fs->releasing.count > fs->most_releasing);
}

errcode_t
commit_reserve_freed (struct filesystem *fs, size_t ranges)
{
  struct free_list *l = &fs->releasing;
  const size_t n = l->count + ranges;
  struct free_range *p;

  if (n <= l->size)
    return 0;
  p = realloc (l->ranges, n * sizeof *p);
  if (p == NULL)
    return ENOMEM;
  l->ranges = p;
  l->size = n;
  return 0;
}

void
commit_queue_freed (struct filesystem *fs, struct free_list *freed)
{
  struct free_list *l = &fs->releasing;

  assert (freed->count <= l->size - l->count);
  if (freed->count > 0)
    memcpy (l->ranges + l->count, freed->ranges,
            freed->count * sizeof *freed->ranges);
  l->count += freed->count;
  note_length (fs);
}

static void
release_range (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  bool ours;

  lock_acquire (&fs->lock);
  ours = alloc_may_discard (fs, blk, len);
  lock_release (&fs->lock);
  if (!ours)
    return;
  /* Nobody can take it meanwhile (alloc.h, inv 4). */
  device_trim (fs->dev, len << fs->block_bits, blk << fs->block_bits);
  LOCK_FOR_SCOPE (&fs->lock);
  alloc_released (fs, blk, len);
}

bool
commit_release_some (struct filesystem *fs)
{
  struct free_list *l = &fs->releasing;

  if (l->count > 0) {
    const uint64_t most = ONE_CALL >> fs->block_bits;
    struct free_range *r = &l->ranges[l->count - 1];
    uint64_t n = r->len < most ? r->len : most;

    release_range (fs, r->blk + r->len - n, n);
    r->len -= n;
    if (r->len == 0)
      l->count--;
    note_length (fs);
  }
  if (l->count > 0)
    return true;
  LOCK_FOR_SCOPE (&fs->lock);
  fs->freeing = false;
  return false;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Blocks whose freeing has become durable: the device is told, and they
 * can be had again.  The sync thread's, when it has nothing more urgent
 * to do, a few at a time.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "fs.h"

/* How much of it to do before looking for other work again; and so many
 * times that when so many ranges wait, because the list must not grow
 * without end while syncs go first (sync.c).
 */
#define RELEASE_RANGES 64
#define RELEASE_BLOCKS 65536
#define RELEASE_SHARE(waiting) (1 + (waiting) / 512)

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
  const uint64_t share = RELEASE_SHARE (l->count);
  uint64_t ranges = 0, blocks = 0;

  while (l->count > 0 && ranges < RELEASE_RANGES * share &&
         blocks < RELEASE_BLOCKS * share) {
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

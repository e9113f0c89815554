/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block allocator: reserving and taking.  The invariants are in
 * alloc.h.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "errors.h"
#include "fs.h"
#include "group.h"

bool
alloc_has_space (struct filesystem *fs, uint64_t n)
{
  uint64_t have = ext2fs_free_blocks_count (fs->e2->super);
  uint64_t keep = ext2fs_r_blocks_count (fs->e2->super)
    + fs->alloc.promised + fs->alloc.withheld + fs->alloc.lost;

  return have >= keep && have - keep >= n;
}

errcode_t
alloc_reserve (struct filesystem *fs, const struct goal *goal, uint32_t want,
               uint32_t meta, struct reservation *r)
{
  struct mbuf *mb;
  struct free_run run;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  memset (r, 0, sizeof *r);
  if (!alloc_has_space (fs, (uint64_t) meta + (want > 0)))
    return EXT2_ET_BLOCK_ALLOC_FAIL;
  while (want > 1 && !alloc_has_space (fs, (uint64_t) meta + want))
    want /= 2;

  if (want > 0) {
    err = alloc_find (fs, goal, want, &run);
    if (err)
      return err;
    err = group_bitmap (fs, run.group, &mb);
    if (err)
      return err;
    err = group_make_busy (fs, run.group, mb);
    mcache_unpin (fs->mc, mb);
    if (err)
      return err;
    group_hold (fs, run.group, run.bit, run.len);
    r->blk = group_first (fs, run.group) + run.bit;
    r->len = run.len;
  }
  r->meta = meta;
  fs->alloc.promised += (uint64_t) r->len + r->meta;
  return 0;
}

/* The first N blocks of R's run. */
static void
unreserve (struct filesystem *fs, const struct reservation *r, uint32_t n,
           bool release)
{
  dgrp_t g = group_of (fs, r->blk);

  group_unhold (fs, g, r->blk - group_first (fs, g), n, release);
}

static void
wake_waiting (struct filesystem *fs)
{
  if (fs->alloc.waiting > 0)
    pthread_cond_broadcast (&fs->space_back);
}

void
alloc_note_returned (struct filesystem *fs)
{
  lock_assert_held (LOCK_FS);
  atomic_fetch_add_explicit (&fs->alloc.returned, 1, memory_order_relaxed);
  wake_waiting (fs);
}

void
alloc_release (struct filesystem *fs, struct reservation *r)
{
  lock_assert_held (LOCK_FS);
  if (r->len > 0)
    unreserve (fs, r, r->len, true);
  fs->alloc.promised -= (uint64_t) r->len + r->meta;
  if (r->len > 0 || r->meta > 0)
    alloc_note_returned (fs);
  else
    wake_waiting (fs);          /* nobody may have anything any more */
  memset (r, 0, sizeof *r);
}

errcode_t
alloc_take (struct filesystem *fs, struct reservation *r, uint32_t n)
{
  dgrp_t g;
  uint32_t i;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  assert (n <= r->len);
  if (n == 0)
    return 0;
  g = group_of (fs, r->blk);
  /* In a damaged image a tree may have them, and be in the cache. */
  for (i = 0; i < n; i++) {
    if (!mcache_forget_free (fs->mc, r->blk + i)) {
      group_set_bad (fs, g, "a block in use is marked free");
      return EXT2_FILSYS_CORRUPTED;
    }
  }
  err = group_change_bits (fs, g, r->blk - group_first (fs, g), n, true);
  if (err)
    return err;
  unreserve (fs, r, n, false);
  fs->alloc.promised -= n;
  r->blk += n;
  r->len -= n;
  return 0;
}

/* Inode numbers are valid: they were read. */
static dgrp_t
inode_group (const struct filesystem *fs, ext2_ino_t ino)
{
  return (ino - 1) / EXT2_INODES_PER_GROUP (fs->e2->super);
}

errcode_t
alloc_take_meta (struct filesystem *fs, struct reservation *r,
                 ext2_ino_t ino, uint64_t limit, uint64_t *blk)
{
  const uint32_t window = alloc_window (fs, UINT64_MAX);
  struct allocator *a = &fs->alloc;
  struct goal goal = {
    .at = a->tree_next ? a->tree_next : NOWHERE,
    /* At the border of a window, the next one must be free. */
    .check = a->tree_next % window ? 0 : window,
    .elsewhere = a->tree_next ? a->tree_next
      : group_first (fs, inode_group (fs, ino)),
    .limit = limit,
    .search = a->tree_next ? window : 1,
  };
  struct free_run run;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  if (r->meta == 0)
    return EXT2_ET_BLOCK_ALLOC_FAIL;
  err = alloc_find (fs, &goal, 1, &run);
  if (err == NOT_AT_GOAL) {
    goal.search = 1;
    err = alloc_find (fs, &goal, 1, &run);
  }
  if (err == SEARCH_ON)
    err = EIO;                  /* amid an edit there is no letting go */
  if (!err)
    err = group_change_bits (fs, run.group, run.bit, 1, true);
  if (err)
    return err;
  group_note_bit (fs, run.group, run.bit, true);
  r->meta--;
  a->promised--;
  *blk = group_first (fs, run.group) + run.bit;
  a->tree_next = *blk + 1;
  return 0;
}

void
alloc_untake_meta (struct filesystem *fs, struct reservation *r, uint64_t blk)
{
  mcache_forget (fs->mc, blk);
  if (alloc_free_now (fs, blk, 1) == 0) {
    r->meta++;
    fs->alloc.promised++;
  }
}

uint64_t
alloc_inode_goal (struct filesystem *fs, ext2_ino_t ino)
{
  const struct goal goal = {
    .at = NOWHERE, .elsewhere = group_first (fs, inode_group (fs, ino)),
    .search = 1,
  };
  struct free_run run;

  lock_assert_held (LOCK_FS);
  if (alloc_find (fs, &goal, 1, &run) != 0)
    return 0;
  return group_first (fs, run.group) + run.bit;
}

errcode_t
alloc_init (struct filesystem *fs)
{
  struct allocator *a = &fs->alloc;
  uint64_t free_blocks = 0;
  dgrp_t g;

  a->groups = calloc (fs->e2->group_desc_count, sizeof *a->groups);
  a->gdt_dirty = calloc (fs->e2->desc_blocks, 1);
  if (a->groups == NULL || a->gdt_dirty == NULL)
    return ENOMEM;
  /* The superblock's count may be stale: the kernel does not look at it
   * either.  (inv 2)
   */
  for (g = 0; g < fs->e2->group_desc_count; g++)
    free_blocks += ext2fs_bg_free_blocks_count (fs->e2, g);
  if (!ext2fs_has_feature_bigalloc (fs->e2->super))
    ext2fs_free_blocks_count_set (fs->e2->super, free_blocks);
  return 0;
}

void
alloc_check (struct filesystem *fs)
{
  const struct allocator *a = &fs->alloc;
  uint64_t free_blocks = 0, held = 0;
  dgrp_t g;

  lock_assert_held (LOCK_FS);
  for (g = 0; g < fs->e2->group_desc_count; g++) {
    free_blocks += ext2fs_bg_free_blocks_count (fs->e2, g);
    held += a->groups[g].held;
  }
  assert (free_blocks == ext2fs_free_blocks_count (fs->e2->super));
  /* The rest of what is promised is for trees. */
  assert (held >= a->withheld && held - a->withheld <= a->promised);
}

void
alloc_free (struct filesystem *fs)
{
  struct allocator *a = &fs->alloc;
  dgrp_t g;

  for (g = 0; a->groups && g < fs->e2->group_desc_count; g++) {
    free (a->groups[g].busy);
    group_forget_freed (fs, g);
  }
  free (a->groups);
  free (a->gdt_dirty);
  free (a->dirty_groups);
  free (a->pending.ranges);
  free (a->revoked);
  memset (a, 0, sizeof *a);
}

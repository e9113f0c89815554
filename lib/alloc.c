/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block allocator.  The invariants are in alloc.h. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "errors.h"
#include "fs.h"
#include "group.h"

/* Groups to look through for a run of the wanted length. */
#define ENOUGH_GROUPS 16

/* Searching.  Looks for a run of WANT free blocks in group G from bit
 * FROM on; remembers the longest shorter run in *BEST.
 */
struct run {
  dgrp_t group;
  uint32_t bit, len;
};

static bool
search_group (struct filesystem *fs, dgrp_t g, uint32_t from, uint32_t want,
              struct run *best)
{
  uint32_t blocks = group_blocks (fs, g), start, end;
  const uint8_t *map;
  struct mbuf *mb;
  bool found = false;

  if (ext2fs_bg_free_blocks_count (fs->e2, g) == 0 ||
      group_bitmap (fs, g, &mb) != 0)
    return false;
  map = group_busy_map (fs, g, mb);
  for (start = from; start < blocks; start = end) {
    start = bit_find (map, start, blocks, false);
    if (start >= blocks)
      break;
    end = bit_find (map, start, start + want < blocks ? start + want : blocks,
                    true);
    if (end - start > best->len) {
      best->group = g;
      best->bit = start;
      best->len = end - start;
      if (best->len == want) {
        found = true;
        break;
      }
    }
  }
  mcache_unpin (fs->mc, mb);
  return found;
}

/* The block is a wish that can be granted. */
static bool
is_wish (struct filesystem *fs, uint64_t blk)
{
  return blk >= fs->first_block && blk < fs->blocks;
}

/* The free run exactly at BLK, up to WANT. */
static void
run_at (struct filesystem *fs, uint64_t blk, uint32_t want, struct run *run)
{
  dgrp_t g = group_of (fs, blk);
  uint32_t bit = blk - group_first (fs, g), blocks = group_blocks (fs, g);
  uint32_t end = bit + want < blocks ? bit + want : blocks;
  struct mbuf *mb;

  if (ext2fs_bg_free_blocks_count (fs->e2, g) == 0 ||
      group_bitmap (fs, g, &mb) != 0)
    return;
  run->group = g;
  run->bit = bit;
  run->len = bit_find (group_busy_map (fs, g, mb), bit, end, true) - bit;
  mcache_unpin (fs->mc, mb);
}

/* Order of preference: at the goal, if not much shorter than WANT; a run
 * of WANT from the goal's elsewhere on, around the filesystem; else the
 * longest run seen.
 */
static errcode_t
find_run (struct filesystem *fs, const struct goal *goal, uint32_t want,
          struct run *run)
{
  dgrp_t groups = fs->e2->group_desc_count, first, i;
  uint64_t from = goal->elsewhere;

  memset (run, 0, sizeof *run);
  if (is_wish (fs, goal->at)) {
    run_at (fs, goal->at, want, run);
    if (run->len > 0 && run->len >= want / 4)
      return 0;
  }
  if (!is_wish (fs, from))
    from = is_wish (fs, goal->at) ? goal->at : fs->first_block;
  first = group_of (fs, from);
  for (i = 0; i <= groups; i++) {
    dgrp_t g = (first + i) % groups;

    if (search_group (fs, g, i == 0 ? from - group_first (fs, g) : 0, want,
                      run))
      return 0;
    /* On a fragmented disk a shorter run beats reading every bitmap. */
    if (i >= ENOUGH_GROUPS && run->len > 0)
      return 0;
  }
  return run->len > 0 ? 0 : EXT2_ET_BLOCK_ALLOC_FAIL;
}

/* inv 3 */
static bool
space_for (struct filesystem *fs, uint64_t n)
{
  uint64_t have = ext2fs_free_blocks_count (fs->e2->super);
  uint64_t keep = ext2fs_r_blocks_count (fs->e2->super)
    + fs->alloc.promised + fs->alloc.withheld;

  return have >= keep && have - keep >= n;
}

errcode_t
alloc_reserve (struct filesystem *fs, const struct goal *goal, uint32_t want,
               uint32_t meta, struct reservation *r)
{
  struct mbuf *mb;
  struct run run;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  memset (r, 0, sizeof *r);
  if (!space_for (fs, (uint64_t) meta + (want > 0)))
    return EXT2_ET_BLOCK_ALLOC_FAIL;
  while (want > 1 && !space_for (fs, (uint64_t) meta + want))
    want /= 2;

  if (want > 0) {
    err = find_run (fs, goal, want, &run);
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

void
alloc_release (struct filesystem *fs, struct reservation *r)
{
  lock_assert_held (LOCK_FS);
  if (r->len > 0)
    unreserve (fs, r, r->len, true);
  fs->alloc.promised -= (uint64_t) r->len + r->meta;
  memset (r, 0, sizeof *r);
}

errcode_t
alloc_take (struct filesystem *fs, struct reservation *r, uint32_t n)
{
  dgrp_t g;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  assert (n <= r->len);
  if (n == 0)
    return 0;
  g = group_of (fs, r->blk);
  err = group_change_bits (fs, g, r->blk - group_first (fs, g), n, true);
  if (err)
    return err;
  unreserve (fs, r, n, false);
  fs->alloc.promised -= n;
  r->blk += n;
  r->len -= n;
  return 0;
}

errcode_t
alloc_take_meta (struct filesystem *fs, struct reservation *r, uint64_t goal,
                 uint64_t *blk)
{
  const struct goal near = { .at = goal, .elsewhere = goal };
  struct run run;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  if (r->meta == 0)
    return EXT2_ET_BLOCK_ALLOC_FAIL;
  err = find_run (fs, &near, 1, &run);
  if (!err)
    err = group_change_bits (fs, run.group, run.bit, 1, true);
  if (err)
    return err;
  group_note_bit (fs, run.group, run.bit, true);
  r->meta--;
  fs->alloc.promised--;
  *blk = group_first (fs, run.group) + run.bit;
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
  dgrp_t g = (ino - 1) / EXT2_INODES_PER_GROUP (fs->e2->super);
  struct goal goal = { .at = 0 };
  struct run run;

  lock_assert_held (LOCK_FS);
  if (g < fs->e2->group_desc_count)
    goal.elsewhere = group_first (fs, g);
  if (find_run (fs, &goal, 1, &run) != 0)
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

  for (g = 0; a->groups && g < fs->e2->group_desc_count; g++)
    free (a->groups[g].busy);
  free (a->groups);
  free (a->gdt_dirty);
  free (a->dirty_groups);
  free (a->pending.ranges);
  free (a->revoked);
  memset (a, 0, sizeof *a);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block allocator.  The invariants are in alloc.h. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "errors.h"
#include "fs.h"
#include "group.h"

/* Groups to look through for a run of the wanted length. */
#define ENOUGH_GROUPS 16

/* The map in which a clear bit means "may be handed out" (inv 1). */
static const uint8_t *
busy_map (struct filesystem *fs, dgrp_t g, struct mbuf *mb)
{
  return fs->alloc.groups[g].busy ?: mb->data;
}

static errcode_t
reserve_range (struct filesystem *fs, dgrp_t g, struct mbuf *mb,
               uint32_t bit, uint32_t n)
{
  struct group_state *gs = &fs->alloc.groups[g];
  uint32_t i;

  if (gs->busy == NULL) {
    gs->busy = malloc (fs->block_size);
    if (gs->busy == NULL)
      return ENOMEM;
    memcpy (gs->busy, mb->data, fs->block_size);
  }
  for (i = 0; i < n; i++) {
    assert (!bit_test (gs->busy, bit + i));
    bit_set (gs->busy, bit + i);
  }
  gs->reserved += n;
  return 0;
}

/* CLEAR: they become free again; else they have been allocated. */
static void
unreserve_range (struct filesystem *fs, uint64_t blk, uint32_t n, bool clear)
{
  dgrp_t g = group_of (fs, blk);
  struct group_state *gs = &fs->alloc.groups[g];
  uint32_t bit = blk - group_first (fs, g), i;

  for (i = 0; clear && i < n; i++)
    bit_clear (gs->busy, bit + i);
  assert (gs->reserved >= n);
  gs->reserved -= n;
  if (gs->reserved == 0) {
    free (gs->busy);
    gs->busy = NULL;
  }
}

/* Record that the bitmap and the descriptor of G are going to change. */
static errcode_t
note_group_change (struct filesystem *fs, dgrp_t g)
{
  struct allocator *a = &fs->alloc;
  size_t gdt = (size_t) g / EXT2_DESC_PER_BLOCK (fs->e2->super);

  if (!a->groups[g].bitmap_dirty) {
    if (a->ndirty == a->dirty_size) {
      size_t n = a->dirty_size ? a->dirty_size * 2 : 64;
      dgrp_t *p = realloc (a->dirty_groups, n * sizeof *p);

      if (p == NULL)
        return ENOMEM;
      a->dirty_groups = p;
      a->dirty_size = n;
    }
    a->dirty_groups[a->ndirty++] = g;
    a->groups[g].bitmap_dirty = true;
  }
  a->gdt_dirty[gdt] = 1;
  a->any_gdt_dirty = true;
  fs->super_dirty = true;
  return 0;
}

/* Set (ALLOCATE) or clear N bits of one group, with all the counts. */
static errcode_t
change_bits (struct filesystem *fs, dgrp_t g, uint32_t bit, uint32_t n,
             bool allocate)
{
  ext2_filsys e2 = fs->e2;
  struct group_state *gs = &fs->alloc.groups[g];
  uint32_t free_blocks = ext2fs_bg_free_blocks_count (e2, g);
  struct mbuf *mb;
  uint32_t i;
  errcode_t err;

  err = group_bitmap (fs, g, &mb);
  if (err)
    return err;
  if (bit_find (mb->data, bit, bit + n, allocate) != bit + n) {
    /* Two owners for one block, or a bitmap that never knew of it. */
    group_set_bad (fs, g, allocate
                  ? "a reserved block is already allocated"
                  : "a block to be freed is already free");
    err = EXT2_FILSYS_CORRUPTED;
    goto out;
  }
  err = mcache_dirty (fs->mc, mb, MCLASS_BITMAP, false);
  if (!err)
    err = note_group_change (fs, g);
  if (err)
    goto out;

  for (i = 0; i < n; i++) {
    if (allocate)
      bit_set (mb->data, bit + i);
    else {
      bit_clear (mb->data, bit + i);
      if (gs->busy)
        bit_clear (gs->busy, bit + i);
    }
  }
  /* inv 2 */
  ext2fs_bg_free_blocks_count_set (e2, g, allocate ? free_blocks - n
                                   : free_blocks + n);
  ext2fs_free_blocks_count_add (e2->super,
                                allocate ? -(blk64_t) n : (blk64_t) n);
  ext2fs_bg_flags_clear (e2, g, EXT2_BG_BLOCK_UNINIT);
 out:
  mcache_unpin (fs->mc, mb);
  return err;
}

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
  map = busy_map (fs, g, mb);
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
  run->len = bit_find (busy_map (fs, g, mb), bit, end, true) - bit;
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
    + fs->alloc.promised;

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
    err = reserve_range (fs, run.group, mb, run.bit, run.len);
    mcache_unpin (fs->mc, mb);
    if (err)
      return err;
    r->blk = group_first (fs, run.group) + run.bit;
    r->len = run.len;
  }
  r->meta = meta;
  fs->alloc.promised += (uint64_t) r->len + r->meta;
  return 0;
}

void
alloc_release (struct filesystem *fs, struct reservation *r)
{
  lock_assert_held (LOCK_FS);
  if (r->len > 0)
    unreserve_range (fs, r->blk, r->len, true);
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
  err = change_bits (fs, g, r->blk - group_first (fs, g), n, true);
  if (err)
    return err;
  unreserve_range (fs, r->blk, n, false);
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
    err = change_bits (fs, run.group, run.bit, 1, true);
  if (err)
    return err;
  if (fs->alloc.groups[run.group].busy)
    bit_set (fs->alloc.groups[run.group].busy, run.bit);
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

errcode_t
alloc_pending_room (struct filesystem *fs, size_t n)
{
  struct free_list *l = &fs->alloc.pending;
  size_t size = l->size ? l->size : 64;
  struct free_range *p;

  while (size < l->count + n)
    size *= 2;
  if (size == l->size)
    return 0;
  p = realloc (l->ranges, size * sizeof *p);
  if (p == NULL)
    return ENOMEM;
  l->ranges = p;
  l->size = size;
  return 0;
}

errcode_t
alloc_free_later (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  struct free_list *l = &fs->alloc.pending;
  struct free_range *last;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  last = l->count ? &l->ranges[l->count - 1] : NULL;
  if (last && last->blk + last->len == blk) {
    last->len += len;
    return 0;
  }
  if (last && blk + len == last->blk) {
    last->blk = blk;
    last->len += len;
    return 0;
  }
  err = alloc_pending_room (fs, 1);
  if (err)
    return err;
  l->ranges[l->count].blk = blk;
  l->ranges[l->count].len = len;
  l->count++;
  return 0;
}

bool
alloc_is_allocated (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  lock_assert_held (LOCK_FS);
  while (len > 0) {
    dgrp_t g = group_of (fs, blk);
    uint32_t bit = blk - group_first (fs, g);
    uint32_t n = group_blocks (fs, g) - bit;
    struct mbuf *mb;
    bool all;

    if (n > len)
      n = len;
    if (group_bitmap (fs, g, &mb) != 0)
      return false;
    all = bit_find (mb->data, bit, bit + n, false) == bit + n;
    mcache_unpin (fs->mc, mb);
    if (!all) {
      group_set_bad (fs, g, "a block to be freed is already free");
      return false;
    }
    blk += n;
    len -= n;
  }
  return true;
}

errcode_t
alloc_free_now (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  errcode_t first_error = 0;

  lock_assert_held (LOCK_FS);
  while (len > 0) {
    dgrp_t g = group_of (fs, blk);
    uint64_t end = group_first (fs, g) + group_blocks (fs, g);
    uint32_t n = len < end - blk ? (uint32_t) len : (uint32_t) (end - blk);
    errcode_t err = change_bits (fs, g, blk - group_first (fs, g), n, false);

    /* The rest can still be freed; what could not be is leaked. */
    if (err && !first_error)
      first_error = err;
    blk += n;
    len -= n;
  }
  return first_error;
}

static errcode_t
copy_descriptors (struct filesystem *fs, size_t index)
{
  ext2_filsys e2 = fs->e2;
  uint8_t *from = (uint8_t *) e2->group_desc + index * fs->block_size;
  blk64_t blk = ext2fs_descriptor_block_loc2 (e2, e2->super->s_first_data_block,
                                              index);
  struct mbuf *mb;
  errcode_t err;

  err = mcache_zeroed (fs->mc, blk, &mb);
  if (err)
    return err;
  memcpy (mb->data, from, fs->block_size);
#ifdef WORDS_BIGENDIAN
  {
    size_t per = EXT2_DESC_PER_BLOCK (e2->super), i;

    for (i = 0; i < per; i++)
      ext2fs_swap_group_desc2 (e2, (struct ext2_group_desc *)
                               (mb->data + i * EXT2_DESC_SIZE (e2->super)));
  }
#endif
  err = mcache_dirty (fs->mc, mb, MCLASS_BITMAP, false);
  mcache_unpin (fs->mc, mb);
  return err;
}

errcode_t
alloc_prepare_freeze (struct filesystem *fs)
{
  struct allocator *a = &fs->alloc;
  ext2_filsys e2 = fs->e2;
  struct mbuf *mb;
  size_t i;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  for (i = 0; i < a->ndirty; i++) {
    dgrp_t g = a->dirty_groups[i];

    /* Dirty, hence still cached. */
    mb = mcache_find (fs->mc, ext2fs_block_bitmap_loc (e2, g));
    if (mb == NULL)
      return EIO;
    ext2fs_block_bitmap_csum_set (e2, g, (char *) mb->data,
                                  EXT2_CLUSTERS_PER_GROUP (e2->super) / 8);
    mcache_unpin (fs->mc, mb);
    ext2fs_group_desc_csum_set (e2, g);
  }
  for (i = 0; a->any_gdt_dirty && i < e2->desc_blocks; i++) {
    if (!a->gdt_dirty[i])
      continue;
    err = copy_descriptors (fs, i);
    if (err)
      return err;
    a->gdt_dirty[i] = 0;
  }
  a->any_gdt_dirty = false;
  for (i = 0; i < a->ndirty; i++)
    a->groups[a->dirty_groups[i]].bitmap_dirty = false;
  a->ndirty = 0;
  return 0;
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
  memset (a, 0, sizeof *a);
}

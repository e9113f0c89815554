/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block allocator: finding a place.
 *
 * Notes on the design.  Where the blocks of a file go is decided window
 * by window: a window is an aligned piece of the file, of 2 MiB as a
 * rule, and all that is written to it goes to one piece of the device
 * that was wholly free when its first block was placed, in the same
 * order.  So many writers, each in a part of its own or all at random,
 * do not break up each other's parts; and since no search takes a window
 * that is partly used, one in use is kept for its file without anything
 * being reserved that would have to be given back.
 *
 * Windows of the device are aligned too, so that a request aligned in
 * the file is aligned in the image: it costs the host more otherwise.
 *
 * The next window of the file goes behind the last one.  Where that is
 * taken, a new place is looked for as if windows were sixteen times as
 * large, so that several writers who must go elsewhere at the same time
 * do not alternate there.
 *
 * When the filesystem has no free window any more, runs of any kind do.
 * (Windows of a sixteenth were tried for that: a little better on disks
 * with few blocks in the way, much worse on others.)
 *
 * Looking at thousands of pieces is too dear to be done for each fill.  So
 * it is remembered (struct piece_hint) where the last one was found, and
 * that there was none.
 *
 * Nobody gets anywhere while a search holds FS, so one looks at a few dozen
 * bitmaps at most.  Of a group it is known without its bitmap whether there
 * is anything to be had (group_available); so a bitmap that is looked at for
 * a run has some, or cannot be used.  If many cannot, the search ends: where
 * they are damaged, which is remembered, to be continued without them; where
 * they cannot be read, with the device's error.
 */

#include <config.h>

#include <string.h>

#include "alloc.h"
#include "fs.h"
#include "group.h"

/* Groups whose bitmaps one search looks at: for a run of the wanted
 * length, or for a free piece.
 */
#define ENOUGH_GROUPS 16

/* Bitmaps that cannot be used, after which a search for a run ends. */
#define MANY_UNUSABLE 16

/* Groups whose descriptors one search for a free piece looks at. */
#define MANY_GROUPS 1024

/* Searches that are left out after one that found nothing, in all of the
 * filesystem or in a part of it.
 */
#define SKIP 64
#define SKIP_FEW 8

/* Windows have this size, in bytes, unless the file is smaller, or there
 * would be too few in a group.
 */
#define WINDOW (UINT32_C (2) << 20)
#define WINDOWS_PER_GROUP 4

/* Windows for which there should be room where one is put elsewhere. */
#define SPACIOUS 16

void
alloc_search_again (struct filesystem *fs)
{
  unsigned i;

  lock_assert_held (LOCK_FS);
  for (i = 0; i < ALLOC_HINTS; i++)
    fs->alloc.hints[i].skip = 0;
}

uint32_t
alloc_window (const struct filesystem *fs, uint64_t blocks)
{
  uint32_t most = EXT2_BLOCKS_PER_GROUP (fs->e2->super) / WINDOWS_PER_GROUP;
  uint32_t n = 1;

  if (most > WINDOW >> fs->block_bits)
    most = WINDOW >> fs->block_bits;
  while (n < blocks && 2 * n <= most)
    n *= 2;
  return n;
}

static struct piece_hint *
hint_for (struct filesystem *fs, uint32_t size)
{
  return &fs->alloc.hints[31 - __builtin_clz (size)];
}

/* Looks for a run of WANT free blocks in group G from bit FROM on;
 * remembers the longest one in *BEST.
 */
static errcode_t
search_group (struct filesystem *fs, dgrp_t g, uint32_t from, uint32_t want,
              struct free_run *best)
{
  uint32_t blocks = group_blocks (fs, g), start, end;
  const uint8_t *map;
  struct mbuf *mb;
  errcode_t err = group_bitmap (fs, g, &mb);

  if (err)
    return err;
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
      if (best->len == want)
        break;
    }
  }
  mcache_unpin (fs->mc, mb);
  return 0;
}

/* Number of groups that lie before the goal's limit. */
static dgrp_t
groups_below (struct filesystem *fs, const struct goal *goal)
{
  if (goal->limit == 0 || goal->limit >= fs->blocks)
    return fs->e2->group_desc_count;
  return (goal->limit - fs->first_block)
    / EXT2_BLOCKS_PER_GROUP (fs->e2->super);
}

/* The block is a wish that can be granted. */
static bool
is_wish (struct filesystem *fs, const struct goal *goal, uint64_t blk)
{
  return blk >= fs->first_block && blk < fs->blocks &&
    group_of (fs, blk) < groups_below (fs, goal);
}

/* The free run exactly at BLK, up to WANT. */
static void
run_at (struct filesystem *fs, uint64_t blk, uint32_t want,
        struct free_run *run)
{
  dgrp_t g = group_of (fs, blk);
  uint32_t bit = blk - group_first (fs, g), blocks = group_blocks (fs, g);
  uint32_t end = bit + want < blocks ? bit + want : blocks;
  struct mbuf *mb;

  if (group_available (fs, g) == 0 || group_bitmap (fs, g, &mb) != 0)
    return;
  run->group = g;
  run->bit = bit;
  run->len = bit_find (group_busy_map (fs, g, mb), bit, end, true) - bit;
  mcache_unpin (fs->mc, mb);
}

/* Is the piece around GOAL->at free?  (As far as the group goes: the line
 * of a file that others have written need not be aligned.)
 */
static bool
piece_is_free (struct filesystem *fs, const struct goal *goal)
{
  dgrp_t g = group_of (fs, goal->at);
  uint64_t at = goal->at - group_first (fs, g);
  uint32_t blocks = group_blocks (fs, g), in = goal_in (goal, goal->check);
  uint64_t end = at - in + goal->check;
  struct mbuf *mb;
  bool is_free;

  if (end > blocks)
    end = blocks;
  if (group_available (fs, g) == 0 || group_bitmap (fs, g, &mb) != 0)
    return false;
  is_free = bit_find (group_busy_map (fs, g, mb), at > in ? at - in : 0, end,
                      true) == end;
  mcache_unpin (fs->mc, mb);
  return is_free;
}

/* A free and aligned piece of SIZE blocks in group G from bit FROM on. */
static bool
find_piece (struct filesystem *fs, dgrp_t g, uint32_t from, uint32_t size,
            uint32_t *start)
{
  const uint64_t first = group_first (fs, g), mask = size - 1;
  const uint8_t *map;
  struct mbuf *mb;
  uint32_t i;
  bool found = false;

  if (group_bitmap (fs, g, &mb) != 0)
    return false;
  map = group_busy_map (fs, g, mb);
  for (i = ((first + from + mask) & ~mask) - first;
       i + size <= group_blocks (fs, g) && !found; i += size) {
    found = bit_find (map, i, i + size, true) == i + size;
    *start = i;
  }
  mcache_unpin (fs->mc, mb);
  return found;
}

/* The goal's place in such a piece, from block FROM on. */
static bool
search_pieces (struct filesystem *fs, uint64_t from, uint32_t size,
               const struct goal *goal, uint32_t want, struct free_run *run)
{
  const dgrp_t groups = groups_below (fs, goal);
  struct piece_hint *h = hint_for (fs, size);
  unsigned looked = 0;
  dgrp_t first, g, i;
  uint32_t start;

  if (h->skip > 0) {
    h->skip--;
    return false;
  }
  if (from >= h->from && from < h->to)
    from = h->to;
  else
    h->from = from;
  if (!is_wish (fs, goal, from))
    from = h->from = fs->first_block;
  first = g = group_of (fs, from);
  for (i = 0; i <= groups && i < MANY_GROUPS && looked < ENOUGH_GROUPS; i++) {
    g = (first + i) % groups;
    if (g == 0 && i > 0)
      h->from = fs->first_block;        /* it begins anew */
    if (group_available (fs, g) < size)
      continue;
    looked++;
    if (find_piece (fs, g, i == 0 ? from - group_first (fs, g) : 0, size,
                    &start)) {
      h->to = group_first (fs, g) + start;
      run_at (fs, h->to + goal_in (goal, size), want, run);
      return run->len > 0;
    }
  }
  h->to = group_first (fs, g) + group_blocks (fs, g);
  h->skip = i > groups ? SKIP : SKIP_FEW;
  return false;
}

static bool
search_free (struct filesystem *fs, uint64_t from, const struct goal *goal,
             uint32_t want, struct free_run *run)
{
  const uint32_t many = goal->search * SPACIOUS;

  if (goal->spacious && many <= EXT2_BLOCKS_PER_GROUP (fs->e2->super) &&
      search_pieces (fs, from, many, goal, want, run))
    return true;
  return search_pieces (fs, from, goal->search, goal, want, run);
}

/* A run of WANT from FROM on, around the filesystem; else the longest run
 * seen.
 */
static errcode_t
search_runs (struct filesystem *fs, uint64_t from, const struct goal *goal,
             uint32_t want, struct free_run *run)
{
  const dgrp_t groups = groups_below (fs, goal), first = group_of (fs, from);
  unsigned unusable = 0;
  errcode_t err, unread = 0;
  dgrp_t i;

  for (i = 0; i <= groups && unusable < MANY_UNUSABLE; i++) {
    dgrp_t g = (first + i) % groups;

    if (group_available (fs, g) == 0)
      continue;
    err = search_group (fs, g, i == 0 ? from - group_first (fs, g) : 0, want,
                        run);
    if (err)
      unusable++;
    if (err && err != EXT2_FILSYS_CORRUPTED)
      unread = err;
    /* On a fragmented disk a shorter run beats reading every bitmap. */
    if (run->len == want || (i >= ENOUGH_GROUPS && run->len > 0))
      return 0;
  }
  if (run->len > 0)
    return 0;
  if (unread)
    return unread;
  return unusable == MANY_UNUSABLE ? SEARCH_ON : EXT2_ET_BLOCK_ALLOC_FAIL;
}

/* Order of preference: at the goal, if not much shorter than WANT; then
 * from the goal's elsewhere on.
 */
errcode_t
alloc_find (struct filesystem *fs, const struct goal *goal, uint32_t want,
            struct free_run *run)
{
  uint64_t from = goal->elsewhere;

  lock_assert_held (LOCK_FS);
  memset (run, 0, sizeof *run);
  if (is_wish (fs, goal, goal->at) &&
      (goal->check <= 1 || piece_is_free (fs, goal))) {
    run_at (fs, goal->at, want, run);
    if (run->len > 0 && run->len >= want / 4)
      return 0;
  }
  if (!is_wish (fs, goal, from))
    from = is_wish (fs, goal, goal->at) ? goal->at : fs->first_block;
  if (goal->search == 1)
    return search_runs (fs, from, goal, want, run);
  return goal->search && search_free (fs, from, goal, want, run) ? 0
    : NOT_AT_GOAL;
}

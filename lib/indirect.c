/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Block-mapped files: direct, indirect, double and triple indirect.
 *
 * Notes on the design: a logical block is turned into the list of slots
 * that lead to it (locate), and every function then works on the one
 * table that holds the last slot: the twelve direct pointers in the
 * inode, or one indirect block.  There is no unwritten state; a zero
 * pointer is a hole at any level.
 *
 * libext2fs's own punch for such files frees the wrong blocks (1.47.0)
 * and its bmap rereads the inode behind the caller's back.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "hints.h"
#include "indirect.h"

#define MAX_LEVELS 4

/* slot[0] is the place in i_block, the others in the tables below. */
struct place {
  unsigned levels;              /* 1 = direct ... 4 = triple indirect */
  uint32_t slot[MAX_LEVELS];
};

static uint32_t
pointers_per_block (const struct filesystem *fs)
{
  return fs->block_size / 4;
}

uint64_t
indirect_max_blocks (const struct filesystem *fs)
{
  uint64_t n = pointers_per_block (fs);
  uint64_t most = EXT2_NDIR_BLOCKS + n + n * n + n * n * n;

  /* Block numbers within a file have 32 bits. */
  return most < UINT32_MAX ? most : UINT32_MAX;
}

static errcode_t
locate (const struct filesystem *fs, uint64_t lblk, struct place *pl)
{
  uint64_t n = pointers_per_block (fs), span = 1, in;
  unsigned i;

  if (lblk < EXT2_NDIR_BLOCKS) {
    pl->levels = 1;
    pl->slot[0] = lblk;
    return 0;
  }
  in = lblk - EXT2_NDIR_BLOCKS;
  for (i = 1; i < MAX_LEVELS; i++) {
    span *= n;
    if (in < span)
      break;
    in -= span;
  }
  if (i == MAX_LEVELS)
    return EFBIG;
  pl->levels = i + 1;
  pl->slot[0] = EXT2_NDIR_BLOCKS + i - 1;
  for (; i > 0; i--) {
    pl->slot[i] = in % n;
    in /= n;
  }
  return 0;
}

/* Logical blocks under one slot at LEVEL of PL. */
static uint64_t
slot_span (const struct filesystem *fs, const struct place *pl,
           unsigned level)
{
  uint64_t span = 1;

  for (; level + 1 < pl->levels; level++)
    span *= pointers_per_block (fs);
  return span;
}

static uint32_t
get_pointer (const struct mbuf *mb, uint32_t slot)
{
  uint32_t v;

  memcpy (&v, mb->data + (size_t) slot * 4, sizeof v);
  return ext2fs_le32_to_cpu (v);
}

static void
set_pointer (struct mbuf *mb, uint32_t slot, uint32_t v)
{
  v = ext2fs_cpu_to_le32 (v);
  memcpy (mb->data + (size_t) slot * 4, &v, sizeof v);
}

static errcode_t
corrupt (struct inode *inode, uint64_t blk)
{
  log_error ("inode %u: an indirect block or the inode points at block "
             "%llu, which is not file data: run e2fsck",
             (unsigned) inode->ino, (unsigned long long) blk);
  return EXT2_FILSYS_CORRUPTED;
}

/* The tables on the way to a block, from the inode (level 0) as far down
 * as they exist.
 */
struct walk {
  struct place pl;
  struct mbuf *mb[MAX_LEVELS];  /* [0] stays NULL: the inode */
  unsigned present;             /* levels with a table */
};

static uint32_t
walk_get (struct inode *inode, const struct walk *w, unsigned level,
          uint32_t slot)
{
  return level == 0 ? inode->raw->i_block[slot]
    : get_pointer (w->mb[level], slot);
}

static void
walk_set (struct inode *inode, struct walk *w, unsigned level, uint32_t slot,
          uint32_t v)
{
  if (level == 0)
    inode->raw->i_block[slot] = v;
  else
    set_pointer (w->mb[level], slot, v);
}

static void
walk_release (struct inode *inode, struct walk *w)
{
  unsigned i;

  for (i = 1; i < MAX_LEVELS; i++)
    if (w->mb[i])
      mcache_unpin (inode->fs->mc, w->mb[i]);
}

/* How far PL's block is from the first one under its table at LEVEL. */
static uint64_t
offset_in_table (const struct filesystem *fs, const struct place *pl,
                 unsigned level)
{
  uint64_t in = 0;

  for (; level < pl->levels; level++)
    in = in * pointers_per_block (fs) + pl->slot[level];
  return in;
}

/* mbuf.maps of the table at LEVEL on the way to LBLK.  A table of tables
 * maps nothing that could be hinted at; but that, too, is different for
 * each place that a table can have: an end before its first block, by as
 * much as there are levels below.
 */
static uint64_t
table_maps (const struct filesystem *fs, const struct place *pl,
            unsigned level, uint64_t lblk)
{
  const unsigned below = pl->levels - 1 - level;
  const uint64_t first = lblk - offset_in_table (fs, pl, level);

  return hints_maps (first, below > 0 ? first - below
                     : first + pointers_per_block (fs));
}

/* A table belongs to one inode: two would change it under two locks.  And
 * to one place in it: what is unmapped there is freed.  What it maps is
 * said only by whoever has it for his inode.
 */
static errcode_t
claim (struct inode *inode, struct mbuf *mb, uint64_t maps)
{
  uint64_t there = 0;
  uint32_t owner = 0;

  if ((atomic_compare_exchange_strong (&mb->owner, &owner, inode->ino) ||
       owner == inode->ino) &&
      (atomic_compare_exchange_strong (&mb->maps, &there, maps) ||
       there == maps))
    return 0;
  return corrupt (inode, mb->blkno);
}

static errcode_t
walk_to (struct inode *inode, uint64_t lblk, struct walk *w)
{
  unsigned level;
  errcode_t err;

  memset (w, 0, sizeof *w);
  err = locate (inode->fs, lblk, &w->pl);
  if (err)
    return err;
  w->present = 1;
  for (level = 1; level < w->pl.levels; level++) {
    uint32_t blk = walk_get (inode, w, level - 1, w->pl.slot[level - 1]);

    if (blk == 0)
      return 0;
    if (!filesystem_valid_data (inode->fs, blk, 1))
      err = corrupt (inode, blk);
    else
      err = mcache_read (inode->fs->mc, blk, &w->mb[level]);
    if (!err)
      err = claim (inode, w->mb[level],
                   table_maps (inode->fs, &w->pl, level, lblk));
    if (err) {
      walk_release (inode, w);
      return err;
    }
    w->present++;
  }
  return 0;
}

/* Slots of the last table, from PL's on, of which there are this many. */
static uint32_t
slots_left (const struct filesystem *fs, const struct place *pl)
{
  uint32_t n = pl->levels == 1 ? EXT2_NDIR_BLOCKS : pointers_per_block (fs);

  return n - pl->slot[pl->levels - 1];
}

uint32_t
indirect_table_left (const struct filesystem *fs, uint64_t lblk)
{
  struct place pl;

  return locate (fs, lblk, &pl) == 0 ? slots_left (fs, &pl) : 1;
}

/* What SLOT of a table, or of the inode, says of LBLK, and as far as they
 * continue it the next ones, of MOST in all.
 */
static void
describe_slots (struct inode *inode, const struct mbuf *mb, uint32_t slot,
                uint32_t most, uint64_t lblk, struct mapping *m)
{
  const uint32_t *raw = inode->raw->i_block;
  const uint64_t blk = mb ? get_pointer (mb, slot) : raw[slot];
  const uint64_t step = blk != 0;
  uint32_t i;

  m->lblk = lblk;
  m->before = 0;
  m->pblk = blk;
  m->state = blk != 0 ? MAP_WRITTEN : MAP_HOLE;
  for (i = 1; i < most; i++)
    if ((mb ? get_pointer (mb, slot + i) : raw[slot + i]) != blk + i * step)
      break;
  m->len = i;
}

/* What W, the walk to LBLK, says of it. */
static void
describe (struct inode *inode, const struct walk *w, uint64_t lblk,
          uint64_t most, struct mapping *m)
{
  const unsigned last = w->pl.levels - 1;
  uint32_t n = slots_left (inode->fs, &w->pl);

  if (w->present < w->pl.levels) {
    /* A missing table: to the end of what it would map. */
    uint64_t span = slot_span (inode->fs, &w->pl, w->present - 1);
    uint64_t in = offset_in_table (inode->fs, &w->pl, w->present);

    *m = (struct mapping) { .lblk = lblk, .len = span - in,
                            .state = MAP_HOLE };
  }
  else
    describe_slots (inode, w->mb[last], w->pl.slot[last],
                    n < most ? n : most, lblk, m);
}

/* From the table that maps LBLK, if there is a hint. */
static bool
lookup_hinted (struct inode *inode, uint64_t lblk, uint64_t most,
               struct mapping *m)
{
  struct mbuf *mb = hints_find (inode, lblk);
  uint32_t slot, n;

  if (mb == NULL)
    return false;
  slot = lblk - hints_first (mb);
  n = pointers_per_block (inode->fs) - slot;
  describe_slots (inode, mb, slot, n < most ? n : most, lblk, m);
  mcache_unpin (inode->fs->mc, mb);
  return true;
}

static errcode_t
lookup_walking (struct inode *inode, uint64_t lblk, uint64_t most,
                struct mapping *m)
{
  struct walk w;
  errcode_t err = walk_to (inode, lblk, &w);

  if (err)
    return err;
  describe (inode, &w, lblk, most, m);
  if (w.present > 1 && w.present == w.pl.levels)
    hints_note (inode, lblk, w.mb[w.present - 1]);
  walk_release (inode, &w);
  return 0;
}

errcode_t
indirect_lookup (struct inode *inode, uint64_t lblk, uint64_t most,
                 struct mapping *m)
{
  errcode_t err;

  if (!lookup_hinted (inode, lblk, most, m) &&
      (err = lookup_walking (inode, lblk, most, m)))
    return err;
  return m->state != MAP_WRITTEN ||
    filesystem_valid_data (inode->fs, m->pblk, m->len) ? 0
    : corrupt (inode, m->pblk);
}

/* The same from what is in the cache; for a hint, so not checked. */
static bool
lookup_cached (struct inode *inode, uint64_t lblk, struct mapping *m)
{
  struct walk w = { .present = 1 };
  bool known = locate (inode->fs, lblk, &w.pl) == 0;

  for (; known && w.present < w.pl.levels; w.present++) {
    uint32_t blk = walk_get (inode, &w, w.present - 1,
                             w.pl.slot[w.present - 1]);

    if (blk == 0)
      break;
    w.mb[w.present] = mcache_find (inode->fs->mc, blk);
    known = w.mb[w.present] &&
      atomic_load (&w.mb[w.present]->owner) == inode->ino;
  }
  if (known)
    describe (inode, &w, lblk, UINT64_MAX, m);
  walk_release (inode, &w);
  return known;
}

/* Runs of a window to look at: a hole ends with its table. */
#define ENOUGH_RUNS 32

/* The first run of [FIRST, END) that is known. */
static bool
find_mapped (struct inode *inode, uint64_t first, uint64_t end,
             struct mapping *m)
{
  unsigned i;

  for (i = 0; i < ENOUGH_RUNS && first < end; i++) {
    if (!lookup_cached (inode, first, m))
      m->len = indirect_table_left (inode->fs, first);
    else if (m->state != MAP_HOLE)
      return true;
    first += m->len;
  }
  return false;
}

bool
indirect_goal (struct inode *inode, uint64_t lblk, uint64_t first,
               uint32_t window, uint64_t *goal, bool *inside)
{
  struct mapping m;

  *inside = (lblk > first && find_mapped (inode, lblk - 1, lblk, &m)) ||
    find_mapped (inode, first, first + window, &m);
  if (!*inside && (first == 0 || !find_mapped (inode, first - 1, first, &m)))
    return false;
  *goal = m.pblk + lblk - m.lblk;
  return lblk >= m.lblk || m.pblk > m.lblk - lblk;
}

/* Dirty every table of W before one of them is changed. */
static errcode_t
dirty_walk (struct inode *inode, struct walk *w)
{
  unsigned i;
  errcode_t err;

  for (i = 1; i < w->present; i++) {
    err = alloc_check_tree_block (inode->fs, w->mb[i]->blkno);
    if (!err)
      err = mcache_dirty (inode->fs->mc, w->mb[i], MCLASS_TREE, false);
    if (err)
      return err;
  }
  return 0;
}

/* Allocates the tables that W lacks, unconnected. */
static errcode_t
add_tables (struct inode *inode, uint64_t lblk, struct walk *w,
            struct reservation *r)
{
  unsigned level = w->present;
  errcode_t err = 0;

  for (; level < w->pl.levels && !err; level++) {
    err = map_new_block (inode, r, &w->mb[level]);
    if (!err)
      err = claim (inode, w->mb[level],
                   table_maps (inode->fs, &w->pl, level, lblk));
  }
  if (!err)
    return 0;
  for (level = w->present; level < w->pl.levels && w->mb[level]; level++) {
    map_undo_new_block (inode, r, w->mb[level]);
    w->mb[level] = NULL;
  }
  return err;
}

errcode_t
indirect_insert (struct inode *inode, uint64_t lblk, uint32_t len,
                 uint64_t pblk, struct reservation *r, uint32_t *done)
{
  struct filesystem *fs = inode->fs;
  struct walk w;
  unsigned level, last;
  uint32_t n, i;
  errcode_t err;

  lock_assert_held (LOCK_MAP);
  lock_assert_held (LOCK_FS);
  *done = 0;
  if (pblk + len - 1 > UINT32_MAX)
    return EFBIG;
  err = walk_to (inode, lblk, &w);
  if (err)
    return err;
  last = w.pl.levels - 1;
  n = slots_left (fs, &w.pl);
  if (n > len)
    n = len;
  for (i = 0; w.present == w.pl.levels && i < n && !err; i++)
    if (walk_get (inode, &w, last, w.pl.slot[last] + i) != 0)
      err = EINVAL;
  if (!err)
    err = dirty_walk (inode, &w);
  if (!err)
    err = add_tables (inode, lblk, &w, r);
  if (err) {
    walk_release (inode, &w);
    return err;
  }

  /* Nothing fails from here on. */
  for (i = 0; i < n; i++)
    walk_set (inode, &w, last, w.pl.slot[last] + i, pblk + i);
  for (level = w.present; level < w.pl.levels; level++)
    walk_set (inode, &w, level - 1, w.pl.slot[level - 1],
              w.mb[level]->blkno);
  ext2fs_iblk_add_blocks (fs->e2, (struct ext2_inode *) inode->raw,
                          w.pl.levels - w.present);
  walk_release (inode, &w);
  *done = n;
  return 0;
}

static bool
table_empty (const struct filesystem *fs, const struct mbuf *mb)
{
  static const uint8_t zero[64];
  uint32_t i;

  for (i = 0; i < fs->block_size; i += sizeof zero)
    if (memcmp (mb->data + i, zero, sizeof zero) != 0)
      return false;
  return true;
}

/* Free the tables of W that have become empty, from the last one up. */
static void
drop_empty_tables (struct inode *inode, struct walk *w)
{
  struct filesystem *fs = inode->fs;
  unsigned level;

  for (level = w->pl.levels - 1; level > 0; level--) {
    if (!table_empty (fs, w->mb[level]))
      return;
    walk_set (inode, w, level - 1, w->pl.slot[level - 1], 0);
    alloc_free_tree_block (fs, w->mb[level]->blkno);
    ext2fs_iblk_sub_blocks (fs->e2, (struct ext2_inode *) inode->raw, 1);
  }
}

/* Of the N pointers from W's on: what they point at, and the tables, will
 * be freed.  N is reduced to what can be done at once.
 */
static errcode_t
prepare_frees (struct inode *inode, struct walk *w, uint32_t *n)
{
  struct filesystem *fs = inode->fs;
  const unsigned last = w->pl.levels - 1;
  unsigned groups = ALLOC_MAX_FREE_GROUPS;
  uint32_t i, run, can, blk;
  errcode_t err = 0;

  alloc_begin_free (fs);
  for (i = 0; i < *n && !err; i += run) {
    blk = walk_get (inode, w, last, w->pl.slot[last] + i);
    run = 1;
    if (blk == 0)
      continue;
    while (i + run < *n &&
           walk_get (inode, w, last, w->pl.slot[last] + i + run)
           == (uint64_t) blk + run)
      run++;
    if (!filesystem_valid_data (fs, blk, run))
      return corrupt (inode, blk);
    if ((can = alloc_freeable (fs, blk, run, &groups)) < run)
      *n = i + (run = can);     /* 0 of the first run it is never */
    err = alloc_prepare_free (fs, blk, run);
  }
  for (i = 1; i < w->present && !err; i++)
    err = alloc_prepare_free (fs, w->mb[i]->blkno, 1);
  return err;
}

errcode_t
indirect_remove (struct inode *inode, uint64_t start, uint64_t end,
                 uint64_t *next)
{
  struct filesystem *fs = inode->fs;
  struct walk w;
  struct mapping m;
  unsigned last;
  uint32_t n, i, slot;
  errcode_t err;

  lock_assert_held (LOCK_MAP);
  lock_assert_held (LOCK_FS);
  err = indirect_lookup (inode, start, end - start, &m);
  if (err)
    return err;
  if (m.state == MAP_HOLE) {
    *next = start + m.len < end ? start + m.len : end;
    return 0;
  }
  err = walk_to (inode, start, &w);
  if (err)
    return err;
  /* A table that had to be read again may have become another one, if
   * somebody else writes to the device.
   */
  if (w.present < w.pl.levels) {
    walk_release (inode, &w);
    return corrupt (inode, 0);
  }
  last = w.pl.levels - 1;
  slot = w.pl.slot[last];
  n = slots_left (fs, &w.pl);
  if (n > end - start)
    n = end - start;
  err = prepare_frees (inode, &w, &n);
  if (!err)
    err = dirty_walk (inode, &w);
  if (!err) {
    for (i = 0; i < n; i++) {
      uint32_t blk = walk_get (inode, &w, last, slot + i);

      if (blk == 0)
        continue;
      walk_set (inode, &w, last, slot + i, 0);
      alloc_free_later (fs, blk, 1);
      ext2fs_iblk_sub_blocks (fs->e2, (struct ext2_inode *) inode->raw, 1);
    }
    drop_empty_tables (inode, &w);
    *next = start + n;
  }
  walk_release (inode, &w);
  return err;
}

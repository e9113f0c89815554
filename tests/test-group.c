/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Block groups: those never initialised, those that are damaged, and
 * who may have which block.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define BLOCK 1024

/* Eight groups, the last one short. */
#define GROUP 1024
#define IMAGE ((7 * (uint64_t) GROUP + 700) * BLOCK)
#define SIZE (UINT64_C (8) << 20)

#define CSUM "-t ext4 -b 1024 -g 1024 -N 64 -m 0 " \
  "-O metadata_csum,^flex_bg,^has_journal,^resize_inode"
#define PLAIN "-t ext2 -b 1024 -g 1024 -N 64 -m 0 -O ^resize_inode"

static const struct image_file files[] = { { "f", SIZE, false }, { NULL } };

static uint32_t
clear_bits (const uint8_t *map, uint32_t n)
{
  uint32_t i, clear = 0;

  for (i = 0; i < n; i++)
    clear += !bit_test (map, i);
  return clear;
}

/* Write until there is no more space; returns how many blocks. */
static unsigned
fill_up (struct inode *inode)
{
  static const uint8_t data[BLOCK] = { 1, 2, 3 };
  errcode_t err = 0;
  uint64_t at;

  for (at = 0; at + BLOCK <= inode->size && !err; at += BLOCK)
    err = file_write (inode, data, BLOCK, at, 0);
  assert_int_equal (err, EXT2_ET_BLOCK_ALLOC_FAIL);
  return at / BLOCK - 1;
}

/* Blocks of F in each group. */
static void
count_in_groups (struct inode *inode, unsigned *n, unsigned groups)
{
  struct mapping m;
  uint64_t lblk, i;

  memset (n, 0, groups * sizeof *n);
  for (lblk = 0; lblk < inode->size / BLOCK; lblk += m.len) {
    inode_map_lock_shared (inode);
    assert_ok (map_lookup (inode, lblk, UINT64_MAX, &m));
    inode_map_unlock_shared (inode);
    for (i = 0; m.state != MAP_HOLE && i < m.len; i++)
      n[group_of (inode->fs, m.pblk + i)]++;
  }
}

static void
check_uninit (struct filesystem *fs, dgrp_t g)
{
  const uint32_t n = group_blocks (fs, g);
  struct mbuf *mb;
  uint32_t i;

  LOCK_FOR_SCOPE (&fs->lock);
  assert_ok (group_bitmap (fs, g, &mb));
  assert_int_equal (clear_bits (mb->data, n),
                    ext2fs_bg_free_blocks_count (fs->e2, g));
  for (i = 0; i < n; i++)
    assert_int_equal (bit_test (mb->data, i),
                      syszone_overlaps (&fs->zones, group_first (fs, g) + i,
                                        1));
  assert_int_equal (bit_find (mb->data, n, BLOCK * 8, false), BLOCK * 8);
  mcache_unpin (fs->mc, mb);
}

static void
test_uninit (void **state)
{
  struct memdev *md = image_make (CSUM, IMAGE, files);
  struct filesystem *fs = image_open (md);
  unsigned seen = 0, n[8], i;
  struct inode *inode;
  dgrp_t g;

  (void) state;
  assert_int_equal (fs->e2->group_desc_count, 8);
  assert_int_equal (group_blocks (fs, 7), 700 - 1);
  for (g = 0; g < 8; g++) {
    if (!ext2fs_bg_flags_test (fs->e2, g, EXT2_BG_BLOCK_UNINIT))
      continue;
    seen++;
    /* What is there on the device is rubbish. */
    memset (md->mem + ext2fs_block_bitmap_loc (fs->e2, g) * BLOCK, 0x5a,
            BLOCK);
    check_uninit (fs, g);
  }
  assert_true (seen > 0);
  /* Looking does not change anything. */
  image_close (fs, NULL);
  assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);

  fs = image_open (md);
  inode = image_iget (fs, "f");
  fill_up (inode);
  count_in_groups (inode, n, 8);
  for (i = 0; i < 8; i++)
    assert_true (n[i] > 600);
  image_close (fs, inode);
  image_assert_clean (md);
  memdev_free (md);
}

/* Group 3 is damaged in some way: all the others are used, and it is
 * left as it is.
 */
static void
avoided (struct memdev *md)
{
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  uint8_t *bitmap = md->mem + ext2fs_block_bitmap_loc (fs->e2, 3) * BLOCK;
  uint8_t before[BLOCK];
  unsigned n[8], i;

  memcpy (before, bitmap, BLOCK);
  assert_true (fill_up (inode) > 6000);
  assert_true (fs->alloc.groups[3].bad);
  count_in_groups (inode, n, 8);
  for (i = 0; i < 8; i++)
    assert_true (i == 3 ? n[i] == 0 : n[i] > 600);
  /* What it has can be given back. */
  assert_ok (file_trim (inode, SIZE / 2, 0, 0));
  assert_ok (filesystem_flush (fs));
  fill_up (inode);
  iput (inode);
  filesystem_close (fs);
  assert_memory_equal (before, bitmap, BLOCK);
  /* And e2fsck puts it right without loss. */
  assert_in_range (image_fsck (md, "-fy", 1), 0, 1);
  image_assert_clean (md);
}

/* A change of the image where libext2fs says group 3's things are. */
static uint64_t
bitmap_of_3 (struct memdev *md)
{
  struct filesystem *fs = image_open (md);
  uint64_t blk = ext2fs_block_bitmap_loc (fs->e2, 3);

  image_close (fs, NULL);
  return blk;
}

static void
test_bad_bitmap_csum (void **state)
{
  struct memdev *md = image_make (CSUM, IMAGE, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");

  (void) state;
  /* Initialised first, then emptied. */
  fill_up (inode);
  assert_ok (file_trim (inode, SIZE, 0, 0));
  image_close (fs, inode);
  image_assert_clean (md);
  md->mem[bitmap_of_3 (md) * BLOCK + GROUP / 8 - 1] ^= 0x40;
  avoided (md);
  memdev_free (md);
}

static void
test_wrong_free_count (void **state)
{
  struct memdev *md = image_make (PLAIN, IMAGE, files);
  struct ext2_group_desc *gd = (void *) (md->mem + 2 * BLOCK);

  (void) state;
  gd[3].bg_free_blocks_count -= 5;
  avoided (md);
  memdev_free (md);
}

static void
test_metadata_marked_free (void **state)
{
  struct memdev *md = image_make (PLAIN, IMAGE, files);
  struct ext2_group_desc *gd = (void *) (md->mem + 2 * BLOCK);
  uint64_t bit = gd[3].bg_inode_table - (3 * GROUP + 1);

  (void) state;
  bit_clear (md->mem + bitmap_of_3 (md) * BLOCK, bit);
  gd[3].bg_free_blocks_count++;
  avoided (md);
  memdev_free (md);
}

/* Goals. */

static uint64_t
reserve_at (struct filesystem *fs, uint64_t at, uint64_t elsewhere,
            uint32_t want, uint32_t *len)
{
  const struct goal goal = {
    .at = at, .elsewhere = elsewhere, .search = 1,
  };
  struct reservation r;
  uint64_t blk;

  LOCK_FOR_SCOPE (&fs->lock);
  assert_ok (alloc_reserve (fs, &goal, want, 0, &r));
  blk = r.blk;
  *len = r.len;
  alloc_release (fs, &r);
  return blk;
}

static void
test_goal (void **state)
{
  struct memdev *md = image_make (PLAIN, IMAGE, files);
  struct filesystem *fs = image_open (md);
  const struct goal goal = {
    .at = 5 * GROUP + 500, .elsewhere = 0, .search = 1,
  };
  struct reservation r;
  uint32_t len;

  (void) state;
  assert_int_equal (reserve_at (fs, 5 * GROUP + 500, 0, 20, &len),
                    5 * GROUP + 500);
  assert_int_equal (len, 20);
  /* No wish, or one outside. */
  assert_int_equal (reserve_at (fs, 0, 6 * GROUP + 300, 20, &len),
                    6 * GROUP + 300);
  assert_int_equal (reserve_at (fs, UINT64_MAX, 6 * GROUP + 300, 20, &len),
                    6 * GROUP + 300);
  assert_in_range (reserve_at (fs, UINT64_MAX, UINT64_MAX, 20, &len), 1,
                   fs->blocks - 20);
  assert_int_equal (len, 20);
  /* At the very end there is only one block: too short a run. */
  assert_int_equal (reserve_at (fs, fs->blocks - 1, 2 * GROUP + 400, 20,
                                &len), 2 * GROUP + 400);
  /* Reserved by somebody else. */
  lock_acquire (&fs->lock);
  assert_ok (alloc_reserve (fs, &goal, 20, 0, &r));
  lock_release (&fs->lock);
  assert_int_equal (reserve_at (fs, 5 * GROUP + 505, 2 * GROUP + 400, 20,
                                &len), 2 * GROUP + 400);
  lock_acquire (&fs->lock);
  alloc_release (fs, &r);
  lock_release (&fs->lock);
  image_close (fs, NULL);
  assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);
  memdev_free (md);
}

/* Block-mapped files and their tables lie before block 2^32: whatever is
 * asked for, nothing behind a limit is given.
 */
static void
test_limit (void **state)
{
  struct memdev *md = image_make (PLAIN, IMAGE, files);
  struct filesystem *fs = image_open (md);
  const uint64_t limit = 3 * GROUP;
  const struct goal goals[] = {
    { .at = 5 * GROUP + 500, .elsewhere = 6 * GROUP, .search = 1 },
    { .at = NOWHERE, .elsewhere = limit, .search = 1 },
    { .at = 5 * GROUP, .elsewhere = 6 * GROUP, .check = 64, .search = 64 },
    { .at = limit, .elsewhere = limit - 1, .check = 64, .search = 64,
      .spacious = true },
  };
  struct reservation r[64];
  uint64_t blk;
  unsigned i, n;
  errcode_t err;

  (void) state;
  lock_acquire (&fs->lock);
  for (i = 0; i < sizeof goals / sizeof goals[0]; i++) {
    struct goal goal = goals[i];

    goal.limit = limit;
    assert_ok (alloc_reserve (fs, &goal, 20, 1, &r[0]));
    assert_true (r[0].blk + r[0].len <= limit);
    fs->alloc.tree_next = 6 * GROUP;
    assert_ok (alloc_take_meta (fs, &r[0], EXT2_ROOT_INO, limit, &blk));
    assert_true (blk < limit);
    assert_ok (alloc_free_now (fs, blk, 1));
    alloc_release (fs, &r[0]);
  }
  /* Not even when that is all there is. */
  for (n = 0, err = 0; n < 64 && !err; n += !err) {
    struct goal goal = goals[0];

    goal.limit = limit;
    err = alloc_reserve (fs, &goal, GROUP, 0, &r[n]);
    assert_true (err || r[n].blk + r[n].len <= limit);
  }
  assert_int_equal (err, EXT2_ET_BLOCK_ALLOC_FAIL);
  while (n-- > 0)
    alloc_release (fs, &r[n]);
  lock_release (&fs->lock);
  image_close (fs, NULL);
  memdev_free (md);
}

/* The only free piece lies before the place where the search begins, in
 * the same group.
 */
static void
test_piece_behind (void **state)
{
  struct memdev *md = image_make (PLAIN, IMAGE, files);
  struct filesystem *fs = image_open (md);
  const struct goal any = { .at = NOWHERE, .elsewhere = 1, .search = 1 };
  const struct goal piece = {
    .at = NOWHERE, .elsewhere = 6 * GROUP - 10, .search = 64,
  };
  struct reservation r[256], got;
  uint64_t blk = 0;
  unsigned n, i;

  (void) state;
  lock_acquire (&fs->lock);
  for (n = 0; alloc_reserve (fs, &any, GROUP, 0, &r[n]) == 0; n++)
    assert_true (n < 255);
  assert_int_equal (alloc_reserve (fs, &piece, 1, 0, &got),
                    EXT2_ET_BLOCK_ALLOC_FAIL);
  for (i = 0; i < n && blk == 0; i++) {
    if (group_of (fs, r[i].blk) == 5 && r[i].len > 128) {
      blk = r[i].blk;
      alloc_release (fs, &r[i]);
    }
  }
  assert_int_not_equal (blk, 0);
  assert_ok (alloc_reserve (fs, &piece, 1, 0, &got));
  assert_in_range (got.blk, blk, 6 * GROUP);
  assert_int_equal (got.blk % 64, 0);
  alloc_release (fs, &got);
  for (i = 0; i < n; i++)
    alloc_release (fs, &r[i]);
  lock_release (&fs->lock);
  image_close (fs, NULL);
  memdev_free (md);
}

/* One owner a block. */

#define THREADS 6

struct taker {
  pthread_t thread;
  struct filesystem *fs;
  atomic_uchar *owned;          /* per block */
  struct rng rng;
  unsigned rounds;
};

static void
own (struct taker *t, const struct reservation *r, bool take)
{
  uint32_t i;

  for (i = 0; i < r->len; i++) {
    if (atomic_exchange (&t->owned[r->blk + i], take) == take) {
      fprintf (stderr, "block %llu has two owners\n",
               (unsigned long long) (r->blk + i));
      abort ();
    }
  }
}

static void *
take_and_give (void *opaque)
{
  struct taker *t = opaque;
  struct filesystem *fs = t->fs;

  while (t->rounds-- > 0) {
    struct goal goal = {
      .at = rng_below (&t->rng, fs->blocks), .elsewhere = GROUP,
      .search = 1,
    };
    struct reservation r, all;
    errcode_t err;
    uint32_t n;

    lock_acquire (&fs->lock);
    err = alloc_reserve (fs, &goal, 1 + rng_below (&t->rng, 300), 2, &r);
    lock_release (&fs->lock);
    if (err)
      continue;
    all = r;
    own (t, &all, true);
    /* Part of it is allocated and freed again. */
    n = rng_below (&t->rng, r.len + 1);
    lock_acquire (&fs->lock);
    if (filesystem_begin_change (fs) || alloc_take (fs, &r, n))
      abort ();
    lock_release (&fs->lock);
    own (t, &all, false);
    lock_acquire (&fs->lock);
    if (alloc_free_now (fs, all.blk, n))
      abort ();
    alloc_release (fs, &r);
    lock_release (&fs->lock);
  }
  return NULL;
}

static void
test_one_owner (void **state)
{
  struct memdev *md = image_make (PLAIN, IMAGE, files);
  struct filesystem *fs = image_open (md);
  const uint64_t before = image_free_blocks (md);
  atomic_uchar *owned = calloc (fs->blocks, sizeof *owned);
  struct taker t[THREADS];
  unsigned i;

  (void) state;
  assert_non_null (owned);
  for (i = 0; i < THREADS; i++) {
    t[i] = (struct taker) {
      .fs = fs, .owned = owned, .rng = { i }, .rounds = image_scale (4000),
    };
    assert_int_equal (pthread_create (&t[i].thread, NULL, take_and_give,
                                      &t[i]), 0);
  }
  for (i = 0; i < THREADS; i++)
    pthread_join (t[i].thread, NULL);
  assert_int_equal (fs->alloc.promised, 0);
  image_close (fs, NULL);
  assert_int_equal (image_free_blocks (md), before);
  image_assert_clean (md);
  memdev_free (md);
  free (owned);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_uninit),
    cmocka_unit_test (test_bad_bitmap_csum),
    cmocka_unit_test (test_wrong_free_count),
    cmocka_unit_test (test_metadata_marked_free),
    cmocka_unit_test (test_goal),
    cmocka_unit_test (test_limit),
    cmocka_unit_test (test_piece_behind),
    cmocka_unit_test (test_one_owner),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

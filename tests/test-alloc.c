/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The allocator, and files on a filesystem that is full. */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define SIZE (UINT64_C (6) << 20)
#define BLOCK 1024

static const struct image_file files[] = {
  { "f", SIZE, false }, { "g", SIZE, false }, { NULL },
};

/* Write until there is no more space; returns how many bytes. */
static uint64_t
fill_up (struct inode *inode, uint64_t at, uint64_t step)
{
  static const uint8_t data[BLOCK] = { 1, 2, 3 };
  errcode_t err = 0;

  for (; at + BLOCK <= inode->size && !err; at += step)
    err = file_write (inode, data, BLOCK, at, 0);
  if (err)
    assert_int_equal (err, EXT2_ET_BLOCK_ALLOC_FAIL);
  return at;
}

/* ENOSPC leaves the reserved blocks alone and everything in order. */
static void
test_keeps_reserved_blocks (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -m 10 -O ^has_journal",
                                  UINT64_C (4) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  const uint64_t reserved = ext2fs_r_blocks_count (fs->e2->super);
  uint8_t buf[BLOCK];

  (void) state;
  fill_up (inode, 0, BLOCK);
  assert_ok (file_read (inode, buf, sizeof buf, 0));
  assert_int_equal (buf[0], 1);
  image_close (fs, inode);
  assert_true (image_free_blocks (md) >= reserved);
  /* Nearly: MAP_MAX_META blocks are kept for a tree. */
  assert_true (image_free_blocks (md) <= reserved + MAP_MAX_META);
  image_assert_clean (md);
  memdev_free (md);
}

/* Blocks that were allocated ahead are there when the rest is full. */
static void
test_preallocated_when_full (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -m 0 -O ^has_journal",
                                  UINT64_C (4) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
  uint8_t data[3 * BLOCK];
  struct reservation rest;

  (void) state;
  memset (data, 7, sizeof data);
  assert_ok (file_zero (f, 1 << 20, 0, 0));
  fill_up (g, 0, BLOCK);
  /* Somebody else has what was kept for trees. */
  lock_acquire (&fs->lock);
  assert_ok (alloc_reserve (fs, NULL, 0,
                            ext2fs_free_blocks_count (fs->e2->super), &rest));
  lock_release (&fs->lock);
  assert_ok (file_write (f, data, sizeof data, 100 * BLOCK, 0));
  assert_ok (file_zero (f, 5 * BLOCK, 99 * BLOCK, 0));
  assert_ok (file_trim (f, 5 * BLOCK, 99 * BLOCK, 0));
  lock_acquire (&fs->lock);
  alloc_release (fs, &rest);
  lock_release (&fs->lock);
  iput (g);
  image_close (fs, f);
  image_assert_clean (md);
  memdev_free (md);
}

/* Zeroing by unmapping can need a block to split the tree's leaf with.
 * Without one the blocks stay, and are zeroed all the same.
 */
static void
zero_when_full (bool fast_zero)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -m 0 -O ^has_journal",
                                  UINT64_C (4) << 20, files);
  struct filesystem *fs;
  struct inode *f, *g;
  uint8_t data[20 * BLOCK], back[20 * BLOCK];
  struct reservation rest;
  uint64_t i;

  md->dev.can_fast_zero = fast_zero;
  fs = image_open (md);
  f = image_iget (fs, "f");
  g = image_iget (fs, "g");
  memset (data, 0x5a, sizeof data);
  for (i = 0; i < 4; i++)       /* as many extents as the inode holds */
    assert_ok (file_write (f, data, sizeof data, i * 40 * BLOCK, 0));
  fill_up (g, 0, BLOCK);
  lock_acquire (&fs->lock);
  assert_ok (alloc_reserve (fs, NULL, 0,
                            ext2fs_free_blocks_count (fs->e2->super), &rest));
  lock_release (&fs->lock);

  assert_ok (file_zero (f, 4 * BLOCK, 45 * BLOCK, FILE_MAY_TRIM));
  memset (data + 5 * BLOCK, 0, 4 * BLOCK);
  assert_ok (file_read (f, back, sizeof back, 40 * BLOCK));
  assert_memory_equal (back, data, sizeof data);

  lock_acquire (&fs->lock);
  alloc_release (fs, &rest);
  lock_release (&fs->lock);
  iput (g);
  image_close (fs, f);
  image_assert_clean (md);
  memdev_free (md);
}

static void
test_zero_when_full (void **state)
{
  (void) state;
  zero_when_full (true);
  zero_when_full (false);
}

/* Space that a trim has given up is found again without a flush. */
static void
test_reclaims_trimmed (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -m 0 -O ^has_journal",
                                  UINT64_C (4) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
  uint8_t data[8 * BLOCK] = { 9 };

  (void) state;
  fill_up (f, 0, BLOCK);
  assert_ok (file_trim (f, 1 << 20, 0, 0));
  assert_ok (file_write (g, data, sizeof data, 0, 0));
  fill_up (f, 0, BLOCK);
  assert_ok (file_trim (f, 1 << 20, 0, 0));
  assert_ok (file_zero (g, sizeof data, SIZE / 2, 0));
  fill_up (f, 0, BLOCK);
  assert_ok (file_trim (f, 1 << 20, 0, 0));
  assert_ok (file_zero (g, 100, SIZE / 4 + 10, 0));
  iput (g);
  image_close (fs, f);
  image_assert_clean (md);
  memdev_free (md);
}

/* The same when several run out of space at once. */

struct writer {
  pthread_t thread;
  struct inode *inode;
  uint64_t at, end;
  errcode_t err;
};

static void *
write_on (void *opaque)
{
  static const uint8_t data[BLOCK];
  struct writer *w = opaque;

  for (; w->at < w->end && !w->err; w->at += BLOCK)
    w->err = file_write (w->inode, data, BLOCK, w->at, 0);
  return NULL;
}

static void
test_reclaims_for_several (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -m 0 -O ^has_journal",
                                  UINT64_C (4) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
  struct writer w[4];
  unsigned round, i;

  (void) state;
  md->delay_us = 50;
  for (round = 0; round < image_scale (40); round++) {
    md->delay_us = 0;
    fill_up (f, 0, BLOCK);
    assert_ok (file_trim (g, SIZE, 0, 0));
    assert_ok (filesystem_flush (fs));
    fill_up (f, 0, BLOCK);
    md->delay_us = 50;
    assert_ok (file_trim (f, 1 << 20, 0, 0));
    for (i = 0; i < 4; i++) {
      w[i] = (struct writer) {
        .inode = g, .at = i << 17, .end = (i << 17) + (64 << 10),
      };
      assert_int_equal (pthread_create (&w[i].thread, NULL, write_on, &w[i]),
                        0);
    }
    for (i = 0; i < 4; i++)
      pthread_join (w[i].thread, NULL);
    for (i = 0; i < 4; i++)
      assert_ok (w[i].err);
  }
  iput (g);
  image_close (fs, f);
  image_assert_clean (md);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_keeps_reserved_blocks),
    cmocka_unit_test (test_preallocated_when_full),
    cmocka_unit_test (test_zero_when_full),
    cmocka_unit_test (test_reclaims_trimmed),
    cmocka_unit_test (test_reclaims_for_several),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Hints lead to most blocks of a fragmented file without a search, and
 * never to a wrong one; whatever has been cut, moved, freed and evicted
 * since.
 */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "extent-node.h"
#include "hints.h"
#include "image.h"
#include "map.h"

#define BLOCK UINT64_C (1024)
#define BLOCKS UINT64_C (8000)

static const struct image_file files[] = {
  { "f", BLOCKS * BLOCK, false }, { "g", BLOCKS * BLOCK, false }, { NULL },
};

static void
write_block (struct inode *inode, uint64_t lblk)
{
  uint8_t data[BLOCK];

  memset (data, (uint8_t) (lblk * 7 + 1), sizeof data);
  assert_ok (file_write (inode, data, BLOCK, lblk * BLOCK, 0));
}

static void
trim_blocks (struct inode *inode, uint64_t lblk, uint64_t n)
{
  assert_ok (file_trim (inode, n * BLOCK, lblk * BLOCK, 0));
}

static bool
same (const struct mapping *a, const struct mapping *b)
{
  return a->state == b->state &&
    (a->state == MAP_HOLE || a->pblk == b->pblk);
}

/* Looks LBLK up without hints. */
static void
look_up (struct inode *inode, uint64_t lblk, struct mapping *m)
{
  struct hints *h = atomic_exchange (&inode->hints, NULL);

  assert_ok (map_lookup (inode, lblk, 1, m));
  hints_free (atomic_exchange (&inode->hints, h));
}

/* Looks all of the file up in this order; how many of them had a hint. */
static unsigned
look_all_up (struct inode *inode, uint64_t step)
{
  unsigned hinted = 0;
  uint64_t i;

  for (i = 0; i < BLOCKS; i++) {
    uint64_t lblk = i * step % BLOCKS;
    struct mapping m, want;
    struct mbuf *mb;

    inode_map_lock_shared (inode);
    look_up (inode, lblk, &want);
    mb = hints_find (inode, lblk);
    if (mb) {
      hinted++;
      assert_int_equal (mb->owner, inode->ino);
      /* It will not be evicted next. */
      assert_true (mb->used);
      mb->used = false;
      mcache_unpin (inode->fs->mc, mb);
    }
    assert_ok (map_lookup (inode, lblk, 1, &m));
    inode_map_unlock_shared (inode);
    if (!same (&m, &want))
      fail_msg ("block %u: state %d at %llu for %d at %llu", (unsigned) lblk,
                m.state, (unsigned long long) m.pblk, want.state,
                (unsigned long long) want.pblk);
  }
  return hinted;
}

/* Is any block that is a hole for the tree mapped for a hint?  And the
 * other way: both ways look the same up after each change.
 */
static void
change_and_look (struct inode *inode, struct rng *rng)
{
  unsigned round, i;

  for (round = 0; round < image_scale (30); round++) {
    for (i = 0; i < 40; i++) {
      uint64_t lblk = rng_below (rng, BLOCKS);
      uint64_t n = 1 + rng_below (rng, i % 10 ? 5 : 600);

      if (n > BLOCKS - lblk)
        n = BLOCKS - lblk;
      if (round % 3 == 0)
        trim_blocks (inode, lblk, n);
      else
        write_block (inode, lblk);
      if (i % 16 == 0)
        assert_ok (filesystem_flush (inode->fs));
    }
    look_all_up (inode, round % 2 ? 1 : 3001);
  }
}

static void
fragment (struct inode *inode)
{
  uint64_t lblk;

  for (lblk = 0; lblk < BLOCKS; lblk += 2)
    write_block (inode, lblk);
  look_all_up (inode, 1);
}

/* The cache has room for one file's tree, or nearly: each takes the
 * other's buffers, for the same logical blocks.
 */
static void
two_files (struct inode *f, struct inode *g)
{
  unsigned i;

  for (i = 0; i < 3; i++) {
    look_all_up (f, 1);
    look_all_up (g, 1);
  }
}

/* G's hint leads to a buffer that has become F's. */
static void
others_buffer (struct inode *f, struct inode *g)
{
  const uint64_t lblk = BLOCKS / 2 + 1;
  struct mapping m;
  struct mbuf *mb;

  inode_map_lock_shared (f);
  assert_ok (map_lookup (f, lblk, 1, &m));
  mb = hints_find (f, lblk);
  assert_non_null (mb);
  hints_note (g, lblk, mb);
  assert_null (hints_find (g, lblk));
  mcache_unpin (f->fs->mc, mb);
  inode_map_unlock_shared (f);
}

static void
fragmented (const char *args)
{
  struct memdev *md = image_make (args, UINT64_C (40) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
  struct rng rng = { 3 };

  fragment (f);
  /* The others are around the ends of leaves. */
  assert_in_range (look_all_up (f, 1), BLOCKS * 19 / 20, BLOCKS);
  assert_in_range (look_all_up (f, 3001), BLOCKS * 19 / 20, BLOCKS);
  fragment (g);
  two_files (f, g);
  others_buffer (f, g);
  change_and_look (f, &rng);
  two_files (f, g);
  trim_blocks (f, 0, BLOCKS);
  assert_int_equal (look_all_up (f, 1), 0);
  iput (g);
  image_close (fs, f);
  image_assert_clean (md);
  memdev_free (md);
}

#define TEST(name, args)                                                \
  static void                                                           \
  name (void **state)                                                   \
  {                                                                     \
    (void) state;                                                       \
    fragmented (args);                                                 \
  }

TEST (test_journal, "-t ext4 -b 1024 -J size=1")
TEST (test_no_journal, "-t ext4 -b 1024 -O ^has_journal")
TEST (test_tables, "-t ext2 -b 1024")

/* A file in one piece, or in a few, has no tree and needs no hints. */
static void
test_none (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024", UINT64_C (20) << 20,
                                  files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");

  (void) state;
  write_block (inode, 5);
  write_block (inode, 700);
  assert_int_equal (look_all_up (inode, 1), 0);
  assert_null (inode->hints);
  image_close (fs, inode);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_journal),
    cmocka_unit_test (test_no_journal),
    cmocka_unit_test (test_tables),
    cmocka_unit_test (test_none),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

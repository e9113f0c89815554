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
  return a->state == b->state && a->len == b->len &&
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
                (int) m.state, (unsigned long long) m.pblk, (int) want.state,
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

/* Who has a hint needs nothing above the leaf. */
static void
without_a_search (struct inode *inode)
{
  uint32_t saved[EXT2_N_BLOCKS];
  const uint64_t lblk = BLOCKS / 2;
  struct mapping want, m;
  struct mbuf *mb;

  inode_map_lock_exclusive (inode);
  assert_ok (map_lookup (inode, lblk, 1, &want));
  mb = hints_find (inode, lblk);
  assert_non_null (mb);
  memcpy (saved, inode->raw->i_block, sizeof saved);
  memset (inode->raw->i_block, 0, sizeof saved);
  assert_ok (map_lookup (inode, lblk, 1, &m));
  memcpy (inode->raw->i_block, saved, sizeof saved);
  mcache_unpin (inode->fs->mc, mb);
  inode_map_unlock_exclusive (inode);
  assert_true (same (&m, &want));
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
  without_a_search (f);
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

/* A leaf of a few long extents is hinted to its very end. */
static void
test_long_extents (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024", UINT64_C (40) << 20,
                                  files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  static uint8_t data[100 * BLOCK];
  struct mbuf *mb;
  uint64_t i;

  (void) state;
  for (i = 0; i < 5; i++)
    assert_ok (file_write (inode, data, sizeof data, i * 1000 * BLOCK, 0));
  look_all_up (inode, 1);
  inode_map_lock_shared (inode);
  mb = hints_find (inode, 4099);
  assert_non_null (mb);
  assert_in_range (mb->entries, 5, 10);
  mcache_unpin (fs->mc, mb);
  assert_null (hints_find (inode, 4100));
  inode_map_unlock_shared (inode);
  image_close (fs, inode);
  memdev_free (md);
}

/* In the image the file becomes one mapped by blocks, with this table. */
static void
give_table (struct memdev *md, const char *name, uint32_t blk)
{
  static const char *const slot[] = {
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "IND",
    "DIND", "TIND",
  };
  char command[64];
  unsigned i;

  for (i = 0; i < EXT2_N_BLOCKS; i++) {
    snprintf (command, sizeof command, "sif %s block[%s] %u", name, slot[i],
              i == EXT2_IND_BLOCK ? blk : 0);
    image_debugfs (md, command);
  }
  snprintf (command, sizeof command, "sif %s flags 0", name);
  image_debugfs (md, command);
}

/* What the cache knows of a block. */
static struct mbuf
known_of (struct filesystem *fs, uint64_t blkno)
{
  struct mbuf *mb = mcache_find (fs->mc, blkno), copy;

  assert_non_null (mb);
  copy = *mb;
  mcache_unpin (fs->mc, mb);
  return copy;
}

/* A damaged image: G is mapped by blocks and has a block of F's tree as
 * its table.  G gets an error, and nothing of F changes by that.
 */
static void
test_others_table (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -O ^metadata_csum,"
                                  "^has_journal", UINT64_C (40) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g;
  uint8_t data[BLOCK];
  uint32_t index, leaf;
  struct mbuf before, after;
  struct path p;
  unsigned i;

  (void) state;
  fragment (f);
  inode_map_lock_shared (f);
  assert_ok (path_find (f, 0, &p));
  assert_int_equal (p.depth, 2);
  index = p.node[1].mb->blkno;
  leaf = p.node[2].mb->blkno;
  path_release (f, &p);
  inode_map_unlock_shared (f);
  image_close (fs, f);
  for (i = 0; i < 2; i++) {
    give_table (md, "g", i == 0 ? index : leaf);
    fs = image_open (md);
    f = image_iget (fs, "f");
    g = image_iget (fs, "g");
    inode_map_lock_shared (f);
    assert_ok (path_find (f, 0, &p));
    path_release (f, &p);
    inode_map_unlock_shared (f);
    before = known_of (fs, i == 0 ? index : leaf);
    assert_int_equal (before.owner, f->ino);
    assert_int_equal (file_read (g, data, BLOCK, 12 * BLOCK),
                      EXT2_FILSYS_CORRUPTED);
    after = known_of (fs, i == 0 ? index : leaf);
    assert_int_equal (after.owner, f->ino);
    assert_true (after.maps == before.maps);
    assert_int_equal (after.entries, before.entries);
    look_all_up (f, 1);
    iput (g);
    iput (f);
    filesystem_close (fs);
  }
  memdev_free (md);
}

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
    cmocka_unit_test (test_long_extents),
    cmocka_unit_test (test_others_table),
    cmocka_unit_test (test_none),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

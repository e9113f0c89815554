/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Extent trees, edited one call at a time against a table of what every
 * block must be, in 1 KiB blocks (84 entries a node) so that they get
 * deep.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "extent-node.h"
#include "image.h"

#include <ext2fs/ext3_extents.h>

#define PER_NODE 84

struct model {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *inode;
  uint64_t blocks;
  uint64_t *pblk;               /* 0 = hole */
  bool *unwritten;
  struct rng rng;
};

static void
model_init (struct model *m, const char *args, uint64_t image,
            uint64_t blocks, uint32_t bs)
{
  const struct image_file list[] = { { "f", blocks * bs, false }, { NULL } };

  memset (m, 0, sizeof *m);
  m->md = image_make (args, image, list);
  m->fs = image_open (m->md);
  m->inode = image_iget (m->fs, "f");
  m->blocks = blocks;
  m->pblk = calloc (blocks, sizeof *m->pblk);
  m->unwritten = calloc (blocks, sizeof *m->unwritten);
  assert_non_null (m->pblk);
  assert_non_null (m->unwritten);
}

static void
model_free (struct model *m)
{
  image_close (m->fs, m->inode);
  image_assert_clean (m->md);
  memdev_free (m->md);
  free (m->pblk);
  free (m->unwritten);
}

static void
reopen (struct model *m)
{
  image_close (m->fs, m->inode);
  image_assert_clean (m->md);
  m->fs = image_open (m->md);
  m->inode = image_iget (m->fs, "f");
}

static void
lock (struct model *m)
{
  inode_map_lock_exclusive (m->inode);
  lock_acquire (&m->fs->lock);
  assert_ok (inode_begin_change (m->inode));
}

static void
unlock (struct model *m)
{
  lock_release (&m->fs->lock);
  inode_map_unlock_exclusive (m->inode);
}

/* Maps up to LEN blocks at the hole LBLK, near AT; returns how many. */
static uint32_t
insert (struct model *m, uint64_t lblk, uint32_t len, bool unwritten,
        uint64_t at)
{
  const struct goal goal = { .at = at, .elsewhere = at, .search = 1 };
  struct reservation r;
  uint64_t pblk;
  uint32_t done, n, i;

  lock (m);
  assert_ok (alloc_reserve (m->fs, &goal, len, MAP_MAX_META, &r));
  pblk = r.blk;
  n = r.len;
  assert_ok (alloc_take (m->fs, &r, n));
  assert_ok (map_insert (m->inode, lblk, n, pblk,
                         unwritten ? MAP_UNWRITTEN : MAP_WRITTEN, &r, &done));
  assert_int_equal (done, n);
  ext2fs_iblk_add_blocks (m->fs->e2, (struct ext2_inode *) m->inode->raw,
                          done);
  assert_ok (inode_write (m->inode));
  alloc_release (m->fs, &r);
  unlock (m);
  for (i = 0; i < n; i++) {
    m->pblk[lblk + i] = pblk + i;
    m->unwritten[lblk + i] = unwritten;
  }
  return n;
}

static void
convert (struct model *m, uint64_t lblk, uint32_t len)
{
  struct reservation r;
  bool to = !m->unwritten[lblk];
  uint32_t i;

  lock (m);
  assert_ok (alloc_reserve (m->fs, NULL, 0, MAP_MAX_META, &r));
  assert_ok (map_convert (m->inode, lblk, len,
                          to ? MAP_UNWRITTEN : MAP_WRITTEN, &r));
  assert_ok (inode_write (m->inode));
  alloc_release (m->fs, &r);
  unlock (m);
  for (i = 0; i < len; i++)
    m->unwritten[lblk + i] = to;
}

static void
remove_range (struct model *m, uint64_t start, uint64_t end)
{
  struct reservation r;
  uint64_t next;

  for (; start < end; start = next) {
    uint64_t i;

    lock (m);
    assert_ok (alloc_reserve (m->fs, NULL, 0, MAP_MAX_META, &r));
    assert_ok (map_remove (m->inode, start, end, &r, &next));
    assert_ok (inode_write (m->inode));
    alloc_release (m->fs, &r);
    unlock (m);
    assert_true (next > start && next <= end);
    for (i = start; i < next; i++)
      m->pblk[i] = m->unwritten[i] = 0;
  }
}

static enum map_state
expected (const struct model *m, uint64_t lblk)
{
  if (m->pblk[lblk] == 0)
    return MAP_HOLE;
  return m->unwritten[lblk] ? MAP_UNWRITTEN : MAP_WRITTEN;
}

/* Every lookup from every block agrees with the table. */
static void
compare (struct model *m)
{
  uint64_t lblk, i;

  for (lblk = 0; lblk < m->blocks; lblk += 1 + rng_below (&m->rng, 3)) {
    struct mapping got;

    inode_map_lock_shared (m->inode);
    assert_ok (map_lookup (m->inode, lblk, UINT64_MAX, &got));
    inode_map_unlock_shared (m->inode);
    assert_true (got.len > 0);
    /* Of long runs the start and samples: later lookups see the rest. */
    for (i = 0; i < got.len && lblk + i < m->blocks;
         i += i < 64 ? 1 : 1 + i / 2) {
      if (got.state != expected (m, lblk + i) ||
          (got.state != MAP_HOLE && got.pblk + i != m->pblk[lblk + i]))
        fail_msg ("block %llu: state %d at %llu, not %d at %llu",
                  (unsigned long long) (lblk + i), (int) got.state,
                  (unsigned long long) (got.pblk + i),
                  (int) expected (m, lblk + i),
                  (unsigned long long) m->pblk[lblk + i]);
    }
  }
}

static struct ext3_extent_header *
root (struct model *m)
{
  return (struct ext3_extent_header *) m->inode->raw->i_block;
}

static unsigned
depth (struct model *m)
{
  return ext2fs_le16_to_cpu (root (m)->eh_depth);
}

static uint64_t
data_blocks (struct model *m)
{
  uint64_t n = 0, i;

  for (i = 0; i < m->blocks; i++)
    n += m->pblk[i] != 0;
  return n;
}

static uint64_t
tree_blocks (struct model *m)
{
  uint64_t sectors = ext2fs_inode_i_blocks
    (m->fs->e2, (struct ext2_inode *) m->inode->raw);

  return sectors / (m->fs->block_size / 512) - data_blocks (m);
}

static void
random_edit (struct model *m)
{
  uint64_t lblk = rng_below (&m->rng, m->blocks), end = lblk;
  uint64_t most = rng_below (&m->rng, 4) ? 1 : 1 + rng_below (&m->rng, 40);

  while (end < m->blocks && end - lblk < most &&
         expected (m, end) == expected (m, lblk))
    end++;
  if (m->pblk[lblk] == 0)
    insert (m, lblk, end - lblk, rng_below (&m->rng, 3) == 0,
            rng_below (&m->rng, m->fs->blocks));
  else if (rng_below (&m->rng, 2)) {
    /* A conversion needs one physical run. */
    uint64_t i = lblk + 1;

    while (i < end && m->pblk[i] == m->pblk[i - 1] + 1)
      i++;
    convert (m, lblk, i - lblk);
  }
  else
    remove_range (m, lblk, lblk + most < m->blocks ? lblk + most : m->blocks);
}

static void
test_random (void **state)
{
  struct model m;
  unsigned round, i;

  (void) state;
  model_init (&m, "-t ext4 -b 1024", UINT64_C (32) << 20, 9000, 1024);
  m.rng.state = 1;
  for (round = 0; round < 6; round++) {
    for (i = 0; i < image_scale (6000); i++)
      random_edit (&m);
    compare (&m);
    assert_ok (filesystem_flush (m.fs));
    compare (&m);
    if (round % 2)
      reopen (&m);
  }
  model_free (&m);
}

/* Grow to depth 3 in random order, shrink to nothing in another. */
static void
test_grow_and_shrink (void **state)
{
  const unsigned errors = image_errors ();
  struct model m;
  uint64_t before, *order, n, i;

  (void) state;
  n = 26000;
  model_init (&m, "-t ext4 -b 1024", UINT64_C (64) << 20, 2 * n, 1024);
  before = image_free_blocks (m.md);
  order = calloc (n, sizeof *order);
  assert_non_null (order);
  for (i = 0; i < n; i++) {
    uint64_t j = rng_below (&m.rng, i + 1);

    order[i] = order[j];
    order[j] = 2 * i;
  }
  for (i = 0; i < n; i++)
    insert (&m, order[i], 1, i % 5 == 0, 0);
  assert_int_equal (depth (&m), 3);
  /* On the average nodes are four fifths full, because full leaves share
   * with both neighbours.
   */
  assert_true (tree_blocks (&m) * PER_NODE * 4 / 5 < n);
  compare (&m);
  reopen (&m);
  compare (&m);
  for (i = 0; i < n; i++) {
    uint64_t lblk = order[(i * 7919) % n];

    remove_range (&m, lblk, lblk + 1);
    if (i == n - 40)
      compare (&m);
  }
  assert_int_equal (depth (&m), 0);
  assert_int_equal (ext2fs_le16_to_cpu (root (&m)->eh_entries), 0);
  assert_int_equal (data_blocks (&m) + tree_blocks (&m), 0);
  compare (&m);
  reopen (&m);
  assert_int_equal (image_free_blocks (m.md), before);
  assert_int_equal (image_errors (), errors);
  free (order);
  model_free (&m);
}

/* Without a journal: what a leaf's neighbour has given up goes to the leaf,
 * but on the disk the neighbour has it until the root is written.  Whatever
 * of the commit's writes a power cut leaves, the tree is in order.
 */
static void
test_neighbour_gives_up (void **state)
{
  const uint64_t n = PER_NODE + 30;
  struct model m;
  const struct ext3_extent_idx *index;
  uint64_t i, seed, second;
  size_t k;

  (void) state;
  model_init (&m, "-t ext4 -b 1024 -O ^has_journal", UINT64_C (8) << 20,
              8 * n, 1024);
  for (i = 0; i < n; i++)
    insert (&m, 4 * i, 1, false, 0);
  assert_int_equal (ext2fs_le16_to_cpu (root (&m)->eh_entries), 2);
  index = (void *) (root (&m) + 1);
  second = ext2fs_le32_to_cpu (index[1].ei_block);
  remove_range (&m, 40, 80);    /* room in the first leaf */
  assert_ok (filesystem_flush (m.fs));
  syncer_drain (m.fs);

  memdev_log_start (m.md);
  remove_range (&m, second, second + 40);
  insert (&m, second + 8, 3, false, 0);
  insert (&m, second + 20, 2, false, 0);
  assert_ok (filesystem_flush (m.fs));
  syncer_drain (m.fs);
  memdev_log_stop (m.md);
  for (k = 0; k <= m.md->log_count; k++) {
    for (seed = 1; seed <= 12; seed++) {
      struct memdev *cut = memdev_power_cut (m.md, k, seed);

      assert_true (image_fsck (cut, "-f -p", 1) <= 1);
      memdev_free (cut);
    }
  }
  compare (&m);
  model_free (&m);
}

/* Blocks added in order fill one leaf after the other. */
static void
test_append_fills_leaves (void **state)
{
  struct model m;
  uint64_t n = PER_NODE * PER_NODE + 10, i;

  (void) state;
  model_init (&m, "-t ext4 -b 1024", UINT64_C (32) << 20, 2 * n, 1024);
  for (i = 0; i < n; i++)
    insert (&m, 2 * i, 1, false, 0);
  /* 85 leaves under two indexes. */
  assert_int_equal (depth (&m), 2);
  assert_int_equal (tree_blocks (&m), (n + PER_NODE - 1) / PER_NODE + 2);
  compare (&m);
  remove_range (&m, 0, m.blocks);
  assert_int_equal (depth (&m), 0);
  assert_int_equal (tree_blocks (&m), 0);
  model_free (&m);
}

/* No extent is longer than the format allows; lookups see through that. */
static void
check_lengths (struct model *m, uint64_t total)
{
  struct ext3_extent *ex = (void *) (root (m) + 1);
  struct mapping got;
  uint64_t sum = 0;
  unsigned i;

  assert_int_equal (depth (m), 0);
  for (i = 0; i < ext2fs_le16_to_cpu (root (m)->eh_entries); i++) {
    unsigned len = ext2fs_le16_to_cpu (ex[i].ee_len);

    assert_int_not_equal (len, 0);
    assert_int_equal (ext2fs_le32_to_cpu (ex[i].ee_block), sum);
    sum += len > EXT_INIT_MAX_LEN ? len - EXT_INIT_MAX_LEN : len;
  }
  assert_int_equal (sum, total);
  inode_map_lock_shared (m->inode);
  assert_ok (map_lookup (m->inode, 0, UINT64_MAX, &got));
  inode_map_unlock_shared (m->inode);
  assert_int_equal (got.len, total);
}

static void
test_lengths (void **state)
{
  struct model m;
  uint64_t at, goal, n = 80000;
  uint32_t len;
  unsigned unwritten;

  (void) state;
  for (unwritten = 0; unwritten < 2; unwritten++) {
    /* No backups: the free space is one piece. */
    model_init (&m, "-t ext4 -b 4096 -O ^has_journal,sparse_super2 "
                "-E num_backup_sb=0", UINT64_C (512) << 20, n, 4096);
    goal = m.fs->blocks / 4;
    for (at = 0; at < n; at += len, goal += len) {
      len = n - at < 8192 ? n - at : 8192;
      len = insert (&m, at, len, unwritten, goal);
      assert_int_equal (m.pblk[at], goal);
    }
    check_lengths (&m, n);
    compare (&m);
    /* All of it into the other state and back, in two directions. */
    for (at = 0; at < n; at += len) {
      len = n - at < MAP_MAX_INSERT ? n - at : MAP_MAX_INSERT;
      convert (&m, at, len);
    }
    check_lengths (&m, n);
    for (at = n; at > 0; at -= len) {
      len = at < 10000 ? at : 10000;
      convert (&m, at - len, len);
    }
    check_lengths (&m, n);
    compare (&m);
    model_free (&m);
  }
}

/* What is in the tree, the counts and the cache does not change when a
 * split gets fewer blocks than it needs.
 */
static void
test_no_space_for_split (void **state)
{
  struct model m;
  struct reservation r;
  struct ext2_inode_large before;
  uint64_t free_before, promised, i;
  uint64_t next;
  unsigned have;

  (void) state;
  model_init (&m, "-t ext4 -b 1024", UINT64_C (16) << 20, 2000, 1024);
  for (i = 0; i < PER_NODE * 4; i++)
    insert (&m, 4 * i, 3, false, 0);
  assert_int_equal (depth (&m), 1);
  assert_int_equal (tree_blocks (&m), 4);

  /* The root and all leaves are full: two more blocks are needed. */
  for (have = 0; have < 2; have++) {
    lock (&m);
    assert_ok (alloc_reserve (m.fs, NULL, 0, have, &r));
    memcpy (&before, m.inode->raw, sizeof before);
    free_before = ext2fs_free_blocks_count (m.fs->e2->super);
    promised = m.fs->alloc.promised;
    assert_int_equal (map_remove (m.inode, 9, 10, &r, &next),
                      EXT2_ET_BLOCK_ALLOC_FAIL);
    assert_int_equal (map_convert (m.inode, 4 * 100 + 1, 1, MAP_UNWRITTEN,
                                   &r), EXT2_ET_BLOCK_ALLOC_FAIL);
    assert_memory_equal (&before, m.inode->raw, sizeof before);
    assert_int_equal (ext2fs_free_blocks_count (m.fs->e2->super),
                      free_before);
    assert_int_equal (m.fs->alloc.promised, promised);
    alloc_release (m.fs, &r);
    unlock (&m);
    compare (&m);
  }
  reopen (&m);
  compare (&m);
  remove_range (&m, 9, 10);
  assert_int_equal (depth (&m), 2);
  assert_int_equal (tree_blocks (&m), 6);
  compare (&m);
  model_free (&m);
}

/* The search within a node, against looking at all entries. */
#define MOST 340

static unsigned
count_up_to (const uint64_t *keys, unsigned n, uint64_t lblk)
{
  unsigned i;

  for (i = 0; i < n && keys[i] <= lblk; i++)
    ;
  return i;
}

static void
test_search (void **state)
{
  union {
    struct ext3_extent_header eh;
    struct ext3_extent leaf[MOST + 1];
  } u = { .eh = { .eh_magic = ext2fs_cpu_to_le16 (EXT3_EXT_MAGIC) } };
  const uint64_t gaps[] = { 1, 2, 50, 100000 };
  uint64_t keys[MOST], lblk;
  struct rng rng = { 3 };
  unsigned round, n, i;

  for (round = 0; round < image_scale (2000); round++) {
    uint64_t gap = gaps[rng_below (&rng, 4)], key = rng_below (&rng, 3);

    n = rng_below (&rng, MOST + 1);
    for (i = 0; i < n; i++) {
      /* Even, or with some far away from the others. */
      keys[i] = key;
      u.leaf[i + 1].ee_block = ext2fs_cpu_to_le32 (key);
      key += 1 + rng_below (&rng, gap);
      if (rng_below (&rng, 200) == 0)
        key += 5000000;
    }
    u.eh.eh_entries = ext2fs_cpu_to_le16 (n);
    for (i = 0; i < 200; i++) {
      lblk = rng_below (&rng, 2) && n > 0
        ? keys[rng_below (&rng, n)] + rng_below (&rng, 3) - 1
        : rng_below (&rng, key + 2);
      if (lblk < UINT32_MAX)
        assert_int_equal (node_search (&u.eh, lblk),
                          count_up_to (keys, n, lblk));
    }
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_search),
    cmocka_unit_test (test_random),
    cmocka_unit_test (test_grow_and_shrink),
    cmocka_unit_test (test_neighbour_gives_up),
    cmocka_unit_test (test_append_fills_leaves),
    cmocka_unit_test (test_lengths),
    cmocka_unit_test (test_no_space_for_split),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* lib/hints.c, with the extent trees and the cache that it leads to, in all
 * executions (explore.h): a lookup finds what the tree says at that time,
 * by a hint or without one; whatever has been evicted, changed, moved, freed,
 * and become another file's, since and meanwhile.
 */

#include <config.h>

#include "explore-cache.h"

#include "extent-node.c"

/* For hints.c, whose hints thus get a name. */
static void *
new_hints (size_t size)
{
  void *h = explore_alloc (size, true);

  explore_name (h, size, "slot");
  return h;
}

#undef calloc
#define calloc(n, size) new_hints ((n) * (size))
#define make hints_make         /* there are others */
#include "hints.c"
#define claim claim_table
#include "indirect.c"

/* Files A and B have a tree of a root and one leaf, C is mapped by tables.  A
 * leaf or table says that its first block is at 100 times its own place in
 * block_number, and the next ones follow.
 */
enum { LEAF_A, LEAF_B, NEW_LEAF_A, TABLE_C };
#define PLACE(leaf) (UINT64_C (100) * ((leaf) + 1))

static struct filesystem fs;
static struct inode a, b, c;
static struct ext2_inode_large raw[3];
static struct struct_ext2_filsys e2;
static struct ext2_super_block super;
static uint64_t place_a;        /* [MAP of A] of its first block; 0: none */

bool
filesystem_valid_data (const struct filesystem *f, uint64_t blk, uint64_t n)
{
  return true;
}

void
log_error (const char *format, ...)
{
  explore_fail ("logged: %s", format);
}

/* What only changes of a file mapped by tables need. */

#define NOT_USED(result, name, ...)                                     \
  result name (__VA_ARGS__) { explore_fail ("not part of the scenario"); }

NOT_USED (void, alloc_begin_free, struct filesystem *f)
NOT_USED (errcode_t, alloc_prepare_free, struct filesystem *f, uint64_t blk,
          uint64_t len)
NOT_USED (errcode_t, alloc_check_tree_block, struct filesystem *f,
          uint64_t blk)
NOT_USED (void, alloc_free_later, struct filesystem *f, uint64_t blk,
          uint64_t len)
NOT_USED (void, alloc_free_tree_block, struct filesystem *f, uint64_t blk)
NOT_USED (uint64_t, alloc_freeable, struct filesystem *f, uint64_t blk,
          uint64_t len, unsigned *groups)
NOT_USED (errcode_t, map_new_block, struct inode *inode,
          struct reservation *r, struct mbuf **mbp)
NOT_USED (void, map_undo_new_block, struct inode *inode,
          struct reservation *r, struct mbuf *mb)
NOT_USED (errcode_t, ext2fs_iblk_add_blocks, ext2_filsys f,
          struct ext2_inode *inode, blk64_t n)
NOT_USED (errcode_t, ext2fs_iblk_sub_blocks, ext2_filsys f,
          struct ext2_inode *inode, blk64_t n)

__u32
ext2fs_crc32c_le (__u32 crc, const unsigned char *p, size_t len)
{
  return 0;
}

static errcode_t
device_block (uint8_t *data, uint64_t blkno)
{
  struct ext3_extent_header *eh = (void *) data;
  struct ext3_extent *ex = (void *) (eh + 1);
  uint32_t *pointer = (void *) data;
  unsigned leaf, i;

  for (leaf = LEAF_A; leaf <= LEAF_B; leaf++)
    if (blkno == block_number (leaf)) {
      eh->eh_magic = ext2fs_cpu_to_le16 (EXT3_EXT_MAGIC);
      eh->eh_entries = ext2fs_cpu_to_le16 (1);
      eh->eh_max = ext2fs_cpu_to_le16 (node_block_capacity (&fs));
      ex->ee_len = ext2fs_cpu_to_le16 (8);
      ex->ee_start = ext2fs_cpu_to_le32 ((uint32_t) PLACE (leaf));
    }
  if (blkno == block_number (TABLE_C))
    for (i = 0; i < BLOCK / 4; i++)
      pointer[i] = ext2fs_cpu_to_le32 (PLACE (TABLE_C) + i);
  return 0;
}

/* A tree of a root and one leaf; or, with NO_LEAF, an empty root. */
#define NO_LEAF 99

static void
set_root (struct inode *inode, unsigned leaf)
{
  struct ext3_extent_header *eh = node_root (inode);
  struct ext3_extent_idx *ix = (void *) (eh + 1);

  eh->eh_magic = ext2fs_cpu_to_le16 (EXT3_EXT_MAGIC);
  eh->eh_max = ext2fs_cpu_to_le16 (4);
  eh->eh_entries = ext2fs_cpu_to_le16 (leaf != NO_LEAF);
  eh->eh_depth = ext2fs_cpu_to_le16 (leaf != NO_LEAF);
  if (leaf != NO_LEAF)
    ix->ei_leaf = ext2fs_cpu_to_le32 ((uint32_t) block_number (leaf));
}

/* LBLK's place, 0 for a hole.  Locks: INODE's MAP. */
static uint64_t
find (struct inode *inode, uint64_t lblk)
{
  uint64_t place = 0;
  struct leaf leaf;
  struct entry e;
  unsigned i;

  if (leaf_find (inode, lblk, &leaf) != 0)
    explore_fail ("a lookup failed");
  i = leaf_search (&leaf, lblk);
  if (i > 0) {
    leaf_get (&leaf, i - 1, &e);
    if (lblk < e.lblk + e.len)
      place = e.pblk + (lblk - e.lblk);
  }
  if (leaf.mb)
    mcache_unpin (cache, leaf.mb);
  return place;
}

static void
look_up_a (void)
{
  lock_note_acquire (LOCK_MAP);
  spread_lock_shared (&a.map_lock);
  explore_check (find (&a, 3) == (place_a ? place_a + 3 : 0));
  spread_unlock_shared (&a.map_lock);
  lock_note_release (LOCK_MAP);
}

/* Block 15 is in the table, as are all from 12 on. */
static void
look_up_c (void)
{
  struct mapping m;

  lock_note_acquire (LOCK_MAP);
  spread_lock_shared (&c.map_lock);
  explore_check (indirect_lookup (&c, 15, 1, &m) == 0);
  explore_check (m.state == MAP_WRITTEN && m.pblk == PLACE (TABLE_C) + 3);
  spread_unlock_shared (&c.map_lock);
  lock_note_release (LOCK_MAP);
}

/* As a commit, or whoever looks for a goal. */
static void
look_up_a_with_fs (void)
{
  lock_acquire (&fs_lock);
  explore_check (find (&a, 3) == (place_a ? place_a + 3 : 0));
  lock_release (&fs_lock);
}

static void
look_up_b (void)
{
  lock_note_acquire (LOCK_MAP);
  spread_lock_shared (&b.map_lock);
  explore_check (find (&b, 3) == PLACE (LEAF_B) + 3);
  spread_unlock_shared (&b.map_lock);
  lock_note_release (LOCK_MAP);
}

static void
read_another (void)
{
  struct mbuf *mb;

  if (mcache_read (cache, block_number (20), &mb) != 0)
    explore_fail ("reading failed");
  mcache_unpin (cache, mb);
}

static void
setup_inode (struct inode *inode, unsigned n, unsigned leaf)
{
  memset (inode, 0, sizeof *inode);
  memset (&raw[n], 0, sizeof raw[n]);
  inode->fs = &fs;
  inode->ino = 12 + n;
  inode->size = 8 * BLOCK;
  inode->raw = &raw[n];
  set_root (inode, leaf);
  explore_name (&inode->hints, sizeof inode->hints, "hints");
  explore_name (&inode->map_lock, sizeof inode->map_lock,
                n == 0 ? "MAP of A" : n == 1 ? "MAP of B" : "MAP of C");
}

static struct mbuf *first_cached;       /* [constant] the next to be evicted */

static void
setup_with (unsigned cached)
{
  e2.super = &super;
  fs.e2 = &e2;
  fs.block_size = BLOCK;
  setup_inode (&a, 0, LEAF_A);
  setup_inode (&b, 1, LEAF_B);
  setup_inode (&c, 2, NO_LEAF);
  raw[2].i_block[EXT2_IND_BLOCK] = (uint32_t) block_number (TABLE_C);
  place_a = PLACE (LEAF_A);
  explore_name (&place_a, sizeof place_a, "place_a");
  first_cached = setup_cache (block_number (cached));
  fs.mc = cache;
}

/* Nothing has been looked up yet; and the leaf of A not even read. */
static void setup (void) { setup_with (LEAF_A); }

static void
setup_without (void)
{
  setup_with (20);
  a.hints = hints_make (&a);
}

/* A's leaf has been looked up before, but will be the next to be evicted. */
static void
setup_hinted (void)
{
  setup ();
  look_up_a ();
  explore_check (atomic_load (&a.hints->slot[0]) == first_cached);
  atomic_store (&first_cached->used, false);
}

/* The same of C's table. */
static void
setup_table_hinted (void)
{
  setup_with (TABLE_C);
  look_up_c ();
  explore_check (atomic_load (&c.hints->slot[0]) == first_cached);
  atomic_store (&first_cached->used, false);
}

/* And B has a hint that leads there too, from earlier days. */
static void
setup_hinted_twice (void)
{
  setup_hinted ();
  hints_note (&b, 3, first_cached);
  explore_check (atomic_load (&b.hints->slot[0]) == first_cached);
}

/* What happens meanwhile. */

static void
evict_and_look_up_b (void)
{
  read_another ();
  look_up_b ();
}

static void
evict_and_look_up_a (void)
{
  read_another ();
  look_up_a ();
}

static void
begin_change (void)
{
  lock_note_acquire (LOCK_MAP);
  spread_lock_exclusive (&a.map_lock);
  lock_acquire (&fs_lock);
}

static void
end_change (void)
{
  lock_release (&fs_lock);
  spread_unlock_exclusive (&a.map_lock);
  lock_note_release (LOCK_MAP);
}

static void
write_leaf (struct node *n)
{
  const struct entry e[] = {
    { .lblk = 0, .len = 2, .pblk = 700 }, { .lblk = 3, .len = 1, .pblk = 803 },
  };

  node_write (n, e, 2);
  place_a = 800;
}

/* The leaf gets other entries. */
static void
change_a (void)
{
  struct node n;

  begin_change ();
  if (node_read (&a, block_number (LEAF_A), 0, 0, 100, &n) != 0 ||
      mcache_dirty (cache, n.mb, MCLASS_TREE, false) != 0)
    explore_fail ("a change failed");
  write_leaf (&n);
  mcache_unpin (cache, n.mb);
  end_change ();
}

/* The tree gets another leaf. */
static void
move_a (void)
{
  struct mbuf *mb;
  struct node n;

  begin_change ();
  mcache_forget (cache, block_number (LEAF_A));
  if (mcache_new_block (cache, block_number (NEW_LEAF_A), &mb) != 0)
    explore_fail ("a change failed");
  node_init (&a, &n, mb, 0);
  write_leaf (&n);
  mcache_unpin (cache, mb);
  set_root (&a, NEW_LEAF_A);
  end_change ();
}

/* The leaf is freed, and its buffer becomes another file's. */
static void
free_a (void)
{
  begin_change ();
  mcache_forget (cache, block_number (LEAF_A));
  set_root (&a, NO_LEAF);
  place_a = 0;
  end_change ();
}

static void
free_a_and_look_up_b (void)
{
  free_a ();
  look_up_b ();
}

static void
evict_and_look_up_c (void)
{
  read_another ();
  look_up_c ();
}

static void
look_up_c_twice (void)
{
  look_up_c ();
  look_up_c ();
}

static void
look_up_a_twice (void)
{
  look_up_a ();
  look_up_a ();
}

static const struct explore_scenario first = {
  "hints: first looked up by two at once", setup,
  { look_up_a_twice, look_up_a_with_fs }, check_cache,
};

static const struct explore_scenario first_read = {
  "hints: first read by two at once", setup_without,
  { look_up_a, look_up_a }, check_cache,
};

static const struct explore_scenario evicted = {
  "hints: looked up while it is evicted, and comes back", setup_hinted,
  { look_up_a, evict_and_look_up_a }, check_cache,
};

static const struct explore_scenario stolen = {
  "hints: looked up while it becomes another file's", setup_hinted,
  { look_up_a, evict_and_look_up_b }, check_cache,
};

static const struct explore_scenario changed = {
  "hints: looked up by two while it changes", setup_hinted,
  { look_up_a, look_up_a_with_fs, change_a }, check_cache,
};

static const struct explore_scenario moved = {
  "hints: looked up while the tree gets another leaf", setup_hinted,
  { look_up_a_twice, move_a }, check_cache,
};

static const struct explore_scenario freed = {
  "hints: looked up while it is freed, and becomes another file's",
  setup_hinted, { look_up_a_twice, free_a_and_look_up_b }, check_cache,
};

static const struct explore_scenario stale = {
  "hints: freed while another file has a hint to it", setup_hinted_twice,
  { look_up_b, look_up_a, free_a }, check_cache,
};

static const struct explore_scenario table = {
  "hints: a table first looked up by two at once", setup,
  { look_up_c_twice, look_up_c }, check_cache,
};

static const struct explore_scenario table_evicted = {
  "hints: a table looked up while it is evicted, and comes back",
  setup_table_hinted, { look_up_c, evict_and_look_up_c }, check_cache,
};

/* Long ones. */

static const struct explore_scenario three = {
  "hints: looked up by two while it is evicted", setup_hinted,
  { look_up_a, look_up_a_with_fs, read_another }, check_cache,
};

static const struct explore_scenario whims = {
  "hints: looked up while it is evicted, and comes back; with whims",
  setup_hinted, { look_up_a_twice, evict_and_look_up_a }, check_cache, 1,
};

#define N(array) (sizeof array / sizeof array[0])
#define SC memory_order_seq_cst
#define ACQ memory_order_acquire
#define REL memory_order_release
#define RLX memory_order_relaxed

int
main (int argc, char *argv[])
{
  static const struct explore_mutation wrong_first[] = {
    { "hints", EXPLORE_LOAD, ACQ, RLX },
    { "hints", EXPLORE_CAS, SC, RLX },
    { "maps", EXPLORE_LOAD, ACQ, RLX },
    { "maps", EXPLORE_STORE, REL, RLX },
  };
  static const struct explore_mutation wrong_slot[] = {
    { "slot", EXPLORE_LOAD, ACQ, RLX },
    { "slot", EXPLORE_STORE, REL, RLX },
  };
  static const struct explore_mutation wrong_reuse[] = {
    { "maps", EXPLORE_LOAD, ACQ, RLX },
    { "maps", EXPLORE_STORE, REL, RLX },
    { "maps", EXPLORE_STORE, SC, EXPLORE_OMIT },        /* mbuf_new */
    { "pins", EXPLORE_CAS, ACQ, RLX },
    { "pins", EXPLORE_STORE, REL, RLX },
    { "pins", EXPLORE_RMW, SC, RLX },
  };
  static const struct explore_mutation wrong_owner[] = {
    { "owner", EXPLORE_STORE, SC, EXPLORE_OMIT },       /* mbuf_new */
    { "pins", EXPLORE_CAS, ACQ, RLX },
    { "pins", EXPLORE_STORE, REL, RLX },
    { "pins", EXPLORE_RMW, SC, RLX },
  };
  bool ok = true;

  ok &= explore_all (&first, wrong_first, N (wrong_first));
  ok &= explore_all (&first_read, wrong_slot, N (wrong_slot));
  ok &= explore_all (&evicted, wrong_reuse, N (wrong_reuse));
  ok &= explore_all (&stolen, wrong_owner, N (wrong_owner));
  ok &= explore_all (&changed, NULL, 0);
  ok &= explore_all (&moved, NULL, 0);
  ok &= explore_all (&freed, NULL, 0);
  ok &= explore_all (&stale, NULL, 0);
  ok &= explore_all (&table, NULL, 0);
  ok &= explore_all (&table_evicted, NULL, 0);
  if (argc > 1) {
    ok &= explore_all (&whims, NULL, 0);
    ok &= explore_all (&three, NULL, 0);
  }
  return ok ? 0 : 1;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* ext4 extent trees: lookup and editing.
 *
 * Notes on the design.  libext2fs has an extent handle for this; it is
 * not used because it ignores errors of its own writes, cannot be rolled
 * back when an allocation fails halfway, and rereads and linearly scans
 * every level.  Here one function, extent_edit, does every change, one
 * leaf at a time: it takes the leaf's entries apart, builds the new list
 * with neighbours merged, and puts it back, splitting upwards if it has
 * outgrown its block.  Whatever can fail (allocating tree blocks,
 * memory, reading) happens before the first byte is changed.
 *
 * Invariants of a tree, checked when a block is first read, and after
 * every edit in debug builds:
 *   1. Entries of a node are in ascending order and do not overlap.
 *   2. An index entry's key is the first logical block below it.
 *   3. All below an index entry is less than the next entry's key.
 *   4. Only the root may have no entries.
 *
 * Format: struct ext3_extent_header and friends in ext3_extents.h;
 * numbers are little-endian on disk, also in the inode's i_block.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ext2fs/ext2fs.h>
#include <ext2fs/ext3_extents.h>

#include "errors.h"
#include "extent.h"

/* The kernel's limit (EXT4_MAX_EXTENT_DEPTH). */
#define MAX_DEPTH 5

#define MAX_LBLK (UINT64_C (1) << 32)

struct node {
  struct mbuf *mb;              /* NULL: the root, in the inode */
  struct ext3_extent_header *eh;
  unsigned at;                  /* index node: entry followed */
};

/* From the root (0) to a leaf (depth). */
struct path {
  struct node node[MAX_DEPTH + 1];
  unsigned depth;
  uint64_t lo, hi;              /* logical blocks the leaf covers */
};

/* An extent in host form. */
struct entry {
  uint64_t lblk, pblk;
  uint32_t len;
  bool unwritten;
};

/* Access to the on-disk form. */

static unsigned
entries (const struct ext3_extent_header *eh)
{
  return ext2fs_le16_to_cpu (eh->eh_entries);
}

static void
set_entries (struct ext3_extent_header *eh, unsigned n)
{
  eh->eh_entries = ext2fs_cpu_to_le16 (n);
}

static unsigned
capacity (const struct ext3_extent_header *eh)
{
  return ext2fs_le16_to_cpu (eh->eh_max);
}

static unsigned
depth_of (const struct ext3_extent_header *eh)
{
  return ext2fs_le16_to_cpu (eh->eh_depth);
}

static struct ext3_extent *
leaf_entry (struct ext3_extent_header *eh, unsigned i)
{
  return EXT_FIRST_EXTENT (eh) + i;
}

static struct ext3_extent_idx *
index_entry (struct ext3_extent_header *eh, unsigned i)
{
  return EXT_FIRST_INDEX (eh) + i;
}

static uint64_t
index_key (struct ext3_extent_header *eh, unsigned i)
{
  return ext2fs_le32_to_cpu (index_entry (eh, i)->ei_block);
}

static uint64_t
index_child (struct ext3_extent_header *eh, unsigned i)
{
  const struct ext3_extent_idx *ix = index_entry (eh, i);

  return (uint64_t) ext2fs_le16_to_cpu (ix->ei_leaf_hi) << 32
    | ext2fs_le32_to_cpu (ix->ei_leaf);
}

static void
set_index (struct ext3_extent_header *eh, unsigned i, uint64_t key,
           uint64_t child)
{
  struct ext3_extent_idx *ix = index_entry (eh, i);

  ix->ei_block = ext2fs_cpu_to_le32 ((uint32_t) key);
  ix->ei_leaf = ext2fs_cpu_to_le32 ((uint32_t) child);
  ix->ei_leaf_hi = ext2fs_cpu_to_le16 ((uint16_t) (child >> 32));
  ix->ei_unused = 0;
}

static void
get_entry (struct ext3_extent_header *eh, unsigned i, struct entry *e)
{
  const struct ext3_extent *ex = leaf_entry (eh, i);
  uint32_t len = ext2fs_le16_to_cpu (ex->ee_len);

  e->lblk = ext2fs_le32_to_cpu (ex->ee_block);
  e->pblk = (uint64_t) ext2fs_le16_to_cpu (ex->ee_start_hi) << 32
    | ext2fs_le32_to_cpu (ex->ee_start);
  e->unwritten = len > EXT_INIT_MAX_LEN;
  e->len = e->unwritten ? len - EXT_INIT_MAX_LEN : len;
}

static void
set_entry (struct ext3_extent_header *eh, unsigned i, const struct entry *e)
{
  struct ext3_extent *ex = leaf_entry (eh, i);

  ex->ee_block = ext2fs_cpu_to_le32 ((uint32_t) e->lblk);
  ex->ee_len = ext2fs_cpu_to_le16 (e->len + (e->unwritten
                                             ? EXT_INIT_MAX_LEN : 0));
  ex->ee_start = ext2fs_cpu_to_le32 ((uint32_t) e->pblk);
  ex->ee_start_hi = ext2fs_cpu_to_le16 ((uint16_t) (e->pblk >> 32));
}

static struct ext3_extent_header *
root_of (struct inode *inode)
{
  return (struct ext3_extent_header *) inode->raw->i_block;
}

static unsigned
block_capacity (const struct filesystem *fs)
{
  return (fs->block_size - sizeof (struct ext3_extent_header))
    / sizeof (struct ext3_extent);
}

/* Checksums of tree blocks: crc32c seeded with the inode's number and
 * generation, in the tail after the last possible entry.
 */

static uint32_t *
tail_of (struct ext3_extent_header *eh)
{
  return (uint32_t *) (leaf_entry (eh, capacity (eh)));
}

static uint32_t
block_csum (struct inode *inode, struct ext3_extent_header *eh)
{
  return ext2fs_crc32c_le (inode->csum_seed, (unsigned char *) eh,
                           (char *) tail_of (eh) - (char *) eh);
}

static void
set_csum (struct inode *inode, struct node *n)
{
  if (n->mb && ext2fs_has_feature_metadata_csum (inode->fs->e2->super))
    *tail_of (n->eh) = ext2fs_cpu_to_le32 (block_csum (inode, n->eh));
}

/* Checking (inv 1 to 4). */

static errcode_t
corrupt (struct inode *inode, uint64_t blkno, const char *what)
{
  log_error ("inode %u: extent tree block %llu: %s: run e2fsck",
             (unsigned) inode->ino, (unsigned long long) blkno, what);
  return EXT2_FILSYS_CORRUPTED;
}

static const char *
check_leaf (struct inode *inode, struct ext3_extent_header *eh, uint64_t lo,
            uint64_t hi)
{
  unsigned i;
  struct entry e;

  for (i = 0; i < entries (eh); i++) {
    get_entry (eh, i, &e);
    if (e.len == 0)
      return "an extent has no length";
    if (e.lblk < lo || e.lblk + e.len > hi)
      return "extents overlap, are out of order or out of range";
    if (!filesystem_valid_data (inode->fs, e.pblk, e.len))
      return "an extent maps blocks that are not file data";
    lo = e.lblk + e.len;
  }
  return NULL;
}

static const char *
check_index (struct inode *inode, struct ext3_extent_header *eh, uint64_t lo,
             uint64_t hi)
{
  unsigned i;

  if (entries (eh) == 0)
    return "an index is empty";
  for (i = 0; i < entries (eh); i++) {
    uint64_t key = index_key (eh, i);

    if (key < lo || key >= hi)
      return "index entries are out of order or out of range";
    if (!filesystem_valid_data (inode->fs, index_child (eh, i), 1))
      return "an index entry points at a block that cannot be its child";
    lo = key + 1;
  }
  return NULL;
}

static const char *
check_node (struct inode *inode, struct ext3_extent_header *eh,
            unsigned most, unsigned depth, uint64_t lo, uint64_t hi)
{
  if (ext2fs_le16_to_cpu (eh->eh_magic) != EXT3_EXT_MAGIC)
    return "bad magic number";
  if (depth_of (eh) != depth)
    return "wrong depth";
  if (capacity (eh) > most || capacity (eh) + 2 < most ||
      entries (eh) > capacity (eh))
    return "impossible number of entries";
  return depth > 0 ? check_index (inode, eh, lo, hi)
    : check_leaf (inode, eh, lo, hi);
}

errcode_t
extent_check_root (struct inode *inode)
{
  struct ext3_extent_header *eh = root_of (inode);
  unsigned most = (sizeof inode->raw->i_block - sizeof *eh)
    / sizeof (struct ext3_extent);
  const char *why;

  if (depth_of (eh) > MAX_DEPTH)
    why = "too deep";
  else
    why = check_node (inode, eh, most, depth_of (eh), 0, MAX_LBLK);
  return why ? corrupt (inode, 0, why) : 0;
}

static errcode_t
read_node (struct inode *inode, uint64_t blkno, unsigned depth, uint64_t lo,
           uint64_t hi, struct node *n)
{
  struct filesystem *fs = inode->fs;
  const char *why = NULL;
  errcode_t err;

  err = mcache_read (fs->mc, blkno, &n->mb);
  if (err)
    return err;
  n->eh = (struct ext3_extent_header *) n->mb->data;
  if (atomic_load_explicit (&n->mb->verified, memory_order_acquire)
      != inode->ino) {
    why = check_node (inode, n->eh, block_capacity (fs), depth, lo, hi);
    if (!why && ext2fs_has_feature_metadata_csum (fs->e2->super) &&
        ext2fs_le32_to_cpu (*tail_of (n->eh)) != block_csum (inode, n->eh))
      why = "wrong checksum";
    if (!why)
      atomic_store_explicit (&n->mb->verified, inode->ino,
                             memory_order_release);
  }
  /* The same block reached a second way (a hostile image) is verified,
   * but perhaps not for this depth.
   */
  else if (depth_of (n->eh) != depth)
    why = "wrong depth";
  if (why) {
    mcache_unpin (fs->mc, n->mb);
    n->mb = NULL;
    return corrupt (inode, blkno, why);
  }
  return 0;
}

/* Searching. */

/* The last index entry whose key is <= LBLK, or the first. */
static unsigned
search_index (struct ext3_extent_header *eh, uint64_t lblk)
{
  unsigned lo = 1, hi = entries (eh);

  while (lo < hi) {
    unsigned mid = lo + (hi - lo) / 2;

    if (index_key (eh, mid) <= lblk)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo - 1;
}

/* Number of leaf entries that start at or before LBLK. */
static unsigned
search_leaf (struct ext3_extent_header *eh, uint64_t lblk)
{
  unsigned lo = 0, hi = entries (eh);

  while (lo < hi) {
    unsigned mid = lo + (hi - lo) / 2;

    if (ext2fs_le32_to_cpu (leaf_entry (eh, mid)->ee_block) <= lblk)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

static void
path_release (struct inode *inode, struct path *p)
{
  unsigned i;

  for (i = 1; i <= p->depth; i++)
    if (p->node[i].mb)
      mcache_unpin (inode->fs->mc, p->node[i].mb);
}

static errcode_t
path_find (struct inode *inode, uint64_t lblk, struct path *p)
{
  unsigned level;
  errcode_t err;

  memset (p, 0, sizeof *p);
  p->node[0].eh = root_of (inode);
  p->depth = depth_of (p->node[0].eh);
  p->lo = 0;
  p->hi = MAX_LBLK;
  for (level = 0; level < p->depth; level++) {
    struct node *n = &p->node[level];

    n->at = search_index (n->eh, lblk);
    if (n->at > 0)
      p->lo = index_key (n->eh, n->at);
    if (n->at + 1 < entries (n->eh))
      p->hi = index_key (n->eh, n->at + 1);
    err = read_node (inode, index_child (n->eh, n->at),
                     p->depth - level - 1, p->lo, p->hi,
                     &p->node[level + 1]);
    if (err) {
      path_release (inode, p);
      return err;
    }
  }
  return 0;
}

errcode_t
extent_lookup (struct inode *inode, uint64_t lblk, struct mapping *m)
{
  struct ext3_extent_header *eh;
  struct path p;
  struct entry e, next;
  unsigned i;
  errcode_t err;

  if (lblk >= MAX_LBLK)
    return EINVAL;
  err = path_find (inode, lblk, &p);
  if (err)
    return err;
  eh = p.node[p.depth].eh;
  i = search_leaf (eh, lblk);

  m->lblk = lblk;
  m->state = MAP_HOLE;
  m->pblk = 0;
  if (i > 0) {
    get_entry (eh, i - 1, &e);
    if (lblk < e.lblk + e.len) {
      m->state = e.unwritten ? MAP_UNWRITTEN : MAP_WRITTEN;
      m->pblk = e.pblk + (lblk - e.lblk);
      m->len = e.lblk + e.len - lblk;
    }
  }
  if (m->state == MAP_HOLE) {
    if (i < entries (eh)) {
      get_entry (eh, i, &next);
      m->len = next.lblk - lblk;
    }
    else
      m->len = p.hi - lblk;
  }
  else {
    /* An extent holds 32768 blocks at most: go on while the next one
     * continues it.
     */
    for (; i < entries (eh); i++) {
      get_entry (eh, i, &next);
      if (next.lblk != lblk + m->len || next.pblk != m->pblk + m->len ||
          next.unwritten != e.unwritten)
        break;
      m->len += next.len;
    }
  }
  path_release (inode, &p);
  return m->len > 0 ? 0 : corrupt (inode, 0, "extents overlap");
}

bool
extent_goal (struct inode *inode, uint64_t lblk, uint64_t *goal)
{
  struct ext3_extent_header *eh;
  struct path p;
  struct entry e;
  unsigned i;
  bool found;

  if (path_find (inode, lblk, &p) != 0)
    return false;
  eh = p.node[p.depth].eh;
  i = search_leaf (eh, lblk);
  found = entries (eh) > 0;
  if (found) {
    get_entry (eh, i > 0 ? i - 1 : 0, &e);
    found = lblk >= e.lblk || e.pblk > e.lblk - lblk;
    *goal = e.pblk + lblk - e.lblk;
  }
  path_release (inode, &p);
  return found;
}

/* Editing. */

struct entry_list {
  struct entry *e;
  unsigned n;
};

static void
append (struct entry_list *l, const struct entry *e)
{
  struct entry *last = l->n > 0 ? &l->e[l->n - 1] : NULL;
  uint32_t most = e->unwritten ? EXT_UNINIT_MAX_LEN : EXT_INIT_MAX_LEN;

  if (e->len == 0)
    return;
  if (last && last->lblk + last->len == e->lblk &&
      last->pblk + last->len == e->pblk && last->unwritten == e->unwritten &&
      last->len + e->len <= most)
    last->len += e->len;
  else
    l->e[l->n++] = *e;
}

/* The leaf's entries with [START, END) replaced by NEW (NULL: by
 * nothing).  What is dropped goes to DROPPED.  OUT and DROPPED have room
 * for the leaf's entries and three more.  Returns the place of NEW.
 */
static unsigned
build_list (struct ext3_extent_header *eh, uint64_t start, uint64_t end,
            const struct entry *new, struct entry_list *out,
            struct entry_list *dropped)
{
  bool placed = new == NULL;
  unsigned i, place = 0;
  struct entry e, part;

  for (i = 0; i < entries (eh); i++) {
    uint64_t e_end, cut;

    get_entry (eh, i, &e);
    e_end = e.lblk + e.len;
    if (e.lblk < start) {
      part = e;
      part.len = (e_end < start ? e_end : start) - e.lblk;
      append (out, &part);
    }
    cut = e.lblk > start ? e.lblk : start;
    if (cut < e_end && cut < end) {
      part = e;
      part.lblk = cut;
      part.pblk += cut - e.lblk;
      part.len = (e_end < end ? e_end : end) - cut;
      dropped->e[dropped->n++] = part;
    }
    if (!placed && e_end > start) {
      append (out, new);
      place = out->n;
      placed = true;
    }
    if (e_end > end) {
      cut = e.lblk > end ? e.lblk : end;
      part = e;
      part.lblk = cut;
      part.pblk += cut - e.lblk;
      part.len = e_end - cut;
      append (out, &part);
    }
  }
  if (!placed) {
    append (out, new);
    place = out->n;
  }
  return place;
}

static void
init_header (struct ext3_extent_header *eh, unsigned most, unsigned depth)
{
  memset (eh, 0, sizeof *eh);
  eh->eh_magic = ext2fs_cpu_to_le16 (EXT3_EXT_MAGIC);
  eh->eh_max = ext2fs_cpu_to_le16 (most);
  eh->eh_depth = ext2fs_cpu_to_le16 (depth);
}

static void
write_leaf (struct inode *inode, struct node *n, const struct entry *e,
            unsigned count)
{
  unsigned i;

  for (i = 0; i < count; i++)
    set_entry (n->eh, i, &e[i]);
  set_entries (n->eh, count);
  set_csum (inode, n);
}

/* New tree blocks for one edit: taken before anything is changed. */
struct new_blocks {
  struct mbuf *mb[MAX_DEPTH + 2];
  unsigned n, used;
};

static void
new_blocks_undo (struct inode *inode, struct new_blocks *nb,
                 struct reservation *r)
{
  unsigned i;

  for (i = 0; i < nb->n; i++) {
    uint64_t blkno = nb->mb[i]->blkno;

    mcache_unpin (inode->fs->mc, nb->mb[i]);
    alloc_untake_meta (inode->fs, r, blkno);
  }
  nb->n = 0;
}

static errcode_t
new_blocks_take (struct inode *inode, unsigned count, uint64_t goal,
                 struct reservation *r, struct new_blocks *nb)
{
  struct filesystem *fs = inode->fs;
  errcode_t err = 0;
  uint64_t blk;

  while (nb->n < count) {
    struct mbuf *mb;

    err = alloc_take_meta (fs, r, goal, &blk);
    if (err)
      break;
    err = mcache_zeroed (fs->mc, blk, &mb);
    if (err) {
      alloc_untake_meta (fs, r, blk);
      break;
    }
    nb->mb[nb->n++] = mb;
    err = mcache_dirty (fs->mc, mb, MCLASS_TREE, true);
    if (err)
      break;
    goal = blk + 1;
  }
  if (err)
    new_blocks_undo (inode, nb, r);
  return err;
}

static struct node
new_node (struct inode *inode, struct new_blocks *nb, unsigned depth)
{
  struct node n = { .mb = nb->mb[nb->used++] };

  n.eh = (struct ext3_extent_header *) n.mb->data;
  init_header (n.eh, block_capacity (inode->fs), depth);
  atomic_store (&n.mb->verified, inode->ino);
  return n;
}

/* How many new blocks a leaf that has outgrown its node needs: one a
 * level up to the first node with room, or one more to lower the root.
 */
static unsigned
blocks_to_split (const struct path *p)
{
  unsigned need = 1, level;

  if (p->depth == 0)
    return 1;
  for (level = p->depth; level-- > 0; need++)
    if (entries (p->node[level].eh) < capacity (p->node[level].eh))
      return need;
  return need;
}

static void
insert_index_at (struct inode *inode, struct node *n, unsigned pos,
                 uint64_t key, uint64_t child)
{
  unsigned count = entries (n->eh);

  memmove (index_entry (n->eh, pos + 1), index_entry (n->eh, pos),
           (count - pos) * sizeof (struct ext3_extent_idx));
  set_index (n->eh, pos, key, child);
  set_entries (n->eh, count + 1);
  set_csum (inode, n);
}

/* The root is full: move its entries into a new block below it. */
static struct node
lower_root (struct inode *inode, struct new_blocks *nb)
{
  struct ext3_extent_header *root = root_of (inode);
  struct node n = new_node (inode, nb, depth_of (root));

  memcpy (index_entry (n.eh, 0), index_entry (root, 0),
          entries (root) * sizeof (struct ext3_extent_idx));
  set_entries (n.eh, entries (root));
  set_csum (inode, &n);

  root->eh_depth = ext2fs_cpu_to_le16 (depth_of (root) + 1);
  set_index (root, 0, index_key (n.eh, 0), n.mb->blkno);
  set_entries (root, 1);
  return n;
}

/* Add (KEY, CHILD) behind the entry that the path follows at LEVEL. */
static void
insert_index (struct inode *inode, struct path *p, unsigned level,
              uint64_t key, uint64_t child, struct new_blocks *nb)
{
  struct node *n = &p->node[level];
  unsigned pos = n->at + 1, count = entries (n->eh), split;
  struct node right;

  if (count < capacity (n->eh)) {
    insert_index_at (inode, n, pos, key, child);
    return;
  }
  if (level == 0) {
    right = lower_root (inode, nb);
    insert_index_at (inode, &right, pos, key, child);
    return;
  }
  /* Growing at the end is the rule: leave the left one full then. */
  split = pos == count ? count : count / 2;
  right = new_node (inode, nb, depth_of (n->eh));
  memcpy (index_entry (right.eh, 0), index_entry (n->eh, split),
          (count - split) * sizeof (struct ext3_extent_idx));
  set_entries (right.eh, count - split);
  set_entries (n->eh, split);
  if (pos >= split)
    insert_index_at (inode, &right, pos - split, key, child);
  else
    insert_index_at (inode, n, pos, key, child);
  set_csum (inode, n);
  set_csum (inode, &right);
  insert_index (inode, p, level - 1, index_key (right.eh, 0),
                right.mb->blkno, nb);
}

/* The first logical block under the path's node at LEVEL is now KEY:
 * keep the keys above it exact (inv 2).
 */
static void
fix_keys (struct inode *inode, struct path *p, unsigned level, uint64_t key)
{
  while (level-- > 0) {
    struct node *n = &p->node[level];

    if (index_key (n->eh, n->at) == key)
      return;
    index_entry (n->eh, n->at)->ei_block
      = ext2fs_cpu_to_le32 ((uint32_t) key);
    set_csum (inode, n);
    if (n->at > 0)
      return;
  }
}

/* Blocks dropped from the tree itself, recorded until nothing can fail. */
struct tree_change {
  uint64_t freed[MAX_DEPTH + 1];
  unsigned nfreed;
};

/* The path's leaf is empty: take it, and indexes emptied thereby, out. */
static void
remove_leaf (struct inode *inode, struct path *p, struct tree_change *tc)
{
  unsigned level = p->depth;

  while (level > 0) {
    struct node *parent = &p->node[level - 1];
    unsigned count = entries (parent->eh);

    tc->freed[tc->nfreed++] = p->node[level].mb->blkno;
    memmove (index_entry (parent->eh, parent->at),
             index_entry (parent->eh, parent->at + 1),
             (count - parent->at - 1) * sizeof (struct ext3_extent_idx));
    set_entries (parent->eh, count - 1);
    set_csum (inode, parent);
    level--;
    if (count > 1) {
      if (parent->at == 0)
        fix_keys (inode, p, level, index_key (parent->eh, 0));
      return;
    }
  }
  /* Nothing is left: the root becomes an empty leaf. */
  root_of (inode)->eh_depth = 0;
}

/* While the root has a single child whose entries fit into it, take
 * them in.  A child that cannot be read stays: this is tidiness.
 */
static void
collapse_root (struct inode *inode, struct tree_change *tc)
{
  struct ext3_extent_header *root = root_of (inode);
  struct node child;

  while (depth_of (root) > 0 && entries (root) == 1 &&
         tc->nfreed < MAX_DEPTH + 1) {
    if (read_node (inode, index_child (root, 0), depth_of (root) - 1, 0,
                   MAX_LBLK, &child) != 0)
      return;
    if (entries (child.eh) > capacity (root)) {
      mcache_unpin (inode->fs->mc, child.mb);
      return;
    }
    tc->freed[tc->nfreed++] = child.mb->blkno;
    memcpy (leaf_entry (root, 0), leaf_entry (child.eh, 0),
            entries (child.eh) * sizeof (struct ext3_extent));
    set_entries (root, entries (child.eh));
    root->eh_depth = child.eh->eh_depth;
    mcache_unpin (inode->fs->mc, child.mb);
  }
}

/* OUT does not fit into the path's leaf: two leaves.  PLACE is where the
 * new entry went.
 */
static void
split_leaf (struct inode *inode, struct path *p, const struct entry_list *out,
            unsigned place, struct new_blocks *nb)
{
  struct node *leaf = &p->node[p->depth];
  unsigned left;
  struct node right;

  if (p->depth == 0) {
    right = new_node (inode, nb, 0);
    write_leaf (inode, &right, out->e, out->n);
    leaf->eh->eh_depth = ext2fs_cpu_to_le16 (1);
    set_index (leaf->eh, 0, out->e[0].lblk, right.mb->blkno);
    set_entries (leaf->eh, 1);
    return;
  }
  left = place == out->n ? capacity (leaf->eh) : out->n / 2;
  right = new_node (inode, nb, 0);
  write_leaf (inode, &right, out->e + left, out->n - left);
  write_leaf (inode, leaf, out->e, left);
  fix_keys (inode, p, p->depth, out->e[0].lblk);
  insert_index (inode, p, p->depth - 1, out->e[left].lblk, right.mb->blkno,
                nb);
}

static errcode_t
dirty_path (struct inode *inode, struct path *p)
{
  unsigned i;
  errcode_t err;

  for (i = 1; i <= p->depth; i++) {
    err = mcache_dirty (inode->fs->mc, p->node[i].mb, MCLASS_TREE, false);
    if (err)
      return err;
  }
  return 0;
}

static void
account (struct inode *inode, const struct new_blocks *nb,
         const struct tree_change *tc, const struct entry_list *dropped,
         bool free_old)
{
  struct filesystem *fs = inode->fs;
  struct ext2_inode *raw = (struct ext2_inode *) inode->raw;
  unsigned i;

  ext2fs_iblk_add_blocks (fs->e2, raw, nb->used);
  for (i = 0; i < tc->nfreed; i++) {
    ext2fs_iblk_sub_blocks (fs->e2, raw, 1);
    mcache_forget (fs->mc, tc->freed[i]);
    /* Room for these was made before. */
    alloc_free_later (fs, tc->freed[i], 1);
  }
  for (i = 0; free_old && i < dropped->n; i++) {
    ext2fs_iblk_sub_blocks (fs->e2, raw, dropped->e[i].len);
    alloc_free_later (fs, dropped->e[i].pblk, dropped->e[i].len);
  }
}

#ifdef EXT2_DEBUG_CHECKS
static void
check_edit (struct inode *inode, uint64_t lblk)
{
  struct path p;
  unsigned i;

  assert (extent_check_root (inode) == 0);
  assert (path_find (inode, lblk, &p) == 0);
  for (i = 1; i <= p.depth; i++) {
    assert (check_node (inode, p.node[i].eh, block_capacity (inode->fs),
                        p.depth - i, 0, MAX_LBLK) == NULL);
    assert (entries (p.node[i].eh) > 0);
  }
  if (p.depth > 0) {            /* inv 2 for the leaf */
    struct entry e;
    struct node *parent = &p.node[p.depth - 1];

    get_entry (p.node[p.depth].eh, 0, &e);
    assert (e.lblk == index_key (parent->eh, parent->at));
  }
  path_release (inode, &p);
}
#endif

/* Does the edit leave the leaf as it is? */
static bool
same_entries (struct ext3_extent_header *eh, const struct entry_list *l)
{
  struct entry e;
  unsigned i;

  if (entries (eh) != l->n)
    return false;
  for (i = 0; i < l->n; i++) {
    get_entry (eh, i, &e);
    if (e.lblk != l->e[i].lblk || e.len != l->e[i].len ||
        e.pblk != l->e[i].pblk || e.unwritten != l->e[i].unwritten)
      return false;
  }
  return true;
}

errcode_t
extent_edit (struct inode *inode, uint64_t start, uint64_t end,
             enum map_state state, uint64_t pblk, bool free_old,
             struct reservation *r, uint64_t *next)
{
  struct entry new = {
    .lblk = start, .pblk = pblk, .unwritten = state == MAP_UNWRITTEN,
  };
  struct entry_list out = { 0 }, dropped = { 0 };
  struct new_blocks nb = { .n = 0 };
  struct tree_change tc = { .nfreed = 0 };
  struct ext3_extent_header *eh;
  struct path p;
  unsigned place;
  errcode_t err;

  lock_assert_held (LOCK_MAP);
  lock_assert_held (LOCK_FS);
  err = path_find (inode, start, &p);
  if (err)
    return err;
  if (end > p.hi)
    end = p.hi;
  *next = end;
  new.len = end - start;
  assert (state == MAP_HOLE || end - start <= MAP_MAX_INSERT);

  eh = p.node[p.depth].eh;
  out.e = calloc ((size_t) entries (eh) * 2 + 6, sizeof *out.e);
  if (out.e == NULL) {
    err = ENOMEM;
    goto out;
  }
  dropped.e = out.e + entries (eh) + 3;
  place = build_list (eh, start, end, state == MAP_HOLE ? NULL : &new, &out,
                      &dropped);
  if (same_entries (eh, &out))
    goto out;

  /* All that can fail. */
  err = alloc_pending_room (inode->fs, dropped.n + MAX_DEPTH + 1);
  if (!err)
    err = dirty_path (inode, &p);
  if (!err && out.n > capacity (eh) && blocks_to_split (&p) > MAX_DEPTH)
    err = EFBIG;                /* full down to the deepest level */
  if (!err && out.n > capacity (eh))
    err = new_blocks_take (inode, blocks_to_split (&p),
                           p.depth > 0 ? p.node[p.depth].mb->blkno
                           : out.e[0].pblk, r, &nb);
  if (err)
    goto out;

  /* Nothing from here on can. */
  if (out.n > capacity (eh))
    split_leaf (inode, &p, &out, place, &nb);
  else {
    write_leaf (inode, &p.node[p.depth], out.e, out.n);
    if (out.n > 0)
      fix_keys (inode, &p, p.depth, out.e[0].lblk);
    else if (p.depth > 0)
      remove_leaf (inode, &p, &tc);
  }
  if (nb.used == 0)
    collapse_root (inode, &tc);
  if (depth_of (root_of (inode)) == 0)
    memset (leaf_entry (root_of (inode), entries (root_of (inode))), 0,
            (capacity (root_of (inode)) - entries (root_of (inode)))
            * sizeof (struct ext3_extent));
  account (inode, &nb, &tc, &dropped, free_old);
  assert (nb.used == nb.n);

 out:
  path_release (inode, &p);
  while (nb.n > 0)
    mcache_unpin (inode->fs->mc, nb.mb[--nb.n]);
  free (out.e);
#ifdef EXT2_DEBUG_CHECKS
  if (!err)
    check_edit (inode, start);
#endif
  return err;
}

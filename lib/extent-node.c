/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Nodes of ext4 extent trees. */

#include <config.h>

#include <string.h>

#include "errors.h"
#include "extent-node.h"
#include "hints.h"

static const struct ext3_extent *
leaf_entry (const struct ext3_extent_header *eh, unsigned i)
{
  return (const struct ext3_extent *) (eh + 1) + i;
}

static const struct ext3_extent_idx *
index_entry (const struct ext3_extent_header *eh, unsigned i)
{
  return (const struct ext3_extent_idx *) (eh + 1) + i;
}

/* Of an entry of either kind: ee_block and ei_block are both the first
 * field.
 */
static uint64_t
key (const struct ext3_extent *entry, unsigned i)
{
  return ext2fs_le32_to_cpu (entry[i].ee_block);
}

uint64_t
node_key (const struct ext3_extent_header *eh, unsigned i)
{
  return key (leaf_entry (eh, 0), i);
}

/* The child that index entry I leads to. */
static uint64_t
index_child (const struct ext3_extent_header *eh, unsigned i)
{
  const struct ext3_extent_idx *ix = index_entry (eh, i);

  return (uint64_t) ext2fs_le16_to_cpu (ix->ei_leaf_hi) << 32
    | ext2fs_le32_to_cpu (ix->ei_leaf);
}

static void
get_extent (const struct ext3_extent *ex, struct entry *e)
{
  uint32_t len = ext2fs_le16_to_cpu (ex->ee_len);

  e->lblk = ext2fs_le32_to_cpu (ex->ee_block);
  e->pblk = (uint64_t) ext2fs_le16_to_cpu (ex->ee_start_hi) << 32
    | ext2fs_le32_to_cpu (ex->ee_start);
  e->unwritten = len > EXT_INIT_MAX_LEN;
  e->len = e->unwritten ? len - EXT_INIT_MAX_LEN : len;
}

void
node_get (const struct ext3_extent_header *eh, unsigned i, struct entry *e)
{
  if (node_depth (eh) == 0)
    get_extent (leaf_entry (eh, i), e);
  else {
    memset (e, 0, sizeof *e);
    e->lblk = node_key (eh, i);
    e->pblk = index_child (eh, i);
  }
}

void
leaf_get (const struct leaf *leaf, unsigned i, struct entry *e)
{
  get_extent (&leaf->entry[i], e);
}

static void
set_leaf (struct ext3_extent *ex, const struct entry *e)
{
  ex->ee_block = ext2fs_cpu_to_le32 ((uint32_t) e->lblk);
  ex->ee_len = ext2fs_cpu_to_le16 (e->len + (e->unwritten
                                             ? EXT_INIT_MAX_LEN : 0));
  ex->ee_start = ext2fs_cpu_to_le32 ((uint32_t) e->pblk);
  ex->ee_start_hi = ext2fs_cpu_to_le16 ((uint16_t) (e->pblk >> 32));
}

static void
set_index (struct ext3_extent_idx *ix, const struct entry *e)
{
  ix->ei_block = ext2fs_cpu_to_le32 ((uint32_t) e->lblk);
  ix->ei_leaf = ext2fs_cpu_to_le32 ((uint32_t) e->pblk);
  ix->ei_leaf_hi = ext2fs_cpu_to_le16 ((uint16_t) (e->pblk >> 32));
  ix->ei_unused = 0;
}

unsigned
node_block_capacity (const struct filesystem *fs)
{
  return (fs->block_size - sizeof (struct ext3_extent_header))
    / sizeof (struct ext3_extent);
}

/* Checksums of tree blocks: crc32c seeded with the inode's number and
 * generation, in the tail after the last possible entry.  The one of a
 * node in the cache counts only while the node is as it was read: what
 * has been changed gets its checksum on the way to the device.
 */

static const uint32_t *
tail_of (const struct ext3_extent_header *eh)
{
  return (const uint32_t *) leaf_entry (eh, node_capacity (eh));
}

static uint32_t
block_csum (const struct ext3_extent_header *eh, uint32_t seed)
{
  return ext2fs_crc32c_le (seed, (const unsigned char *) eh,
                           (const char *) tail_of (eh) - (const char *) eh);
}

#define SEALED (UINT64_C (1) << 32)

/* What can be looked up in the node without those above it, if it is a
 * leaf: from its first extent to the end of its last.
 */
static void
set_maps (struct mbuf *mb, const struct ext3_extent_header *eh)
{
  const unsigned n = node_depth (eh) == 0 ? node_entries (eh) : 0;
  uint64_t maps = 0;
  struct entry last;

  if (n > 0) {
    node_get (eh, n - 1, &last);
    maps = hints_maps (node_key (eh, 0), last.lblk + last.len);
  }
  atomic_store_explicit (&mb->entries, n, memory_order_relaxed);
  /* Others may take a hint from here on, if we have MAP shared. */
  atomic_store_explicit (&mb->maps, maps, memory_order_release);
}

/* The node, which is as it ought to be, becomes the inode's, unless it is
 * another's.  Nothing is said of it before that.  It is not changed while
 * we have MAP or FS, so there is time to say how to seal it.
 */
static bool
claim (struct inode *inode, struct mbuf *mb)
{
  uint32_t owner = 0;

  if (!atomic_compare_exchange_strong (&mb->owner, &owner, inode->ino))
    return owner == inode->ino;
  if (ext2fs_has_feature_metadata_csum (inode->fs->e2->super))
    atomic_store (&mb->seal, SEALED | inode->csum_seed);
  set_maps (mb, (const void *) mb->data);
  return true;
}

void
node_seal (uint8_t *block, uint64_t seal)
{
  const struct ext3_extent_header *eh = (const void *) block;
  uint32_t csum = ext2fs_cpu_to_le32 (block_csum (eh, (uint32_t) seal));

  memcpy (block + ((const uint8_t *) tail_of (eh) - block), &csum,
          sizeof csum);
}

void
node_write (struct node *n, const struct entry *e, unsigned count)
{
  struct ext3_extent *leaf = (struct ext3_extent *) (n->eh + 1);
  unsigned i, most = node_capacity (n->eh);

  assert (count <= most);
  for (i = 0; i < count; i++) {
    if (node_depth (n->eh) > 0)
      set_index ((struct ext3_extent_idx *) &leaf[i], &e[i]);
    else
      set_leaf (&leaf[i], &e[i]);
  }
  memset (&leaf[count], 0, (most - count) * sizeof *leaf);
  n->eh->eh_entries = ext2fs_cpu_to_le16 (count);
  if (n->mb)
    set_maps (n->mb, n->eh);
}

void
node_init (struct inode *inode, struct node *n, struct mbuf *mb,
           unsigned depth)
{
  n->mb = mb;
  n->eh = (void *) mb->data;
  n->at = 0;
  memset (n->eh, 0, sizeof *n->eh);
  n->eh->eh_magic = ext2fs_cpu_to_le16 (EXT3_EXT_MAGIC);
  n->eh->eh_max = ext2fs_cpu_to_le16 (node_block_capacity (inode->fs));
  n->eh->eh_depth = ext2fs_cpu_to_le16 (depth);
  claim (inode, mb);            /* a new block has no owner */
}

/* Checking. */

errcode_t
node_corrupt (struct inode *inode, uint64_t blkno, const char *what)
{
  log_error ("inode %u: extent tree block %llu: %s: run e2fsck",
             (unsigned) inode->ino, (unsigned long long) blkno, what);
  return EXT2_FILSYS_CORRUPTED;
}

#define OTHERS "it belongs to another inode as well"

static const char *
check_leaf (struct inode *inode, const struct ext3_extent_header *eh,
            uint64_t lo, uint64_t hi)
{
  unsigned i;
  struct entry e;

  for (i = 0; i < node_entries (eh); i++) {
    node_get (eh, i, &e);
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
check_index (struct inode *inode, const struct ext3_extent_header *eh,
             uint64_t lo, uint64_t hi)
{
  unsigned i;
  struct entry e;

  if (node_entries (eh) == 0)
    return "an index is empty";
  for (i = 0; i < node_entries (eh); i++) {
    node_get (eh, i, &e);
    if (e.lblk < lo || e.lblk >= hi)
      return "index entries are out of order or out of range";
    if (!filesystem_valid_data (inode->fs, e.pblk, 1))
      return "an index entry points at a block that cannot be its child";
    lo = e.lblk + 1;
  }
  return NULL;
}

const char *
node_check (struct inode *inode, const struct ext3_extent_header *eh,
            unsigned most, unsigned depth, uint64_t lo, uint64_t hi)
{
  if (ext2fs_le16_to_cpu (eh->eh_magic) != EXT3_EXT_MAGIC)
    return "bad magic number";
  if (node_depth (eh) != depth)
    return "wrong depth";
  if (node_capacity (eh) > most || node_capacity (eh) + 2 < most ||
      node_entries (eh) > node_capacity (eh))
    return "impossible number of entries";
  return depth > 0 ? check_index (inode, eh, lo, hi)
    : check_leaf (inode, eh, lo, hi);
}

/* A node that has been verified before: is it one for this place?  (In
 * a hostile image two index entries can lead to it.)
 */
static const char *
check_place (const struct ext3_extent_header *eh, unsigned depth,
             uint64_t lo, uint64_t hi)
{
  struct entry last;

  if (node_depth (eh) != depth)
    return "wrong depth";
  if (node_entries (eh) == 0)
    return NULL;
  node_get (eh, node_entries (eh) - 1, &last);
  if (node_key (eh, 0) < lo || last.lblk + last.len > hi || last.lblk >= hi)
    return "it is reached by two ways";
  return NULL;
}

static const char *
check_new (struct inode *inode, struct mbuf *mb, unsigned depth, uint64_t lo,
           uint64_t hi)
{
  const struct ext3_extent_header *eh = (const void *) mb->data;
  const char *why = node_check (inode, eh, node_block_capacity (inode->fs),
                                depth, lo, hi);

  if (!why && ext2fs_has_feature_metadata_csum (inode->fs->e2->super) &&
      ext2fs_le32_to_cpu (*tail_of (eh)) != block_csum (eh, inode->csum_seed))
    why = "wrong checksum";
  return why || claim (inode, mb) ? why : OTHERS;
}

errcode_t
node_read (struct inode *inode, uint64_t blkno, unsigned depth, uint64_t lo,
           uint64_t hi, struct node *n)
{
  struct filesystem *fs = inode->fs;
  const char *why;
  uint32_t owner;
  errcode_t err;

  err = mcache_read (fs->mc, blkno, &n->mb);
  if (err)
    return err;
  n->eh = (void *) n->mb->data;
  n->at = 0;
  owner = atomic_load_explicit (&n->mb->owner, memory_order_acquire);
  if (owner == inode->ino)
    why = check_place (n->eh, depth, lo, hi);
  else if (owner == 0)
    why = check_new (inode, n->mb, depth, lo, hi);
  else
    why = OTHERS;
  if (why) {
    mcache_unpin (fs->mc, n->mb);
    n->mb = NULL;
    return node_corrupt (inode, blkno, why);
  }
  return 0;
}

/* Searching. */

/* A binary search jumps all over a node, at the cost of a cache miss each
 * time; but the entries of a large fragmented file are spread evenly as a
 * rule.  So look first where LBLK should be, and double the steps from
 * there until it is between *LO and *HI: never worse than twice the
 * binary search.  Entry *LO, with key FIRST, is at or before LBLK; *HI, or
 * the end of all, is after it, as END is.
 */
static void
narrow (const struct ext3_extent *entry, uint64_t lblk, uint64_t first,
        uint64_t end, unsigned *lo, unsigned *hi)
{
  unsigned at = *lo + (lblk - first) * (*hi - *lo) / (end - first);
  unsigned step = 1;

  if (key (entry, at) <= lblk) {
    *lo = at;
    while (at + step < *hi && key (entry, at + step) <= lblk) {
      *lo = at + step;
      step *= 2;
    }
    if (at + step < *hi)
      *hi = at + step;
  }
  else {
    *hi = at;
    while (at - *lo > step && key (entry, at - step) > lblk) {
      *hi = at - step;
      step *= 2;
    }
    if (at - *lo > step)
      *lo = at - step;
  }
}

/* From so many entries on, which take several cache lines. */
#define NARROW_FROM 32

/* Of COUNT entries, > 0, the number of those whose key is <= LBLK.  FIRST
 * is the key of the first, END is greater than that of the last.
 */
static unsigned
search (const struct ext3_extent *entry, unsigned count, uint64_t first,
        uint64_t end, uint64_t lblk)
{
  unsigned lo = 0, hi = count;

  if (lblk < first)
    return 0;
  if (lblk >= end)
    return count;
  if (count >= NARROW_FROM)
    narrow (entry, lblk, first, end, &lo, &hi);
  while (lo < hi) {
    unsigned mid = lo + (hi - lo) / 2;

    if (key (entry, mid) <= lblk)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

unsigned
node_search (const struct ext3_extent_header *eh, uint64_t lblk)
{
  const unsigned n = node_entries (eh);

  return n == 0 ? 0 : search (leaf_entry (eh, 0), n, node_key (eh, 0),
                              node_key (eh, n - 1) + 1, lblk);
}

unsigned
leaf_search (const struct leaf *leaf, uint64_t lblk)
{
  return leaf->count == 0 ? 0 : search (leaf->entry, leaf->count,
                                        leaf->first, leaf->end, lblk);
}

/* The index entry to follow: the last whose key is <= LBLK, or the first. */
static unsigned
search_index (const struct ext3_extent_header *eh, uint64_t lblk)
{
  unsigned n = node_search (eh, lblk);

  return n > 0 ? n - 1 : 0;
}

void
path_release (struct inode *inode, struct path *p)
{
  unsigned i;

  for (i = 1; i <= p->depth; i++)
    if (p->node[i].mb)
      mcache_unpin (inode->fs->mc, p->node[i].mb);
}

/* On the hot path: sets no more of *P than it uses. */
errcode_t
path_find (struct inode *inode, uint64_t lblk, struct path *p)
{
  unsigned level;
  errcode_t err;

  p->node[0].mb = NULL;
  p->node[0].eh = node_root (inode);
  p->node[0].at = 0;
  p->depth = node_depth (p->node[0].eh);
  p->lo = 0;
  p->hi = EXTENT_MAX_LBLK;
  for (level = 0; level < p->depth; level++) {
    struct node *n = &p->node[level];

    n->at = search_index (n->eh, lblk);
    if (n->at > 0)
      p->lo = node_key (n->eh, n->at);
    if (n->at + 1 < node_entries (n->eh))
      p->hi = node_key (n->eh, n->at + 1);
    err = node_read (inode, index_child (n->eh, n->at),
                     p->depth - level - 1, p->lo, p->hi, n + 1);
    if (err) {
      p->depth = level;         /* so far there is something to release */
      path_release (inode, p);
      return err;
    }
  }
  return 0;
}

/* All from the buffer, not from the node's header or its ends. */
static void
leaf_of_hint (struct leaf *leaf, struct mbuf *mb)
{
  const struct ext3_extent_header *eh = (const void *) mb->data;

  leaf->mb = mb;
  leaf->entry = leaf_entry (eh, 0);
  leaf->count = atomic_load_explicit (&mb->entries, memory_order_relaxed);
  leaf->first = hints_first (mb);
  leaf->end = leaf->hi = hints_end (mb);
}

static void
leaf_of_path (struct leaf *leaf, const struct path *p)
{
  const struct ext3_extent_header *eh = p->node[p->depth].eh;

  leaf->mb = p->node[p->depth].mb;
  leaf->entry = leaf_entry (eh, 0);
  leaf->count = node_entries (eh);
  if (leaf->count > 0) {
    leaf->first = node_key (eh, 0);
    leaf->end = node_key (eh, leaf->count - 1) + 1;
  }
  leaf->hi = p->hi;
}

errcode_t
leaf_find (struct inode *inode, uint64_t lblk, struct leaf *leaf)
{
  struct mbuf *mb = hints_find (inode, lblk);
  struct path p;
  errcode_t err;

  if (mb) {
    leaf_of_hint (leaf, mb);
    return 0;
  }
  err = path_find (inode, lblk, &p);
  if (err)
    return err;
  leaf_of_path (leaf, &p);
  p.node[p.depth].mb = NULL;    /* LEAF's now */
  path_release (inode, &p);
  if (leaf->mb)
    hints_note (inode, lblk, leaf->mb);
  return 0;
}

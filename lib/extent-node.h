/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Nodes of ext4 extent trees: the on-disk form, checks, and the path
 * from the root to a leaf.  For extent.c and extent-edit.c.
 *
 * Format: struct ext3_extent_header and friends in ext3_extents.h;
 * numbers are little-endian on disk, also in the inode's i_block.
 *
 * Invariants of a tree, checked when a block is first read, and after
 * every edit in debug builds:
 *   1. Entries of a node are in ascending order and do not overlap.
 *   2. An index entry's key is the first logical block below it.
 *   3. All below an index entry is less than the next entry's key.
 *   4. Only the root may have no entries.
 *
 * Locks: MAP (exclusively for what changes something), or FS.
 */

#ifndef EXT2SERVE_EXTENT_NODE_H
#define EXT2SERVE_EXTENT_NODE_H

#include <ext2fs/ext2fs.h>
#include <ext2fs/ext3_extents.h>

#include "inode.h"

/* The kernel's limit (EXT4_MAX_EXTENT_DEPTH). */
#define EXTENT_MAX_DEPTH 5

#define EXTENT_MAX_LBLK (UINT64_C (1) << 32)

struct node {
  struct mbuf *mb;              /* NULL: the root, in the inode */
  struct ext3_extent_header *eh;
  unsigned at;                  /* index node: entry followed */
};

/* From the root (0) to a leaf (depth). */
struct path {
  struct node node[EXTENT_MAX_DEPTH + 1];
  unsigned depth;
  uint64_t lo, hi;              /* logical blocks the leaf covers */
};

/* What a lookup needs of a leaf.  If it comes from a hint, nothing of this
 * has been read from the leaf: that would be more cache lines.
 */
struct leaf {
  struct mbuf *mb;              /* pinned; NULL: the root */
  const struct ext3_extent *entry;
  unsigned count;               /* of entries; with none, only HI is set */
  uint64_t first;               /* key of the first */
  uint64_t end;                 /* greater than that of the last */
  uint64_t hi;                  /* it says nothing from here on */
};

/* An entry in host form: an extent, or in an index node the key (lblk)
 * and the child (pblk).
 */
struct entry {
  uint64_t lblk, pblk;
  uint32_t len;
  bool unwritten;
};

static inline unsigned
node_entries (const struct ext3_extent_header *eh)
{
  return ext2fs_le16_to_cpu (eh->eh_entries);
}

static inline unsigned
node_capacity (const struct ext3_extent_header *eh)
{
  return ext2fs_le16_to_cpu (eh->eh_max);
}

static inline unsigned
node_depth (const struct ext3_extent_header *eh)
{
  return ext2fs_le16_to_cpu (eh->eh_depth);
}

static inline struct ext3_extent_header *
node_root (struct inode *inode)
{
  return (struct ext3_extent_header *) inode->raw->i_block;
}

/* Entry I of a node in host form. */
extern void node_get (const struct ext3_extent_header *eh, unsigned i,
                      struct entry *e);

extern void leaf_get (const struct leaf *leaf, unsigned i, struct entry *e);

/* First logical block of entry I, of either kind. */
extern uint64_t node_key (const struct ext3_extent_header *eh, unsigned i);

/* Gives N these COUNT entries, which fit. */
extern void node_write (struct node *n, const struct entry *e,
                        unsigned count);

/* Gives BLOCK, a copy of a node on its way to the device, its checksum.
 * SEAL is mbuf.seal, not 0.  Locks: none.
 */
extern void node_seal (uint8_t *block, uint64_t seal);

/* Makes N an empty node of this depth, in the zeroed block MB. */
extern void node_init (struct inode *inode, struct node *n, struct mbuf *mb,
                       unsigned depth);

/* Number of entries whose first logical block is LBLK or before. */
extern unsigned node_search (const struct ext3_extent_header *eh,
                             uint64_t lblk);
extern unsigned leaf_search (const struct leaf *leaf, uint64_t lblk);

/* Reads and checks block BLKNO, a node of this depth which covers
 * [LO, HI).  Unpin N->mb after use.
 */
extern errcode_t node_read (struct inode *inode, uint64_t blkno,
                            unsigned depth, uint64_t lo, uint64_t hi,
                            struct node *n);

/* What is wrong with a node, NULL if nothing.  MOST is the capacity of
 * its block.
 */
extern const char *node_check (struct inode *inode,
                               const struct ext3_extent_header *eh,
                               unsigned most, unsigned depth, uint64_t lo,
                               uint64_t hi);
extern unsigned node_block_capacity (const struct filesystem *fs);

/* Logs, and returns the error. */
extern errcode_t node_corrupt (struct inode *inode, uint64_t blkno,
                               const char *what);

/* The path to the leaf that covers LBLK, its blocks pinned. */
extern errcode_t path_find (struct inode *inode, uint64_t lblk,
                            struct path *p);
extern void path_release (struct inode *inode, struct path *p);

/* The leaf that covers LBLK, by a hint if there is one.  Unpin after use
 * what is pinned.
 */
extern errcode_t leaf_find (struct inode *inode, uint64_t lblk,
                            struct leaf *leaf);

#endif /* EXT2SERVE_EXTENT_NODE_H */

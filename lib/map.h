/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* From file offset to device offset: one view of extent trees and
 * indirect blocks.
 *
 * The map that is searched is the tree itself, in the metadata cache:
 * bounded and evictable with it, 12 bytes an extent (4 a block for
 * indirect blocks), and never out of step with what is on disk.
 */

#ifndef EXT2SERVE_MAP_H
#define EXT2SERVE_MAP_H

#include "inode.h"

enum map_state { MAP_HOLE, MAP_UNWRITTEN, MAP_WRITTEN };

struct mapping {
  uint64_t lblk;                /* logical block asked for */
  uint64_t len;                 /* blocks from there on in one state and
                                   (unless a hole) contiguous; >= 1 */
  uint64_t pblk;                /* physical block of LBLK */
  uint64_t before;              /* blocks before LBLK, at least, that are in
                                   the same state and contiguous */
  enum map_state state;
};

/* Longest range for map_insert at LBLK: fits one extent, or one table of
 * pointers.
 */
#define MAP_MAX_INSERT 32767u
extern uint32_t map_max_insert (struct inode *inode, uint64_t lblk);

/* Tree blocks that one call of map_insert, map_convert or map_remove may
 * need at most, ever and as the tree is now.
 */
#define MAP_MAX_META 12
extern uint32_t map_meta_needed (struct inode *inode);

/* Looks up LBLK.  The length stops at the end of the leaf at the latest,
 * so ask again; and may stop after MOST blocks, >= 1, but is also longer
 * where that costs nothing.  Locks: MAP, or FS.
 */
extern errcode_t map_lookup (struct inode *inode, uint64_t lblk,
                             uint64_t most, struct mapping *m);

/* Maps the hole [LBLK, LBLK+LEN) to PBLK on, in STATE; *DONE blocks of it
 * were done, also when an error is returned.  R pays for tree blocks.
 * Does not write the inode back: call inode_write after it.
 * Locks: MAP exclusively and FS, for this and those below.
 */
extern errcode_t map_insert (struct inode *inode, uint64_t lblk,
                             uint32_t len, uint64_t pblk,
                             enum map_state state, struct reservation *r,
                             uint32_t *done);

/* [LBLK, LBLK+LEN), all mapped, becomes STATE.  Part of it may have been
 * done when an error is returned.  For this and the next: taking written
 * blocks away needs INODE exclusively for them as well.
 */
extern errcode_t map_convert (struct inode *inode, uint64_t lblk,
                              uint32_t len, enum map_state state,
                              struct reservation *r);

/* Unmaps blocks from START on, but none from END on, within one leaf of
 * the tree; *NEXT says where to go on.  Freed blocks are passed to
 * alloc_free_later.
 */
extern errcode_t map_remove (struct inode *inode, uint64_t start,
                             uint64_t end, struct reservation *r,
                             uint64_t *next);

/* Where a straight line from its neighbours leads for LBLK, a hole: true
 * if one of them is in LBLK's window of that size; else from others, or
 * from the inode's group.  A file filled at random comes to lie in order
 * if each block goes there.
 * Locks: FS.
 */
extern bool map_line (struct inode *inode, uint64_t lblk, uint32_t window,
                      uint64_t *pblk);

/* Blocks of the file and its tree lie before this one; 0: anywhere. */
extern uint64_t map_limit (const struct inode *inode);

/* For extent-edit.c and indirect.c: a new tree block out of R, pinned,
 * zeroed and in the running set; and its undoing.
 * Locks: MAP exclusively and FS.
 */
extern errcode_t map_new_block (struct inode *inode, struct reservation *r,
                                struct mbuf **mbp);
extern void map_undo_new_block (struct inode *inode, struct reservation *r,
                                struct mbuf *mb);

#endif /* EXT2SERVE_MAP_H */

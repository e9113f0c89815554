/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* ext4 extent trees: see map.h for what the functions do. */

#ifndef EXT2SERVE_EXTENT_H
#define EXT2SERVE_EXTENT_H

#include "map.h"

/* Checks the root in the inode. */
extern errcode_t extent_check_root (struct inode *inode);

/* Levels below the root. */
extern unsigned extent_depth (struct inode *inode);

extern errcode_t extent_lookup (struct inode *inode, uint64_t lblk,
                                struct mapping *m);

/* Where LBLK, a hole, would lie if the file continued in a straight line
 * from the extent before it in the same leaf, or the one after it, if
 * possible from one within the WINDOW blocks that begin at FIRST: *INSIDE
 * then.  False if there is none.
 */
extern bool extent_goal (struct inode *inode, uint64_t lblk, uint64_t first,
                         uint32_t window, uint64_t *goal, bool *inside);

/* Makes [START, END) of the leaf that covers START: PBLK on in STATE, or
 * a hole (MAP_HOLE), freeing what it drops if FREE_OLD.  *NEXT is where
 * the leaf's part of the range ended.  Nothing has changed when an error
 * is returned.
 */
extern errcode_t extent_edit (struct inode *inode, uint64_t start,
                              uint64_t end, enum map_state state,
                              uint64_t pblk, bool free_old,
                              struct reservation *r, uint64_t *next);

#endif /* EXT2SERVE_EXTENT_H */

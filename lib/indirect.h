/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Block-mapped files (ext2, ext3): direct, indirect, double and triple
 * indirect blocks; see map.h for what the functions do.
 */

#ifndef EXT2SERVE_INDIRECT_H
#define EXT2SERVE_INDIRECT_H

#include "map.h"

/* Logical blocks that can be addressed at all. */
extern uint64_t indirect_max_blocks (const struct filesystem *fs);

/* Pointers from LBLK's on in the table that holds it. */
extern uint32_t indirect_table_left (const struct filesystem *fs,
                                     uint64_t lblk);

extern errcode_t indirect_lookup (struct inode *inode, uint64_t lblk,
                                  uint64_t most, struct mapping *m);

/* As extent_goal; nothing is read for it, so what is not in the cache is
 * no neighbour.
 */
extern bool indirect_goal (struct inode *inode, uint64_t lblk,
                           uint64_t first, uint32_t window, uint64_t *goal,
                           bool *inside);

/* Within the table of pointers that holds LBLK: *DONE blocks, which can
 * be less than LEN without an error.
 */
extern errcode_t indirect_insert (struct inode *inode, uint64_t lblk,
                                  uint32_t len, uint64_t pblk,
                                  struct reservation *r, uint32_t *done);

extern errcode_t indirect_remove (struct inode *inode, uint64_t start,
                                  uint64_t end, uint64_t *next);

#endif /* EXT2SERVE_INDIRECT_H */

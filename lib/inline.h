/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Files whose data are in the inode itself (inline_data): the first 60
 * bytes in i_block, the rest in the value of the attribute system.data.
 *
 * libext2fs's calls for these are not used: some corrupt in 1.47.0, and
 * rewriting all attributes to change a few bytes of one that stays as
 * long as it is, as it does, is asking for trouble.  A file that does
 * not grow can be patched in place.
 */

#ifndef EXT2SERVE_INLINE_H
#define EXT2SERVE_INLINE_H

#include "inode.h"

/* Sets INODE->inline_bytes.  A file can be longer than that: the rest
 * reads as zeros.
 */
extern void inline_measure (struct inode *inode);

/* Locks: MAP, or FS. */
extern errcode_t inline_read (struct inode *inode, void *buf,
                              uint64_t count, uint64_t offset);

/* BUF NULL writes zeros.  Changes the inode's raw form only: call
 * inode_write after it.  Locks: MAP exclusively and FS.
 */
extern errcode_t inline_write (struct inode *inode, const void *buf,
                               uint64_t count, uint64_t offset);

#endif /* EXT2SERVE_INLINE_H */

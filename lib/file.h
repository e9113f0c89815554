/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Reading and writing a file: the hot path.
 *
 * Offsets and counts are bytes and lie inside the file (EINVAL
 * otherwise).  All functions take what locks they need and are called
 * with none held, from any number of threads.
 */

#ifndef EXT2SERVE_FILE_H
#define EXT2SERVE_FILE_H

#include "inode.h"
#include "map.h"

#define FILE_FUA        1u      /* durable, with its metadata, on return */
#define FILE_MAY_TRIM   2u      /* zero: blocks may be given up */
#define FILE_FAST       4u      /* zero: ENOTSUP unless it is quick */

extern errcode_t file_read (struct inode *inode, void *buf, uint64_t count,
                            uint64_t offset);

/* ENOSPC is EXT2_ET_BLOCK_ALLOC_FAIL; part of the range may have been
 * written then.
 */
extern errcode_t file_write (struct inode *inode, const void *buf,
                             uint64_t count, uint64_t offset,
                             unsigned flags);

/* The range reads as zeros afterwards.  Without FILE_MAY_TRIM all of it
 * is allocated, written or not.  ENOTSUP only with FILE_FAST, and then
 * nothing has been changed.
 */
extern errcode_t file_zero (struct inode *inode, uint64_t count,
                            uint64_t offset, unsigned flags);

/* Gives up the whole blocks inside the range. */
extern errcode_t file_trim (struct inode *inode, uint64_t count,
                            uint64_t offset, unsigned flags);

/* Calls FN for each piece of the range in ascending order until it
 * returns non-zero; the pieces are clipped to the range.
 */
typedef int file_status_fn (void *opaque, uint64_t offset, uint64_t count,
                            enum map_state state);
extern errcode_t file_status (struct inode *inode, uint64_t count,
                              uint64_t offset, file_status_fn *fn,
                              void *opaque);

/* Asks the device to cache what is behind the range. */
extern errcode_t file_cache (struct inode *inode, uint64_t count,
                             uint64_t offset);

#endif /* EXT2SERVE_FILE_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Giving blocks to a file: writes to holes and unwritten extents.
 *
 * The first fill of a range does not wait for anything but overlapping
 * fills; its data are written with no lock but INODE shared, and nothing
 * points at the blocks until that is done.
 */

#ifndef EXT2SERVE_FILL_H
#define EXT2SERVE_FILL_H

#include "inode.h"

enum fill_kind {
  FILL_DATA,                    /* write BUF */
  FILL_ZEROS,                   /* allocate and write zeros */
  FILL_UNWRITTEN,               /* allocate only (extents) */
};

/* Fills a piece of [OFFSET, OFFSET+COUNT) that starts at OFFSET and is a
 * hole or unwritten, and says in *DONE how many bytes that were: 0 if
 * it turns out to be written by now.  For FILL_UNWRITTEN, unwritten is
 * as good as done.  Locks: INODE shared.
 */
extern errcode_t fill (struct inode *inode, enum fill_kind kind,
                       const void *buf, uint64_t count, uint64_t offset,
                       uint64_t *done);

#endif /* EXT2SERVE_FILL_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The blocks that hold the filesystem's own fixed metadata: superblock
 * copies, descriptors (and those reserved for growth), bitmaps, inode
 * tables, the journal.  No file may map them: an image that does is
 * damaged or hostile.
 */

#ifndef EXT2SERVE_SYSZONE_H
#define EXT2SERVE_SYSZONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

struct zone {
  uint64_t start, end;          /* blocks, end exclusive */
};

/* [constant once built] sorted, disjoint, not touching */
struct syszone {
  struct zone *zones;
  size_t count, size;
};

/* Adds the blocks of group G of FS, whose descriptor has been read;
 * refuses a wrong checksum, and metadata outside the filesystem or, without
 * flex_bg, outside the group.  Overlaps show in syszone_finish.
 */
extern errcode_t syszone_add_group (struct syszone *z, ext2_filsys fs,
                                    dgrp_t g);

/* Adds blocks; call syszone_finish after the last.  It returns false if
 * some were added twice.
 */
extern errcode_t syszone_add (struct syszone *z, uint64_t blk,
                              uint64_t count);
extern bool syszone_finish (struct syszone *z);
extern void syszone_free (struct syszone *z);

/* Does [BLK, BLK+COUNT) touch any of them? */
extern bool syszone_overlaps (const struct syszone *z, uint64_t blk,
                              uint64_t count);

/* The first zone that ends after BLK, or count if there is none. */
extern size_t syszone_search (const struct syszone *z, uint64_t blk);

#endif /* EXT2SERVE_SYSZONE_H */

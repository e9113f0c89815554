/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Orphan inodes: deleted while somebody had them open, or in the middle of
 * a truncate, when the filesystem was last left without unmounting.
 */

#ifndef EXT2SERVE_ORPHAN_H
#define EXT2SERVE_ORPHAN_H

#include <stdbool.h>
#include <stddef.h>

#include <ext2fs/ext2fs.h>

struct filesystem;

struct orphans {
  ext2_ino_t *inos;             /* [constant] sorted */
  size_t count, size;           /* [constant] */
};

/* Finds the orphans of a FS that is to be written, into fs->orphans.  If
 * they cannot be found for sure, FS is not to be written: clears
 * fs->writable, with a warning.  Locks: FS.
 */
extern errcode_t orphan_load (struct filesystem *fs);

/* FS, which has some, is going to be served: says so.  Locks: none. */
extern void orphan_warn (const struct filesystem *fs);

extern void orphan_free (struct filesystem *fs);

/* Is it one?  Locks: none. */
extern bool orphan_is (const struct filesystem *fs, ext2_ino_t ino);

#endif /* EXT2SERVE_ORPHAN_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* One name in one directory. */

#ifndef EXT2SERVE_DIR_H
#define EXT2SERVE_DIR_H

#include "fs.h"

/* Finds the LEN bytes at NAME, also "..", in directory DIR and returns
 * its inode number, which need not be a sensible one.
 *
 * *BUDGET is how many bytes of directories may still be read, and gets
 * smaller: what a hostile image can make us read is up to the caller.
 *
 * EXT2_ET_FILE_NOT_FOUND  not there
 * EXT2_ET_NO_DIRECTORY    DIR is something else
 * ENOKEY                  DIR is encrypted, so nobody knows
 * EFBIG                   the budget did not suffice
 *
 * and others for damage.  A directory that has a block twice is damaged:
 * that is noticed before twice as many blocks have been searched as it really
 * has, and then remembered.  It takes memory meanwhile, up to 32 bytes for
 * each of its blocks that does not follow the one before.  Locks: none held.
 */
extern errcode_t dir_lookup (struct filesystem *fs, ext2_ino_t dir,
                             const char *name, size_t len,
                             uint64_t *budget, ext2_ino_t *ino);

#endif /* EXT2SERVE_DIR_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Names to inodes, inside the image. */

#ifndef EXT2SERVE_PATH_H
#define EXT2SERVE_PATH_H

#include "fs.h"

/* Finds PATH (from the root directory, with or without a leading slash),
 * following symbolic links as if the image were mounted at its root.
 * What the path leads to may be of any type.  Logs what is wrong.  Takes
 * bounded time whatever is in the image, and FS for a block at a time.
 * Locks: none held.
 */
extern errcode_t path_resolve (struct filesystem *fs, const char *path,
                               ext2_ino_t *ino);

#endif /* EXT2SERVE_PATH_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Quotas.  With the feature of that name, a filesystem is not written at
 * all (super.c).  Without it, and in the filesystems before it, they are
 * kept in ordinary files, which only those know who mount it.
 */

#ifndef EXT2SERVE_QUOTA_H
#define EXT2SERVE_QUOTA_H

#include "fs.h"

/* Warns if FS is going to be written and has such a file in its root
 * directory: its counts go stale.  Locks: none held.
 */
extern void quota_warn (struct filesystem *fs);

#endif /* EXT2SERVE_QUOTA_H */

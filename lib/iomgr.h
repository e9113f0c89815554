/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* libext2fs's io_manager over the metadata cache: for reading.  libext2fs
 * writes nothing here, and a write is refused with EROFS.  There is no
 * per-call state, so the channel may be read by many threads
 * (CHANNEL_FLAGS_THREADS, where the device is parallel).
 */

#ifndef EXT2SERVE_IOMGR_H
#define EXT2SERVE_IOMGR_H

#include <ext2fs/ext2fs.h>

#include "mcache.h"

extern struct struct_io_manager mcache_io_manager;

/* What the next open of the manager by this thread is opened over: an
 * io_manager's open takes a name and no context.  Set it right before
 * ext2fs_open2, NULL afterwards.
 */
extern void iomgr_set_target (struct mcache *mc, struct device *dev);

#endif /* EXT2SERVE_IOMGR_H */

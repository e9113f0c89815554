/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* libext2fs's io_manager over the metadata cache.
 *
 * Reads come from the cache, writes go into its running set; nothing
 * reaches the device before a commit.  There is no per-call state, so
 * the channel may be read by many threads (CHANNEL_FLAGS_THREADS, where
 * the device is parallel); writes need FS, as everything does that
 * makes libext2fs write.
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

/* The first error of any write through the channel, or 0.  libext2fs
 * drops some of them.  Locks: FS.
 */
extern errcode_t iomgr_write_error (io_channel channel);

#endif /* EXT2SERVE_IOMGR_H */

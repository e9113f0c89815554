/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Making metadata durable: see commit.c for the order.  Only the sync
 * thread calls these.
 */

#ifndef EXT2SERVE_COMMIT_H
#define EXT2SERVE_COMMIT_H

#include "fs.h"

/* Commits the running set; with nothing in it, flushes the device. */
extern errcode_t commit_sync (struct filesystem *fs);

/* Makes some of the blocks that commits have freed usable again; true if
 * there are more.
 */
extern bool commit_release_some (struct filesystem *fs);

/* Commits until nothing is left, then restores the superblock's state.
 * For closing: nobody else uses FS.
 */
extern errcode_t commit_last (struct filesystem *fs);

#endif /* EXT2SERVE_COMMIT_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Making metadata durable: see commit.c for the order. */

#ifndef EXT2SERVE_COMMIT_H
#define EXT2SERVE_COMMIT_H

#include "fs.h"

/* Commits until nothing is left, then restores the superblock's state.
 * For closing: nobody else uses FS.
 */
extern errcode_t commit_everything (struct filesystem *fs);

#endif /* EXT2SERVE_COMMIT_H */

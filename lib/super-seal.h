/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The superblock's checksum, such that half a write does no harm. */

#ifndef EXT2SERVE_SUPER_SEAL_H
#define EXT2SERVE_SUPER_SEAL_H

#include <ext2fs/ext2fs.h>

#define SUPER_REST 512u

/* SB, little-endian as on disk, is to replace a superblock whose second
 * half is REST.  Puts a checksum on it, if the filesystem has them, without
 * changing the second half if possible; REST becomes that of SB.
 */
extern void super_seal (struct ext2_super_block *sb,
                        uint8_t rest[SUPER_REST]);

/* The second half of SB. */
extern void super_get_rest (const struct ext2_super_block *sb,
                            uint8_t rest[SUPER_REST]);

#endif /* EXT2SERVE_SUPER_SEAL_H */

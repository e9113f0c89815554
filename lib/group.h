/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Block groups and their bitmaps.  Locks: FS for everything here. */

#ifndef EXT2SERVE_GROUP_H
#define EXT2SERVE_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "mcache.h"

struct filesystem;

struct group_state {
  uint8_t *busy;                /* bitmap | reserved, while any reserved */
  uint32_t reserved;            /* blocks of this group now reserved */
  bool checked;                 /* bitmap verified once */
  bool bad;                     /* cannot be used; said once */
  bool bitmap_dirty;            /* checksum to be set at the next freeze */
};

/* First block, number of blocks (the last group is short), group of. */
extern uint64_t group_first (struct filesystem *fs, dgrp_t g);
extern uint32_t group_blocks (struct filesystem *fs, dgrp_t g);
extern dgrp_t group_of (struct filesystem *fs, uint64_t blk);

/* Never allocate in G again, and say WHY once. */
extern void group_set_bad (struct filesystem *fs, dgrp_t g, const char *why);

/* Returns the pinned block bitmap of G.  It is verified when first used:
 * checksums, the count of free blocks, the filesystem's own metadata
 * marked in use.  One that was never initialised on disk is made up
 * here.  EXT2_FILSYS_CORRUPTED if the group cannot be used.
 */
extern errcode_t group_bitmap (struct filesystem *fs, dgrp_t g,
                               struct mbuf **mbp);

/* Bit N of a bitmap is block N of its group, least significant first
 * within a byte.
 */
static inline bool
bit_test (const uint8_t *map, uint32_t n)
{
  return (map[n / 8] >> (n % 8)) & 1;
}

static inline void
bit_set (uint8_t *map, uint32_t n)
{
  map[n / 8] |= 1u << (n % 8);
}

static inline void
bit_clear (uint8_t *map, uint32_t n)
{
  map[n / 8] &= ~(1u << (n % 8));
}

/* First bit in [FROM, TO) that is SET or clear; TO if none. */
extern uint32_t bit_find (const uint8_t *map, uint32_t from, uint32_t to,
                          bool set);

#endif /* EXT2SERVE_GROUP_H */

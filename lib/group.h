/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Block groups and their bitmaps.  Locks: FS for everything here.
 *
 *   group.c         finding and verifying a bitmap
 *   group-change.c  changing one, with the counts that go along
 *   group-busy.c    blocks that are free on disk but not to be had
 *   group-freed.c   the other way round: freed, but not on disk yet
 */

#ifndef EXT2SERVE_GROUP_H
#define EXT2SERVE_GROUP_H

#include <stdbool.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "mcache.h"

struct filesystem;

struct group_state {
  uint8_t *busy;                /* bitmap | held, or NULL if none held */
  uint32_t held;                /* blocks reserved or withheld, whose bits
                                   are set in busy only */
  struct group_freed *freed;    /* group-freed.c's; NULL: none */
  bool checked;                 /* bitmap verified once */
  bool bad;                     /* cannot be used; said once */
  bool bitmap_dirty;            /* checksum to be set at the next freeze */
};

/* First block, number of blocks (the last group is short), group of. */
extern uint64_t group_first (struct filesystem *fs, dgrp_t g);
extern uint32_t group_blocks (struct filesystem *fs, dgrp_t g);
extern dgrp_t group_of (struct filesystem *fs, uint64_t blk);

/* Blocks of G that can be had (inv 1), as far as it is known without looking
 * at its bitmap; 0 if it is bad.
 */
extern uint32_t group_available (struct filesystem *fs, dgrp_t g);

/* Never allocate in G again, and say WHY once. */
extern void group_set_bad (struct filesystem *fs, dgrp_t g, const char *why);

/* Returns the pinned block bitmap of G.  It is verified when first used:
 * checksums, the count of free blocks, the filesystem's own metadata
 * marked in use.  One that was never initialised on disk is made up
 * here.  EXT2_FILSYS_CORRUPTED if the group cannot be used.
 */
extern errcode_t group_bitmap (struct filesystem *fs, dgrp_t g,
                               struct mbuf **mbp);

/* The same; it and what goes with it are in the running set already, so
 * that changing its bits cannot fail until the set is frozen.
 */
extern errcode_t group_load_for_change (struct filesystem *fs, dgrp_t g,
                                        struct mbuf **mbp);

/* Sets (ALLOCATE) or clears N bits of G, all of which must be the other
 * way round, with the counts of group and superblock.  Not the bits of
 * the busy map.
 */
extern errcode_t group_change_bits (struct filesystem *fs, dgrp_t g,
                                    uint32_t bit, uint32_t n, bool allocate);

/* Puts checksums on changed bitmaps and moves changed descriptor blocks
 * into the metadata cache: right before mcache_freeze.
 */
extern errcode_t group_prepare_freeze (struct filesystem *fs);

/* The map in which a clear bit means "may be handed out", given G's
 * bitmap.
 */
extern const uint8_t *group_busy_map (struct filesystem *fs, dgrp_t g,
                                      const struct mbuf *mb);

/* Makes sure that G has a busy map.  ENOMEM. */
extern errcode_t group_make_busy (struct filesystem *fs, dgrp_t g,
                                  const struct mbuf *mb);

/* N bits of G, which has a busy map, are held, whatever the bitmap says
 * of them.
 */
extern void group_hold (struct filesystem *fs, dgrp_t g, uint32_t bit,
                        uint32_t n);

/* They are not any more: RELEASE says that they can be had, otherwise
 * they have been allocated.
 */
extern void group_unhold (struct filesystem *fs, dgrp_t g, uint32_t bit,
                          uint32_t n, bool release);

/* Frees G's busy map unless something is held, or was last: those that
 * edits have made for what they might have freed.
 */
extern void group_drop_busy (struct filesystem *fs, dgrp_t g);

/* N bits of G have been freed, although they are set; and do not count as
 * that any more.
 */
extern void group_note_freed (struct filesystem *fs, dgrp_t g, uint32_t bit,
                              uint32_t n);
extern void group_note_released (struct filesystem *fs, dgrp_t g,
                                 uint32_t bit, uint32_t n);

/* Is any of them so? */
extern bool group_is_freed (struct filesystem *fs, dgrp_t g, uint32_t bit,
                            uint32_t n);

/* None of G is any more. */
extern void group_forget_freed (struct filesystem *fs, dgrp_t g);

/* Debug builds: asserts inv 1 and 2 of alloc.h for G. */
extern void group_check (struct filesystem *fs, dgrp_t g);

/* A bit that was allocated or freed without being held. */
extern void group_note_bit (struct filesystem *fs, dgrp_t g, uint32_t bit,
                            bool in_use);

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

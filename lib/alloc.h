/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block allocator: free space, one block group at a time.
 *
 * Block bitmaps are metadata blocks in the cache, loaded when a group
 * is first looked at.  On top of them, in memory only:
 *
 * - reserved blocks: promised to a fill in progress, so that nobody else
 *   takes them, but not yet allocated on disk (a crash forgets them);
 * - pending frees: freed by the running set or by one being committed.
 *   Their bits stay set until that is durable: the old owner may come
 *   back with a crash, so the blocks must not be reused before.
 *
 * Invariants:
 *   1. A block is handed out only if its bit is clear and it is not
 *      reserved.
 *   2. Group and superblock free counts always equal the clear bits.
 *   3. free blocks - promised blocks >= the reserved blocks of the
 *      superblock (r_blocks), unless it was so already.
 *   4. A block's bit is cleared only after the change that dropped it
 *      from its tree is durable.
 *
 * Locks: FS for everything here.
 */

#ifndef EXT2SERVE_ALLOC_H
#define EXT2SERVE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "group.h"

struct filesystem;

struct free_range {
  uint64_t blk;
  uint64_t len;                 /* blocks */
};

struct free_list {
  struct free_range *ranges;
  size_t count, size;
};

struct allocator {
  struct group_state *groups;
  uint64_t promised;            /* blocks reserved or promised */
  struct free_list pending;     /* freed by the running set */
  dgrp_t *dirty_groups;         /* groups with bitmap_dirty */
  size_t ndirty, dirty_size;
  uint8_t *gdt_dirty;           /* per descriptor block */
  bool any_gdt_dirty;
};

/* What one operation may use: a run of data blocks, and the promise of
 * META blocks anywhere for the tree.
 */
struct reservation {
  uint64_t blk;                 /* first block of the run */
  uint32_t len;                 /* blocks in the run, may be 0 */
  uint32_t meta;                /* promised blocks not yet taken */
};

extern errcode_t alloc_init (struct filesystem *fs);
extern void alloc_free (struct filesystem *fs);

/* Where a run should be: AT this block, or else looked for from
 * ELSEWHERE on.  Either may lie outside the filesystem (no wish).
 */
struct goal {
  uint64_t at;
  uint64_t elsewhere;
};

/* Reserves up to WANT contiguous data blocks (at least 1 unless WANT is
 * 0), and promises META tree blocks.
 * EXT2_ET_BLOCK_ALLOC_FAIL when space is short: nothing is reserved.
 */
extern errcode_t alloc_reserve (struct filesystem *fs, const struct goal *goal,
                                uint32_t want, uint32_t meta,
                                struct reservation *r);

/* Gives back what is left of R. */
extern void alloc_release (struct filesystem *fs, struct reservation *r);

/* Allocates on disk the first N blocks of R's run. */
extern errcode_t alloc_take (struct filesystem *fs, struct reservation *r,
                             uint32_t n);

/* Allocates one of R's promised tree blocks, near GOAL. */
extern errcode_t alloc_take_meta (struct filesystem *fs,
                                  struct reservation *r, uint64_t goal,
                                  uint64_t *blk);

/* Undo alloc_take_meta of a block that nothing points at. */
extern void alloc_untake_meta (struct filesystem *fs,
                               struct reservation *r, uint64_t blk);

/* [BLK, BLK+LEN) belongs to no file any more once the running set is
 * durable (inv 4).
 */
extern errcode_t alloc_free_later (struct filesystem *fs, uint64_t blk,
                                   uint64_t len);

/* Makes sure that the next N calls of alloc_free_later cannot fail. */
extern errcode_t alloc_pending_room (struct filesystem *fs, size_t n);

/* Is all of [BLK, BLK+LEN) marked in use?  If not, its group is not used
 * any more (said once).
 */
extern bool alloc_is_allocated (struct filesystem *fs, uint64_t blk,
                                uint64_t len);

/* Clears the bits of a range whose freeing has become durable. */
extern errcode_t alloc_free_now (struct filesystem *fs, uint64_t blk,
                                 uint64_t len);

/* Puts checksums on changed bitmaps and moves changed descriptor blocks
 * into the metadata cache: right before mcache_freeze.
 */
extern errcode_t alloc_prepare_freeze (struct filesystem *fs);

/* Where the blocks of an inode that has none yet should start: the first
 * free block of its group.
 */
extern uint64_t alloc_inode_goal (struct filesystem *fs, ext2_ino_t ino);

#endif /* EXT2SERVE_ALLOC_H */

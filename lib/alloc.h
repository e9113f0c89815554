/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block allocator: free space, one block group at a time.
 *
 *   alloc-find.c   where there is free space, and which is best
 *   alloc.c        reserving and taking it
 *   alloc-free.c   giving it back
 *
 * Block bitmaps are metadata blocks in the cache, loaded when a group
 * is first looked at.  On top of them, in memory only:
 *
 * - reserved blocks: promised to a fill in progress, so that nobody else
 *   takes them, but not yet allocated on disk (a crash forgets them);
 * - pending frees: freed by the running set or by one being committed.
 *   The old owner may come back with a crash, so the blocks must not be
 *   reused, nor discarded, before that is durable.  With a journal their
 *   bits are cleared by the transaction that drops them from their tree,
 *   and the blocks withheld; without, the bits stay set until then,
 *   because the order of writes must be the reverse of allocating.
 *
 * Invariants:
 *   1. A block is handed out only if its bit is clear, and it is neither
 *      reserved nor withheld.
 *   2. Group and superblock free counts always equal the clear bits.
 *   3. free blocks - promised - withheld - lost >= the reserved blocks of
 *      the superblock (r_blocks), unless it was so already.
 *   4. A freed block can be had, and is told to the device, only after
 *      the change that dropped it from its tree is durable.
 *   5. With a journal, what the bitmaps say and what trees say changes
 *      in the same transaction.  Without, a bit is set before and
 *      cleared after the block is in a tree, durably.
 *
 * In a damaged image several pointers may lead to one block, and it is
 * freed by way of each.  The second time is noticed, said once, and nothing
 * more is done to the block, which nobody gets from then on, if
 * - the block's first freeing has not been released: with a journal its bit
 *   is clear, without one the group remembers it (group-freed.c);
 * - it has, and nobody has been given the block since: its bit is clear.
 * It is not noticed if the block is another file's by then: the bit is set,
 * and no block of data says whose it is.  That file loses the block, as
 * with Linux; only e2fsck, which looks at all files, can tell before.
 *
 * If one of the pointers is in a tree's place, and a tree block in the cache,
 * nobody loses what he is given: a free or freed block is not changed
 * (alloc_check_tree_block); one that is to be written still is not given to
 * anybody, and any other is forgotten (alloc_take, map_new_block), so that
 * the tree will be read again, and found to be none.
 *
 * Locks: FS for everything here.
 */

#ifndef EXT2SERVE_ALLOC_H
#define EXT2SERVE_ALLOC_H

#include <stdatomic.h>
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

/* What was learned about free and aligned pieces of one size: there were
 * none in [from, to) when that was looked at.
 */
#define ALLOC_HINTS 32
struct piece_hint {
  uint64_t from, to;
  unsigned skip;                /* searches not worth making */
};

struct allocator {
  struct group_state *groups;
  struct piece_hint hints[ALLOC_HINTS];  /* by the logarithm of the size */
  uint64_t tree_next;           /* behind the last tree block; 0: none yet */
  uint64_t promised;            /* blocks reserved or promised */
  uint64_t withheld;            /* blocks freed on disk, not to be had yet */
  uint64_t lost;                /* free blocks, not held, of bad groups */
  unsigned waiting;             /* requests that wait for space */

  /* Rises whenever blocks can be had that could not be before.  [atomic:
   * FS to write; a request notes it before it searches (reclaim.c)]
   */
  _Atomic uint64_t returned;

  dgrp_t last_busy;             /* the group whose busy map idles */
  struct free_list pending;     /* freed by the running set */
  size_t prepared;              /* entries that the operation may add */
  dgrp_t *dirty_groups;         /* groups with bitmap_dirty */
  size_t ndirty, dirty_size;
  uint8_t *gdt_dirty;           /* per descriptor block */
  size_t ngdt_dirty;
  uint64_t *revoked;            /* tree blocks freed by the running set */
  size_t nrevoked, revoked_size;
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
 * ELSEWHERE on.  Either may lie outside the filesystem (no wish, as
 * NOWHERE is).  What a window is, is said in alloc-find.c.
 */
#define NOWHERE UINT64_MAX

struct goal {
  uint64_t at;
  uint64_t elsewhere;
  uint64_t limit;               /* only blocks before this one; 0: all */
  uint64_t lblk;                /* what is to go there, in the file */
  uint32_t check;               /* AT only if all of the piece of so many
                                   blocks around it is free; 0 or 1: if it
                                   itself is */
  uint32_t search;              /* elsewhere a free piece of so many blocks;
                                   1: any run, 0: nothing */
  bool spacious;                /* rather where many pieces are free */
};

/* The place of GOAL->lblk in its piece of SIZE blocks, a power of two, as
 * CHECK and SEARCH are.
 */
static inline uint32_t
goal_in (const struct goal *goal, uint32_t size)
{
  return goal->lblk & (size - 1);
}

/* Blocks can be had again: counts that, and wakes who waits for it. */
extern void alloc_note_returned (struct filesystem *fs);

/* Blocks have become free: forget that searches found none. */
extern void alloc_search_again (struct filesystem *fs);

/* Blocks in a window of a file of so many BLOCKS; 1: there are none. */
extern uint32_t alloc_window (const struct filesystem *fs, uint64_t blocks);

/* Finds a run of up to WANT (not 0) free blocks, at least 1.
 * NOT_AT_GOAL if it cannot be there, and no such piece as is asked for was
 * found, or looked for;
 * EXT2_ET_BLOCK_ALLOC_FAIL if there is none at all, the device's error if
 * there may be some where the bitmap could not be read;
 * SEARCH_ON if many bitmaps turned out damaged, which are known now: give up
 * FS for a moment, and search again.
 */
struct free_run {
  dgrp_t group;
  uint32_t bit, len;
};
#define NOT_AT_GOAL ((errcode_t) -2)
#define SEARCH_ON ((errcode_t) -3)
extern errcode_t alloc_find (struct filesystem *fs, const struct goal *goal,
                             uint32_t want, struct free_run *run);

/* Reserves up to WANT contiguous data blocks (at least 1 unless WANT is
 * 0), and promises META tree blocks.
 * EXT2_ET_BLOCK_ALLOC_FAIL when space is short, else as alloc_find: nothing
 * is reserved.
 */
extern errcode_t alloc_reserve (struct filesystem *fs, const struct goal *goal,
                                uint32_t want, uint32_t meta,
                                struct reservation *r);

/* Are N blocks left that nobody has been promised (inv 3)? */
extern bool alloc_has_space (struct filesystem *fs, uint64_t n);

/* Gives back what is left of R. */
extern void alloc_release (struct filesystem *fs, struct reservation *r);

/* Allocates on disk the first N blocks of R's run. */
extern errcode_t alloc_take (struct filesystem *fs, struct reservation *r,
                             uint32_t n);

/* Allocates one of R's promised tree blocks, before block LIMIT unless
 * that is 0.  They go one behind the other, the first in the group of
 * inode INO: amid the data they would break up windows.
 */
extern errcode_t alloc_take_meta (struct filesystem *fs,
                                  struct reservation *r, ext2_ino_t ino,
                                  uint64_t limit, uint64_t *blk);

/* Undo alloc_take_meta of a block that nothing points at. */
extern void alloc_untake_meta (struct filesystem *fs,
                               struct reservation *r, uint64_t blk);

/* Freeing (alloc-free.c).
 *
 * An operation first says what it may free: alloc_begin_free, and then
 * alloc_prepare_free for each range, which does all that can fail.  It
 * reserves and releases nothing from there to the freeing itself.
 */
extern void alloc_begin_free (struct filesystem *fs);
extern errcode_t alloc_prepare_free (struct filesystem *fs, uint64_t blk,
                                     uint64_t len);

/* How many of the blocks [BLK, BLK+LEN) may be freed without touching
 * more than *GROUPS groups, which is reduced by those touched: a
 * transaction must not grow by more than MAX_OPERATION blocks at once.
 */
#define ALLOC_MAX_FREE_GROUPS 64
extern uint64_t alloc_freeable (struct filesystem *fs, uint64_t blk,
                                uint64_t len, unsigned *groups);

/* Before BLK, a block of a tree, is changed: EXT2_FILSYS_CORRUPTED if it
 * is free, or has been freed.  Whoever took it next would write over the tree, or the tree
 * over his data: in a damaged image two pointers lead to it, and it was
 * freed by way of the other; or the bitmap never knew of it.
 */
extern errcode_t alloc_check_tree_block (struct filesystem *fs, uint64_t blk);

/* [BLK, BLK+LEN) belongs to no file any more once the running set is
 * durable (inv 4).
 */
extern void alloc_free_later (struct filesystem *fs, uint64_t blk,
                              uint64_t len);

/* The same for a block of a tree.  Its buffer is forgotten, and copies of
 * it that are in the journal will not be replayed.
 */
extern void alloc_free_tree_block (struct filesystem *fs, uint64_t blk);

/* Nothing on disk has ever pointed at [BLK, BLK+LEN), allocated in the
 * running set: free again at once.
 */
extern errcode_t alloc_free_now (struct filesystem *fs, uint64_t blk,
                                 uint64_t len);

/* The freeing of [BLK, BLK+LEN) has become durable: is it ours, so that
 * the device can be told?  Then do that and let others have it.  A range
 * that is not wholly allocated comes from a damaged image: it may be
 * somebody else's, and is left alone.
 */
extern bool alloc_may_discard (struct filesystem *fs, uint64_t blk,
                               uint64_t len);
extern void alloc_released (struct filesystem *fs, uint64_t blk,
                            uint64_t len);

/* Debug builds: asserts what of inv 2 and 3 concerns all groups. */
extern void alloc_check (struct filesystem *fs);

/* Where the blocks of an inode that has none yet should start: the first
 * free block of its group.
 */
extern uint64_t alloc_inode_goal (struct filesystem *fs, ext2_ino_t ino);

#endif /* EXT2SERVE_ALLOC_H */

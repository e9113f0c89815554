/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The metadata cache: filesystem metadata blocks by block number.
 *
 * Filled by mcache_read (from the device) and mcache_zeroed (new
 * blocks); a buffer is pinned from then until mcache_unpin.  Clean,
 * unpinned buffers are evicted by the cache itself, least recently used
 * first, when it grows past its limit.  Dirty ones stay until a commit,
 * or the checkpoint after it, has written them in place: until then the
 * device has something older.
 *
 * Content of a buffer: see locks.h (changed under FS plus, for an
 * inode's tree, MAP exclusively).  The cache's own state is under its
 * MCACHE locks, which callers never see.
 */

#ifndef EXT2SERVE_MCACHE_H
#define EXT2SERVE_MCACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <et/com_err.h>

#include "device.h"
#include "mbuf.h"

struct mcache;

/* One metadata block as it was when the set was frozen. */
struct frozen_block {
  uint64_t blkno;
  uint8_t *data;
  enum mclass mclass;
  bool fresh;                   /* newly allocated in this set: nothing
                                   on disk points at it yet */
  uint32_t logged_tid;          /* checkpoint.c's */
  uint64_t seal;                /* as in the buffer */
  struct mbuf *mb;
};

struct frozen_set {
  struct frozen_block *blocks;
  size_t count;
};

/* LIMIT bytes for clean buffers; BLOCK_SIZE in bytes. */
extern struct mcache *mcache_new (struct device *dev, uint32_t block_size,
                                  size_t limit);

/* Frees everything, dirty buffers included; none may be pinned. */
extern void mcache_free (struct mcache *mc);

extern uint32_t mcache_block_size (const struct mcache *mc);

/* Returns block BLKNO, pinned, read from the device if necessary.
 * Locks: any up to FS may be held.
 */
extern errcode_t mcache_read (struct mcache *mc, uint64_t blkno,
                              struct mbuf **mbp);

/* As mcache_read, but the content becomes zeros and nothing is read: for
 * a block that is about to be overwritten whole.  Locks: FS.
 */
extern errcode_t mcache_zeroed (struct mcache *mc, uint64_t blkno,
                                struct mbuf **mbp);

/* The same for a tree block that has just been allocated, made dirty and
 * fresh: no block on disk points at it, so it may be written first.
 * EXT2_FILSYS_CORRUPTED if it is cached, because then it is in use as
 * something else.  Nothing has changed after an error.  Locks: FS.
 */
extern errcode_t mcache_new_block (struct mcache *mc, uint64_t blkno,
                                   struct mbuf **mbp);

/* Returns block BLKNO pinned if it is cached, else NULL. */
extern struct mbuf *mcache_find (struct mcache *mc, uint64_t blkno);

extern void mcache_unpin (struct mcache *mc, struct mbuf *mb);

/* MB has been of use: it will not be among the next ones evicted. */
static inline void
mcache_note_use (struct mbuf *mb)
{
  if (!atomic_load_explicit (&mb->used, memory_order_relaxed))
    atomic_store_explicit (&mb->used, true, memory_order_relaxed);
}

/* MB, pinned, has been or is about to be changed: it belongs to the
 * running set.  FRESH as for mcache_new_block.  Only ENOMEM,
 * and then nothing has changed.  Locks: FS.
 */
extern errcode_t mcache_dirty (struct mcache *mc, struct mbuf *mb,
                               enum mclass mclass, bool fresh);

/* Is MB new in the running set, so that nothing on disk points at it?
 * Locks: FS.
 */
extern bool mcache_is_fresh (const struct mbuf *mb);

/* Is MB in the running set?  Locks: FS. */
extern bool mcache_is_dirty (const struct mbuf *mb);

/* Block BLKNO has been freed: its content will never be written (a
 * copy already frozen still is: it precedes the freeing).  Locks: FS.
 */
extern void mcache_forget (struct mcache *mc, uint64_t blkno);

/* Block BLKNO, which was free, becomes a file's data: what is remembered of
 * it would be wrong from now on.  False, and nothing is changed, if it is
 * still going to be written: then it is in use as something else, and was
 * not free.  Locks: FS.
 */
extern bool mcache_forget_free (struct mcache *mc, uint64_t blkno);

/* Number of dirty buffers.  Locks: FS. */
extern size_t mcache_dirty_count (const struct mcache *mc);

/* Copy the running set into SET, sorted by block number, and start a
 * new, empty one.  ENOMEM leaves everything as it was.  Locks: FS.
 */
extern errcode_t mcache_freeze (struct mcache *mc, struct frozen_set *set);

/* FB has been written in place, or need not be any more: frees the copy.
 * Its buffer may be evicted again, unless there are others.
 */
extern void mcache_thaw_block (struct mcache *mc, struct frozen_block *fb);

/* All of SET has been written, or, with WRITTEN false, has not: the
 * buffers then stay for ever, because the cache holds the only true
 * copy.  Frees SET's memory.
 */
extern void mcache_thaw (struct mcache *mc, struct frozen_set *set,
                         bool written);

#endif /* EXT2SERVE_MCACHE_H */

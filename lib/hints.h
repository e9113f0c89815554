/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Hints: which cached block of a file's tree maps a logical block, to get
 * there without the blocks above it.  In a fragmented file these would be
 * found, pinned and searched for each request, at a tenth of its time.
 *
 * The file is divided into parts of equal length, and each has a slot for
 * one buffer: a leaf of extents or a table of pointers, as it was found
 * last.  A slot is a guess.  It has no pin, so the buffer may have been
 * evicted, freed, or have become another block's since; whoever takes the
 * hint pins it and then asks the buffer itself:
 *
 *   - It is alive and owned by this inode.  Under MAP that means that it
 *     is in the inode's tree: a block that leaves the tree is forgotten,
 *     which kills its buffer, under the same hold of MAP exclusively.
 *   - Its mbuf.maps has the block.  That is kept with the content, under
 *     MAP exclusively, and no two blocks of a tree have one in common
 *     (extent-node.h, inv 1 and 3; claim () in indirect.c).
 *
 * So no change of the tree needs to look for hints, and none is ever too
 * old.  In a damaged image, what is freed as data may be a block of the
 * tree.  That is not seen here; it takes only the damaged file's own.
 *
 * All executions of a few threads: tests/test-explore-hints.c.
 */

#ifndef EXT2SERVE_HINTS_H
#define EXT2SERVE_HINTS_H

#include <stdint.h>

#include "inode.h"
#include "mbuf.h"

/* mbuf.maps for the logical blocks from FIRST up to END; 0 for none. */
static inline uint64_t
hints_maps (uint64_t first, uint64_t end)
{
  return (end < UINT32_MAX ? end : UINT32_MAX) << 32 | first;
}

static inline uint64_t
hints_first (const struct mbuf *mb)
{
  return (uint32_t) atomic_load_explicit (&mb->maps, memory_order_relaxed);
}

static inline uint64_t
hints_end (const struct mbuf *mb)
{
  return atomic_load_explicit (&mb->maps, memory_order_relaxed) >> 32;
}

/* The buffer that maps LBLK, pinned, or NULL if that is not known.
 * Locks: MAP, or FS, as for a lookup.
 */
extern struct mbuf *hints_find (struct inode *inode, uint64_t lblk);

/* MB, pinned, has been found for LBLK.  Locks: MAP, or FS. */
extern void hints_note (struct inode *inode, uint64_t lblk, struct mbuf *mb);

extern void hints_free (struct hints *h);

#endif /* EXT2SERVE_HINTS_H */

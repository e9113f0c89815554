/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The long runs of a file: where its large written pieces lie, found
 * without MAP.  A file in a few pieces, as most disks of virtual
 * machines are, needs no search in its tree for most requests.
 *
 * A run says "these blocks of the file are written, and lie there".  It
 * comes from a lookup and is noted under the same hold of MAP; who takes
 * blocks away forgets them under MAP exclusively.  So it is never older
 * than the tree when it is noted, and nobody notes while another forgets.
 *
 * A run may be longer than what its reader has INODE for.  But he uses
 * only that much of it, and that is true: who has taken blocks of it away
 * had INODE for them exclusively, and had forgotten the run when he gave
 * it back.
 *
 * The file is divided into parts of equal length, each with a slot.  That
 * keeps one run, of what lies in its part or the next one, which is at
 * least half as long as a part: so slots do not change hands all the time,
 * and a request that begins in one part and ends in the next is answered
 * in one piece.  Extents have at most 32,768 blocks, so longer parts are of
 * little use: beyond 2^29 blocks requests have to search the tree.
 *
 * All executions of a few threads: tests/test-explore-runs.c.
 */

#ifndef EXT2SERVE_RUNS_H
#define EXT2SERVE_RUNS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct run_slot {
  /* Odd while somebody writes the slot; another reader then goes without
   * it.  [atomic]
   */
  _Alignas (32) atomic_uint sequence;
  _Atomic uint64_t lblk, len, pblk;     /* [atomic; consistent if SEQUENCE
                                           is even and did not change] */
};

struct runs {
  unsigned shift;               /* [constant] log2 of a part, in blocks */
  size_t count;                 /* [constant] of slots; 0: out of memory */
  struct run_slot *slot;        /* [constant] */
  void *memory;                 /* [constant] where they are */
};

/* For a file of so many blocks.  Without memory for it, it is as if no run
 * was ever noted.
 */
extern void runs_init (struct runs *r, uint64_t blocks);
extern void runs_destroy (struct runs *r);

/* Is LBLK in a known run?  *PBLK is its place, *LEN what is left of the
 * run from there on.  Locks: INODE for what is used of it.
 */
extern bool runs_find (struct runs *r, uint64_t lblk, uint64_t *pblk,
                       uint64_t *len);

/* Somebody who looked for block AT has found that the LEN blocks from
 * LBLK on, AT among them, are written and lie at PBLK on.  Locks: MAP,
 * since before that was found out.
 */
extern void runs_note (struct runs *r, uint64_t at, uint64_t lblk,
                       uint64_t len, uint64_t pblk);

/* All runs with any of the LEN blocks from LBLK on.  Locks: MAP
 * exclusively.
 */
extern void runs_forget (struct runs *r, uint64_t lblk, uint64_t len);

#endif /* EXT2SERVE_RUNS_H */

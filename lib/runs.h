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
 * The file is divided into RUN_SLOTS parts of equal length; a slot keeps
 * one run that touches its part and is at least half as long, so that
 * slots do not change hands all the time.
 */

#ifndef EXT2SERVE_RUNS_H
#define EXT2SERVE_RUNS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "spread-lock.h"

#define RUN_SLOTS 8

struct run_slot {
  /* Odd while somebody writes the slot; another reader then goes without
   * it.  [atomic]
   */
  _Alignas (CACHE_LINE) atomic_uint sequence;
  _Atomic uint64_t lblk, len, pblk;     /* [atomic; consistent if SEQUENCE
                                           is even and did not change] */
};

struct runs {
  unsigned shift;               /* [constant] log2 of a part, in blocks */
  struct run_slot slot[RUN_SLOTS];
};

/* For a file of so many blocks. */
extern void runs_init (struct runs *r, uint64_t blocks);

/* Is LBLK in a known run?  *PBLK is its place, *LEN what is left of the
 * run from there on.  Locks: INODE for what is used of it.
 */
extern bool runs_find (struct runs *r, uint64_t lblk, uint64_t *pblk,
                       uint64_t *len);

/* Somebody who looked for block AT has found that the LEN blocks from
 * LBLK on are written and lie at PBLK on.  Locks: MAP, since before that
 * was found out.
 */
extern void runs_note (struct runs *r, uint64_t at, uint64_t lblk,
                       uint64_t len, uint64_t pblk);

/* All runs with any of the LEN blocks from LBLK on.  Locks: MAP
 * exclusively.
 */
extern void runs_forget (struct runs *r, uint64_t lblk, uint64_t len);

#endif /* EXT2SERVE_RUNS_H */

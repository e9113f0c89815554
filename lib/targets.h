/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The targets of a log: the blocks of the filesystem that it has copies
 * of, and where the copy is that counts.
 *
 * Each block is in the table once, however many copies there are: so a
 * log takes memory in proportion to what it changes, and not to its length.
 * A block takes 16 bytes; while the table grows up to 54, because part of
 * it is room, and the C library's sorting may take as much again.
 *
 * Its owner protects it.
 */

#ifndef EXT2SERVE_TARGETS_H
#define EXT2SERVE_TARGETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <et/com_err.h>

struct target {
  uint64_t blkno;               /* in the filesystem */
  uint64_t copy : 62;           /* block of the device; 0: none counts */
  uint64_t escaped : 1;         /* the copy's first four bytes are zeros,
                                   and stand for jbd2's magic number */
  uint64_t revoked : 1;         /* recover.c's */
};

_Static_assert (sizeof (struct target) == 16, "target");

struct targets {
  size_t most;                  /* blocks that it takes */
  struct target *t;             /* by blkno once they have been sorted */
  size_t count, size;
};

/* So many blocks a log may change: 16 GiB of 4 KiB each, and 224 MiB of
 * memory.  The journals that mke2fs makes by itself end at 1 GiB.
 */
#define TARGETS_MAX ((size_t) 4 << 20)

/* Adds BLKNO, of which no copy counts yet, and which may be there already.
 * ENOMEM; EFBIG if it has become clear that there are more than MOST.
 */
extern errcode_t targets_add (struct targets *ts, uint64_t blkno);

/* Sorts what has been added.  EFBIG if that is more than MOST. */
extern errcode_t targets_sort (struct targets *ts);

/* Leaves out those of which no copy counts, and gives back the room for
 * more.
 */
extern void targets_drop_unused (struct targets *ts);

/* Of a sorted table: the index of the first target at BLKNO or after it;
 * and the target that is BLKNO, or NULL.
 */
extern size_t targets_search (const struct targets *ts, uint64_t blkno);
extern struct target *targets_find (const struct targets *ts, uint64_t blkno);

extern void targets_free (struct targets *ts);

#endif /* EXT2SERVE_TARGETS_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Recovery: what a journal holds goes to where it belongs.
 *
 * Invariants, which make a crash at any write of it harmless:
 *
 *   1. Nothing is written before the whole log has been read and found
 *      good: the log is replayed completely or not at all.
 *   2. Until everything replayed is durable, the log stays what it is and
 *      the superblock says needs_recovery (also one that the log brings):
 *      the next recovery does the same again.
 *   3. The log's blocks are never targets, so replaying leaves it alone; nor
 *      is what lies behind the end of the filesystem.
 *   4. An error that the journal or the superblock has recorded is durable
 *      in the superblock before anything forgets it.
 *   5. After the log has been emptied, the next transaction's number is
 *      one that no block in the log can have.
 *
 * The order of the writes:
 *
 *   1. all blocks but the superblock's; flush (for readers: none)
 *   2. the superblock's block, if the log or an error changes it; flush
 *   3. the journal's superblock: empty, no error; durable
 *   4. the superblock without needs_recovery, and with the sums of free
 *      blocks and inodes, which Linux does not log; flush
 */

#ifndef EXT2SERVE_RECOVER_H
#define EXT2SERVE_RECOVER_H

#include <stdbool.h>

#include "device.h"
#include "fs.h"
#include "journal.h"

struct recovery {
  uint32_t transactions;        /* complete ones in the log */
  uint32_t blocks;              /* written, each once */
  uint32_t revoked;             /* logged blocks not replayed for that */
};

/* Replays the journal J of FS onto fs->dev (steps 1 to 3), or for readers,
 * without a write to it, into OVERLAY (all but the sums), not yet frozen.
 * J's superblock is that of an empty journal afterwards.  What FS has read
 * of the filesystem is not valid any more: open it anew.  An error has been
 * logged with its remedy.
 *
 * Memory: what targets.h says for each different block that the log has
 * copies of, 4 more if it has revoke records, and some 3 MiB.  EFBIG if
 * there are more than TARGETS_MAX.  For readers 16 bytes a block stay.
 * Locks: FS.
 */
extern errcode_t recover_journal (struct filesystem *fs, struct journal *j,
                                  struct overlay *overlay,
                                  struct recovery *r);

/* Instead of TARGETS_MAX, for tests. */
extern size_t recover_most_targets;

/* Step 4, on the device of FS, opened after the replay.  Locks: FS. */
extern errcode_t recover_finish (struct filesystem *fs);

#endif /* EXT2SERVE_RECOVER_H */

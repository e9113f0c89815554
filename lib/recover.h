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
 *   1. all blocks but the superblock's; flush
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

/* Replays the journal J of FS, reading from fs->dev and writing to OUT:
 * fs->dev (steps 1 to 3) or a layer over it for readers (all but the sums).
 * J's superblock is that of an empty journal afterwards.  What FS has read
 * of the filesystem is not valid any more: open it anew.  An error has been
 * logged with its remedy.  Memory: in proportion to the log's length (some
 * 80 bytes a block), not to what it claims.  Locks: FS.
 */
extern errcode_t recover_journal (struct filesystem *fs, struct journal *j,
                                  struct device *out, struct recovery *r);

/* Step 4, on the device of FS, opened after the replay.  Locks: FS. */
extern errcode_t recover_finish (struct filesystem *fs);

#endif /* EXT2SERVE_RECOVER_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writing the journal's log, and checkpointing what is in it.
 *
 * The log is a ring of blocks.  Between its tail and its head lie whole
 * transactions that have been committed, but whose blocks may not be in
 * place yet: a crash replays them.  A checkpoint writes them in place,
 * and then moves the tail up to where the head was when it began.
 *
 * The life of a transaction:
 *
 *            freeze           log_write,           checkpoint
 *                             log_commit
 *   running --------> frozen ------------> in log ------------> in place
 *                        |                                        |
 *                     |  | a flush has failed                     | tail
 *     write failed: the  v                                        v moves
 *     same again      aborted (nothing more is written)        forgotten
 *
 * Invariants:
 *   J1. needs_recovery is durable before the first block of the first
 *       transaction is written, and cleared only when the log is durably
 *       empty: Linux wipes a journal that is not so marked.
 *   J2. A commit block is written only after its transaction's blocks,
 *       and all file data that they lead to, are durable.  Its own place
 *       is zeros by then, durably, so that a write torn after 512 bytes
 *       is as good as a whole one: what follows them in it is zeros.
 *       (e2fsck and older kernels take half a commit block for damage.)
 *   J3. A block of metadata is written in place only by a checkpoint, and
 *       only as it was in a transaction whose commit block is durable.
 *   J4. Log space is reused only after the journal's superblock says,
 *       durably, that the log begins later; it says so only after the
 *       blocks of what was there before are durable in place.
 *   J5. The tids of the log rise by one, from one life of it to the next,
 *       so that a stale block never passes for a new one.
 *   J6. A block of a tree that is freed is revoked by the transaction
 *       that frees it, and from then on is no longer checkpointed.  It is
 *       neither reused nor discarded before that is durable (alloc.h, inv
 *       4): so a transaction never holds both a block and its revocation,
 *       and neither replay nor checkpoint overwrites what came after.
 *   J7. A transaction fits into the empty log: an operation begins only
 *       if the running set can take MAX_OPERATION more blocks.
 *
 * Locks: all of this is the sync thread's, which works without any.
 */

#ifndef EXT2SERVE_LOG_H
#define EXT2SERVE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "journal.h"
#include "mcache.h"

struct filesystem;

struct log {
  struct journal *journal;      /* [constant] */
  uint32_t capacity;            /* [constant] blocks the log may hold */
  uint32_t max_running;         /* [constant] blocks of a transaction (J7) */

  uint32_t head;                /* journal block to write next */
  uint32_t used;                /* blocks between tail and head */
  uint32_t tid;                 /* of the next transaction */
  uint64_t time;                /* of the last commit, in seconds */
  uint32_t commit;              /* journal block of the commit block, and ... */
  struct {                      /* ... head and used once that is written */
    uint32_t head, used;
  } written;
  struct frozen_set logged;     /* to be checkpointed; sorted by block */
  size_t logged_size;           /* room in it */
  struct {                      /* the checkpoint in progress, if ... */
    bool active;
    uint32_t head, tid, used;   /* the log's when it began */
    uint64_t next;              /* filesystem block to go on with */
  } checkpoint;
};

/* What goes into the log as one transaction. */
struct log_content {
  const struct frozen_set *set;
  const uint64_t *revoked;      /* block numbers, sorted */
  size_t nrevoked;
};

/* Most blocks that one operation adds to the running set: an edit of a
 * tree with its bitmaps, the bitmaps of ALLOC_MAX_FREE_GROUPS groups, and
 * their descriptors.
 */
#define MAX_OPERATION 256u

/* Prepares to write to fs->journal, which is empty.  Nothing is written.
 * ENOTSUP if it is of a kind that cannot be written.
 */
extern errcode_t log_new (struct filesystem *fs, struct log **logp);

/* Storage for all of the journal on the host of the image, so that commits
 * need no room there.
 */
extern errcode_t log_reserve (struct filesystem *fs, struct log *log);

/* Frees LOG and the copies in it. */
extern void log_free (struct filesystem *fs, struct log *log);

/* Blocks of the log that a transaction with so many blocks and revoked
 * blocks takes.
 */
extern uint32_t log_space (const struct log *log, size_t blocks,
                           size_t revoked);

/* Is there room for so many blocks of the log? */
extern bool log_has_room (const struct log *log, uint32_t blocks);

/* The journal's superblock says, durably, that the log begins at journal
 * block START with transaction TID (J4).
 */
extern errcode_t log_set_tail (struct filesystem *fs, struct log *log,
                               uint32_t start, uint32_t tid);

/* Writes a transaction's blocks, for which there is room; and, after a
 * flush by the caller, its commit block, durably.  Only that moves the
 * head: after an error the same transaction can be written again.
 */
extern errcode_t log_write (struct filesystem *fs, struct log *log,
                            const struct log_content *c);
extern errcode_t log_commit (struct filesystem *fs, struct log *log);

/* Makes the log durably empty: for the close.  All is checkpointed. */
extern errcode_t log_end (struct filesystem *fs, struct log *log);

/* Checkpointing (checkpoint.c). */

/* Makes sure that checkpoint_add of so many blocks cannot fail. */
extern errcode_t checkpoint_prepare (struct log *log, size_t blocks);

/* C has been committed: its blocks now wait for a checkpoint instead of
 * older copies, and revoked blocks do so no longer.  Takes the copies
 * over; c->set is left empty.
 */
extern void checkpoint_add (struct filesystem *fs, struct log *log,
                            struct frozen_set *set, const uint64_t *revoked,
                            size_t nrevoked);

/* Is it time for one, or is one in progress? */
extern bool checkpoint_due (const struct filesystem *fs,
                            const struct log *log);

/* Does a piece of one, of a write as a rule; commits may come in between.
 * After an error the next call goes on from there.
 */
extern errcode_t checkpoint_some (struct filesystem *fs, struct log *log);

/* Writes everything in place and empties the log. */
extern errcode_t checkpoint_all (struct filesystem *fs, struct log *log);

#endif /* EXT2SERVE_LOG_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Making metadata durable.  Only the sync thread calls these.
 *
 *   commit.c          freezing the running set, and what is common
 *   commit-journal.c  with a journal: through the log
 *   commit-ordered.c  without: by the order of writes
 *   log.c, checkpoint.c   the log and what is in it (log.h)
 *   release.c         freed blocks, afterwards
 */

#ifndef EXT2SERVE_COMMIT_H
#define EXT2SERVE_COMMIT_H

#include "fs.h"

/* What commits need; for filesystem_new and filesystem_free. */
extern errcode_t commit_init (struct filesystem *fs);
extern void commit_fini (struct filesystem *fs);

/* Commits the running set; with nothing in it, flushes the device. */
extern errcode_t commit_sync (struct filesystem *fs);

/* Commits the running set; with nothing in it, does nothing. */
extern errcode_t commit_changes (struct filesystem *fs);

/* What is to be done besides: checkpoint, make blocks that commits have
 * freed usable again.  A piece of it: a call to the device or two, and more
 * of them until so many microseconds have passed.  True if there is more.
 */
extern bool commit_rest (struct filesystem *fs, uint64_t time);

/* Is so much of that left that it should not be put off? */
extern bool commit_is_behind (const struct filesystem *fs);

/* Commits and checkpoints until nothing is left, then restores the
 * superblock's state.  For closing: nobody else uses FS.
 */
extern errcode_t commit_last (struct filesystem *fs);

/* Between the files above. */

/* A transaction: the running set as it was when it was frozen. */
struct commit {
  uint64_t tid;                 /* 0: there is none */
  struct frozen_set set;
  struct free_list freed;
  uint64_t *revoked;            /* sorted */
  size_t nrevoked;
  struct ext2_super_block super;        /* as it is to be on disk */
  bool super_dirty;
  bool first;                   /* the superblock does not show us yet */
};

/* The two kinds.  When they return without an error, C is durable; after an
 * error they can be called again for the same C (commit.c).
 */
extern errcode_t commit_journal (struct filesystem *fs, struct commit *c);
extern errcode_t commit_ordered (struct filesystem *fs, struct commit *c);

/* Writes SB, marked as a filesystem in use. */
extern errcode_t commit_super (struct filesystem *fs,
                               const struct ext2_super_block *sb);

/* Writes the blocks of SET for which WANTED (NULL: all), neighbours
 * together.
 */
extern errcode_t write_in_place (struct filesystem *fs,
                                 const struct frozen_set *set,
                                 bool (*wanted) (const struct frozen_block *));

/* Hands freed blocks, durably so, to fs->releasing; room for so many ranges
 * has been reserved.
 */
extern errcode_t commit_reserve_freed (struct filesystem *fs, size_t ranges);
extern void commit_queue_freed (struct filesystem *fs,
                                struct free_list *freed);

/* Releases some of one range, as the device takes it in one call; true if
 * there are more.
 */
extern bool commit_release_some (struct filesystem *fs);

#endif /* EXT2SERVE_COMMIT_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* One open filesystem, shared by all its clients. */

#ifndef EXT2SERVE_FS_H
#define EXT2SERVE_FS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "alloc.h"
#include "device.h"
#include "locks.h"
#include "mcache.h"
#include "orphan.h"
#include "super-write.h"
#include "sync.h"
#include "syszone.h"

struct commit;
struct inode;
struct journal;
struct log;
struct mmp;
struct overlay;

/* Fields in the order of the locks that protect them. */
struct filesystem {
  struct device *dev;           /* [constant] */
  struct overlay *overlay;      /* [constant] DEV, if a journal had to be
                                   replayed but not to disk; or NULL */
  struct mcache *mc;            /* [constant] */
  uint32_t block_size;          /* [constant] bytes, power of 2 */
  unsigned block_bits;          /* [constant] log2 of block_size */
  uint64_t first_block;         /* [constant] lowest valid block number */
  uint64_t blocks;              /* [constant] number past the highest */
  bool writable;                /* [constant] may ever be changed */
  bool reserve;                 /* [constant] storage for the journal */
  struct syszone zones;         /* [constant] */
  struct orphans orphans;       /* [constant] if writable */
  struct journal *journal;      /* [constant; content: the sync thread's]
                                   NULL if there is none */
  struct log *log;              /* [as journal] NULL: not written to,
                                   changes are ordered instead */

  /* No more changes: some metadata could not be written.  [atomic:
   * only ever set; a writer that misses it is caught at its commit]
   */
  atomic_bool aborted;

  /* What whoever changes something is to see to when it holds no lock:
   * filesystem_balance.  [atomic: hints]
   */
#define SETTLE_GROWTH 1u        /* the running set has grown large */
#define SETTLE_TIMER 2u         /* the sync thread does not know yet that
                                   something has been changed */
  atomic_uint to_settle;

  _Atomic uint64_t committed_tid; /* [atomic; the sync thread writes] */
  uint8_t *commit_batch;        /* [the sync thread's] COMMIT_BATCH bytes */
  struct commit *commit;        /* [the sync thread's] the transaction being
                                   made durable; see commit.c */
  bool troubled;                /* [the sync thread's] metadata could not
                                   be written, and it has been said */
  struct free_list releasing;   /* [the sync thread's] freed, committed */
  size_t most_releasing;        /* [constant] so many ranges of it, then
                                   nobody should free more */
  atomic_bool behind;           /* there are more.  [atomic: a hint] */

  struct syncer syncer;         /* [its own SYNC] */
  struct mmp *mmp;              /* [constant] NULL: without the feature, or
                                   not writable */

  struct lock icache_lock;      /* ICACHE */
  struct inode **icache;        /* [ICACHE] hash table by inode number */

  struct super_writer sw;       /* [its own SUPER] */

  struct lock lock;             /* FS: the rest */
  pthread_cond_t space_back;    /* alloc.returned or alloc.promised has
                                   changed */
  ext2_filsys e2;               /* [FS] */
  uint64_t running_tid;         /* [FS] changes made now belong to it */
  bool changed;                 /* [FS] the running set holds changes */
  bool super_dirty;             /* [FS] */
  bool freeing;                 /* [FS] committed frees to come */
  bool damaged;                 /* [FS] found it in contradiction */
  bool marked;                  /* [FS] the superblock on disk shows that
                                   we write: VALID_FS is cleared, or with
                                   a journal needs_recovery set */
  size_t last_running;          /* [FS] debug: see filesystem_begin_change */
#define BAD_DIRS 16
  ext2_ino_t bad_dirs[BAD_DIRS]; /* [FS] the last ones found to have a block
                                    twice (dir.c); 0: none */
  unsigned next_bad_dir;        /* [FS] the place for the next one */
  uint16_t original_state;      /* [constant] s_state at open */
  struct allocator alloc;       /* [FS] */
};

struct filesystem_options {
  bool readonly;                /* never write, whatever DEV permits */
  size_t cache_size;            /* bytes for clean metadata */
  bool reserve;                 /* before the first change: storage for all
                                   of the journal (log_reserve) */

  /* So many milliseconds after a change of metadata it is committed,
   * whether or not anybody asks.  0: only when somebody does.
   */
  unsigned commit_ms;

  /* Waits that long; false if opening is to be given up.  NULL: sleep. */
  bool (*wait) (unsigned milliseconds);

  /* For tests: how long a second of mmp.c is.  0 = 1000. */
  unsigned mmp_second_ms;
};

#define FILESYSTEM_DEFAULT_CACHE ((size_t) 64 << 20)

/* In seconds. */
#define FILESYSTEM_DEFAULT_COMMIT 5
#define FILESYSTEM_MOST_COMMIT 3600

/* Opens the filesystem on DEV, which must outlive it.  On failure one
 * line has been logged that says why and what to do.  fs->writable says
 * whether files may be written.
 *
 * A journal that needs it is replayed: onto DEV, or in memory if DEV must
 * not be written or the filesystem has features that forbid it.
 *
 * Nothing is written before everything that can be a reason to refuse has
 * been asked.  So the order is:
 *
 *   1. Judge: superblock, descriptors, journal and its log, root directory,
 *      orphans; with a journal to be replayed, all that as it will be then,
 *      replayed in memory.
 *   2. With mmp: take the filesystem (mmp.h), which takes time; then 1
 *      again, because others may have had it until now.
 *   3. With a journal to be replayed: replay it onto DEV, then 1 again.
 *   4. Serve what the last 1 has loaded.
 *
 * If 1 finds that it can only be read, that is served at once, and DEV not
 * written.  What can still refuse after a write: somebody else who has
 * changed the filesystem or holds its block (2, or 3 if it is the journal
 * that brings the feature); the device; memory.
 *
 * EBUSY: mmp_start says so, or the image was changed by somebody else
 * during the call.
 */
extern errcode_t filesystem_open (struct device *dev,
                                  const struct filesystem_options *opts,
                                  struct filesystem **fsp);

/* Makes everything durable, restores the state the superblock had when
 * it was opened (if nothing failed), frees FS.  No inode may be in use.
 * FS is freed even if an error is returned.
 */
extern errcode_t filesystem_close (struct filesystem *fs);

/* Everything that writes, zeroes, trims etc. which returned before the
 * call have done is durable when it returns.  Concurrent callers share
 * one commit.  After an error nothing is lost, and the next call tries
 * again; but EIO from then on if a flush of the device failed
 * (device_flush_failed), or after filesystem_abort.  Locks: none held.
 */
extern errcode_t filesystem_flush (struct filesystem *fs);

/* The transaction TID is durable when it returns (0 = trivially). */
extern errcode_t filesystem_commit_tid (struct filesystem *fs, uint64_t tid);

/* Before the first of several changes to metadata that are to be in one
 * transaction, under one hold of FS: EROFS if there may be none.  They
 * add MAX_OPERATION blocks (log.h) to the running set at most; if it has
 * not the room, TRANSACTION_FULL: give up FS and MAP, call
 * filesystem_make_room, begin again.  Locks: FS.
 */
#define TRANSACTION_FULL ((errcode_t) -1)
extern errcode_t filesystem_begin_change (struct filesystem *fs);

/* Commits.  Locks: INODE and FILL may be held, no later one. */
extern errcode_t filesystem_make_room (struct filesystem *fs);

/* After a change: see whether the running set has grown large.  Locks:
 * FS.
 */
extern void filesystem_note_growth (struct filesystem *fs);

/* Give up: no more changes.  Says WHY once, tries to record the error,
 * and the place in the code, in the superblock.  Locks: FS.
 */
#define filesystem_abort(fs, why, err) \
  filesystem_abort_at ((fs), __func__, __LINE__, (why), (err))
extern void filesystem_abort_at (struct filesystem *fs, const char *func,
                                 unsigned line, const char *why,
                                 errcode_t err);

/* What a request that may find no space has to remember, all zeros at
 * first.
 */
struct shortage {
  uint64_t since;               /* alloc.returned before its last search */
  uint64_t until;               /* when it stops trying, clock_us ();
                                   0: it has not begun to */
};

/* Before each search. */
static inline void
filesystem_note_space (struct filesystem *fs, struct shortage *s)
{
  s->since = atomic_load (&fs->alloc.returned);
}

/* The search has found no space.  Is it worth trying again, because some
 * has come back since (reclaim.c)?  Waits for what is on its way.  Locks:
 * none held.
 */
extern bool filesystem_reclaim (struct filesystem *fs, struct shortage *s);

/* See to it that what has been changed is committed in time, or at once if
 * it has grown large.  Called by whoever has changed something when it holds
 * no lock.
 */
extern void filesystem_balance (struct filesystem *fs);

/* The same before more is freed; also waits while the device is behind with
 * what was freed before.
 */
extern void filesystem_pace_frees (struct filesystem *fs);

/* Longest run of neighbouring metadata blocks in one write.  Bytes. */
#define COMMIT_BATCH ((size_t) 1 << 20)

/* A running set of this size is large: dirty metadata in bytes, freed
 * ranges.
 */
#define LARGE_DIRTY ((size_t) 16 << 20)
#define LARGE_FREES ((size_t) 1 << 16)

/* See most_releasing. */
#define MOST_RELEASING (4 * LARGE_FREES)

/* Is [BLK, BLK+COUNT) where a file's blocks may be? */
extern bool filesystem_valid_data (const struct filesystem *fs,
                                   uint64_t blk, uint64_t count);

#endif /* EXT2SERVE_FS_H */

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
#include "flush.h"
#include "locks.h"
#include "mcache.h"
#include "syszone.h"

struct inode;

/* Fields in the order of the locks that protect them. */
struct filesystem {
  struct device *dev;           /* [constant] */
  struct mcache *mc;            /* [constant] */
  uint32_t block_size;          /* [constant] bytes, power of 2 */
  unsigned block_bits;          /* [constant] log2 of block_size */
  uint64_t first_block;         /* [constant] lowest valid block number */
  uint64_t blocks;              /* [constant] number past the highest */
  bool writable;                /* [constant] may ever be changed */
  struct syszone zones;         /* [constant] */

  /* No more changes: some metadata could not be written.  [atomic:
   * only ever set; a writer that misses it is caught at its commit]
   */
  atomic_bool aborted;

  struct flusher flusher;       /* [its own FLUSH] */

  struct lock commit_lock;      /* COMMIT */
  _Atomic uint64_t committed_tid; /* [atomic; COMMIT to write] */

  struct lock icache_lock;      /* ICACHE */
  struct inode **icache;        /* [ICACHE] hash table by inode number */

  struct lock lock;             /* FS: the rest */
  ext2_filsys e2;               /* [FS] */
  uint64_t running_tid;         /* [FS] changes made now belong to it */
  bool changed;                 /* [FS] the running set holds changes */
  bool super_dirty;             /* [FS] */
  bool freeing;                 /* [FS] a commit will free blocks */
  bool unmarked_valid;          /* [FS] VALID_FS is cleared on disk */
  uint16_t original_state;      /* [constant] s_state at open */
  struct allocator alloc;       /* [FS] */
};

struct filesystem_options {
  bool readonly;                /* never write, whatever DEV permits */
  size_t cache_size;            /* bytes for clean metadata */
};

#define FILESYSTEM_DEFAULT_CACHE ((size_t) 64 << 20)

/* Opens the filesystem on DEV, which must outlive it.  On failure one
 * line has been logged that says why and what to do; nothing has been
 * written.  fs->writable says whether files may be written.
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
 * one commit.  Locks: none held.
 */
extern errcode_t filesystem_flush (struct filesystem *fs);

/* The transaction TID is durable when it returns (0 = trivially). */
extern errcode_t filesystem_commit_tid (struct filesystem *fs, uint64_t tid);

/* Before the first of several changes to metadata under one hold of FS:
 * EROFS if there may be none.  Locks: FS.
 */
extern errcode_t filesystem_begin_change (struct filesystem *fs);

/* Give up: no more changes.  Says WHY once, tries to record the error
 * state in the superblock.  Locks: FS.
 */
extern void filesystem_abort (struct filesystem *fs, const char *why,
                              errcode_t err);

/* Space has run out: are there freed blocks that a commit makes usable?
 * Then commits, and it is worth trying again.  Locks: none held.
 */
extern bool filesystem_reclaim (struct filesystem *fs);

/* Relieve the cache if the running set has grown large: commits it.
 * Called by writers when they hold no lock.
 */
extern void filesystem_balance (struct filesystem *fs);

/* Is [BLK, BLK+COUNT) where a file's blocks may be? */
extern bool filesystem_valid_data (const struct filesystem *fs,
                                   uint64_t blk, uint64_t count);

#endif /* EXT2SERVE_FS_H */

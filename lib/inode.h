/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The inode cache: one object per file in use, however many clients.
 *
 * iget finds or loads, iput drops; the object lives while anybody holds
 * a reference, and a thread that uses one holds one.  Nobody evicts.
 */

#ifndef EXT2SERVE_INODE_H
#define EXT2SERVE_INODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "fs.h"
#include "runs.h"
#include "spread-lock.h"
#include "window.h"

enum mapping_kind { MAPPED_BY_EXTENTS, MAPPED_BY_BLOCKS, INLINE_DATA };

/* Blocks some fill is about to map: see file.c. */
struct pending_fill {
  uint64_t start, end;          /* logical blocks, end exclusive */
  struct pending_fill *next;
};

struct hints;

struct inode {
  struct filesystem *fs;        /* [constant] */
  ext2_ino_t ino;               /* [constant] */
  uint64_t size;                /* [constant] bytes: files do not grow */
  uint64_t max_blocks;          /* [constant] addressable logical blocks */
  enum mapping_kind kind;       /* [constant] */
  bool writable;                /* [constant] */
  uint32_t csum_seed;           /* [constant] of its tree blocks */
  uint64_t inline_bytes;        /* [constant] INLINE_DATA: stored bytes */

  unsigned refs;                /* [ICACHE] */
  struct inode *hash_next;      /* [ICACHE] */

  struct spread_lock io_lock;   /* INODE */
  struct runs runs;             /* [see runs.h] */

  struct lock fill_lock;        /* FILL */
  pthread_cond_t fill_done;     /* some pending fill has ended */
  struct pending_fill *fills;   /* [FILL] */

  struct spread_lock map_lock;  /* MAP */
  struct hints *_Atomic hints;  /* [atomic; see hints.h] NULL: none yet */
  struct windows windows;       /* [FS] */

  uint64_t root_tid;            /* transaction that last changed the root of
                                   its extent tree, or may have done so
                                   before it was loaded. [FS] */

  /* The inode as on disk (host order but for i_block of an extent tree).
   * i_block and the attribute area: [MAP + FS to write, either to
   * read]; the rest: [FS].
   */
  struct ext2_inode_large *raw;

  _Atomic uint64_t changed_tid; /* last transaction that changed it.
                                   [atomic; FS to write] */

  /* Data were overwritten: the times want updating, not urgently.
   * [atomic: set by writers, taken by whoever writes the inode]
   */
  atomic_bool times_pending;
};

/* Returns file INO with a reference.  Logs and refuses what is not a
 * regular file that can be served; NAME is for the messages.
 * Locks: none held.
 */
extern errcode_t iget (struct filesystem *fs, ext2_ino_t ino,
                       const char *name, struct inode **ip);

/* Drops a reference.  The last one writes pending times into the running
 * set.  Locks: none held.
 */
extern void iput (struct inode *inode);

/* The four sides of INODE and MAP: see locks.h for when to take which.
 * INODE is had for COUNT bytes of the file from OFFSET on; none are as
 * good as one.
 */
extern spread_range *inode_lock_shared (struct inode *inode, uint64_t offset,
                                        uint64_t count);
extern void inode_unlock_shared (struct inode *inode, spread_range *range);
extern void inode_lock_exclusive (struct inode *inode, uint64_t offset,
                                  uint64_t count);
extern void inode_unlock_exclusive (struct inode *inode);
extern void inode_map_lock_shared (struct inode *inode);
extern void inode_map_unlock_shared (struct inode *inode);
extern void inode_map_lock_exclusive (struct inode *inode);
extern void inode_map_unlock_exclusive (struct inode *inode);

/* Before the first change to INODE's raw form or tree under one hold of
 * FS: EROFS if there may be none.  Sees to it that inode_write will find
 * the inode's block.  Locks: FS.
 */
extern errcode_t inode_begin_change (struct inode *inode);

/* INODE's raw form has been changed: set its times and write it into the
 * running set.  If that fails, what is in memory and in the running set
 * no longer agree, so the filesystem is aborted.
 * Locks: FS, and MAP exclusively unless only times were changed.
 */
extern errcode_t inode_write (struct inode *inode);

/* Reads an inode without putting it into the cache: for the journal's
 * blocks.  Free with inode_free.  Locks: FS.
 */
extern errcode_t inode_load (struct filesystem *fs, ext2_ino_t ino,
                             struct inode **ip);
extern void inode_free (struct inode *inode);

#endif /* EXT2SERVE_INODE_H */

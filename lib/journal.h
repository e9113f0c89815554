/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The journal's place on the device: which blocks it has, and its
 * superblock.  What is in the log is recover.c's and log.c's business.
 */

#ifndef EXT2SERVE_JOURNAL_H
#define EXT2SERVE_JOURNAL_H

#include <stdint.h>

#include "device.h"
#include "jbd2.h"

struct filesystem;

/* Blocks of the journal that are neighbours on the device. */
struct journal_run {
  uint32_t jblk;                /* block of the journal */
  uint32_t len;
  uint64_t pblk;                /* block of the device */
};

struct journal {
  struct jbd2_super super;      /* as it is on disk */
  struct jbd2_format format;    /* of SUPER */
  uint32_t blocks;              /* [constant] in the whole journal */
  uint32_t first, end;          /* the log is [first, end): blocks of the
                                   journal, without the fast-commit area */
  struct journal_run *runs;     /* [constant] sorted by jblk, no gaps */
  size_t run_count;             /* [constant] */
};

/* Finds the internal journal of FS, through its inode, and reads and
 * checks its superblock.  *JP is NULL if the filesystem has none.  An
 * error has been logged with the remedy.  Locks: FS.
 */
extern errcode_t journal_load (struct filesystem *fs, struct journal **jp);
extern void journal_free (struct journal *j);

/* Block JBLK (< blocks) of the journal on the device; in *LEN how many of
 * the journal's blocks follow each other from there on (at least 1).
 */
extern uint64_t journal_block (const struct journal *j, uint32_t jblk,
                               uint32_t *len);

/* Writes j->super, with its checksum, in one request.  FLAGS as for
 * device_pwrite.  Everything in it that ever changes lies in its first
 * 512 bytes, so a torn write leaves the old or the new one.
 */
extern errcode_t journal_write_super (struct journal *j, struct device *dev,
                                      unsigned flags);

#endif /* EXT2SERVE_JOURNAL_H */

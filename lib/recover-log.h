/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Within recovery: a log being read (recover-log.c), and what is done with
 * what is in it (recover.c).  All of it belongs to one thread, and needs FS.
 */

#ifndef EXT2SERVE_RECOVER_LOG_H
#define EXT2SERVE_RECOVER_LOG_H

#include "fs.h"
#include "journal.h"
#include "recover.h"
#include "super-seal.h"
#include "targets.h"

struct overlay;

/* Log blocks are read in windows of this size.  Bytes. */
#define WINDOW ((size_t) 1 << 20)

/* Blocks to be written together: neighbours. */
struct batch {
  uint8_t *data;
  uint64_t start;               /* block of the filesystem */
  uint32_t n;
};

struct recover {
  struct filesystem *fs;
  struct journal *j;
  struct overlay *overlay;      /* for readers, or NULL */
  struct device *out;           /* its device, or the filesystem's */
  struct recovery *r;
  uint32_t block_size;
  bool csum_v1, async;

  /* A window of the log. */
  uint8_t *window;
  uint32_t window_start, window_len;    /* blocks of the journal */

  uint32_t start_tid, end_tid;  /* complete: [start_tid, end_tid) */
  bool revokes;                 /* the log has some */
  struct targets targets;
  uint32_t *revoked_by;         /* per target that is revoked: last tid */
  uint8_t *descriptor;          /* a copy of the one that is walked along */

  uint64_t super_block;         /* the block with the superblock */
  uint8_t *super;               /* it, as the replay leaves it */
  uint8_t super_rest[SUPER_REST]; /* super-seal.h */
  bool super_changed;

  struct batch batch;
};

/* Reads the log from its start to where it ends: sets start_tid, end_tid,
 * revokes and the targets, sorted.  An error has been logged.
 */
extern errcode_t recover_scan (struct recover *rc);

struct recover_visitor {
  /* A block of transaction TID is logged at JBLK.  NULL: no interest. */
  errcode_t (*tag) (struct recover *rc, const struct jbd2_tag *tag,
                    uint32_t tid, uint32_t jblk);
  /* A revoke block of it. */
  errcode_t (*revoke) (struct recover *rc, const uint8_t *block,
                       uint32_t tid, uint32_t jblk);
};

/* Walks once more along the complete transactions.  An error has been
 * logged, here or by the visitor.
 */
extern errcode_t recover_walk (struct recover *rc,
                               const struct recover_visitor *v);

/* Block JBLK of the journal, in *BLOCK until the next call. */
extern errcode_t recover_log_block (struct recover *rc, uint32_t jblk,
                                    const uint8_t **block);

/* Says that the journal cannot be replayed, because of WHAT and a NUMBER;
 * and that what the scan has found good is not there any more.  The error
 * to return.
 */
extern errcode_t recover_corrupt (const char *what, uint64_t number);
extern errcode_t recover_changed (void);

#endif /* EXT2SERVE_RECOVER_LOG_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writes a log, good or bad, into the journal of an image in memory. */

#ifndef MKLOG_H
#define MKLOG_H

#include "image.h"
#include "journal.h"

/* Kinds of journals. */
struct mklog_kind {
  const char *name;
  uint32_t type, compat, incompat;
};

#define MKLOG_KINDS 10
extern const struct mklog_kind mklog_kinds[MKLOG_KINDS];

/* Some of them by name. */
enum { MKLOG_V1, MKLOG_PLAIN, MKLOG_64BIT, MKLOG_CSUM1, MKLOG_CSUM3 = 6,
       MKLOG_CSUM3_64BIT };

/* Has it checksums of every block? */
extern bool mklog_has_csum (const struct mklog_kind *k);

/* An image with a log that is being written. */
struct mklog {
  const struct mklog_kind *kind;
  const struct journal *journal;        /* where it is */
  struct memdev *md;
  struct jbd2_super *js;        /* in place */
  struct jbd2_format f;
  uint32_t first, end;
  uint32_t at, tid, crc;
  uint32_t used;                /* blocks written */
  uint64_t time;                /* of the next commit */
  uint8_t *last[8];             /* log blocks, the newest last */
};

/* In memory: block PBLK, and block JBLK of the journal. */
extern uint8_t *mklog_in_place (const struct mklog *l, uint64_t pblk);
extern uint8_t *mklog_journal_at (const struct mklog *l, uint32_t jblk);

/* Where the journal of an image is; its runs are for free (). */
extern struct journal mklog_find_journal (struct memdev *md);

/* An empty log in MD, which is L's from now on, with the superblock saying
 * that it must be recovered.
 */
extern void mklog_open (struct mklog *l, const struct mklog_kind *kind,
                      struct memdev *md, const struct journal *journal);
extern void mklog_close (struct mklog *l);

/* The log starts at journal block START (0: it is empty, and what is
 * written goes on as before) with transaction TID.
 */
extern void mklog_set_start (struct mklog *l, uint32_t start, uint32_t tid);

/* What transaction TID makes of block PBLK; every fifth block starts with
 * the magic number, so that it must be escaped.
 */
extern void mklog_pattern (const struct mklog *l, uint8_t *p, uint64_t pblk,
                         uint32_t tid);

/* Logs N blocks from PBLKS on; DATA has what is in them, or NULL: the
 * pattern.
 */
extern void mklog_put (struct mklog *l, const uint64_t *pblks, unsigned n,
                     const uint8_t *data);
extern void mklog_revoke (struct mklog *l, const uint64_t *pblks,
                        unsigned n);
extern void mklog_commit (struct mklog *l);

/* The N-th of the newest blocks in the log; 1 is the last. */
#define MKLOG_LAST(l, n) \
  ((l)->last[sizeof (l)->last / sizeof *(l)->last - (n)])

#endif /* MKLOG_H */

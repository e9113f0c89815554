/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writes a log into the journal of an image, as an input says. */

#ifndef FUZZ_LOG_H
#define FUZZ_LOG_H

#include "fuzz-base.h"
#include "jbd2.h"

struct fuzz_record;

#define FUZZ_LOG_MOST 32u       /* blocks and revokes in a transaction */

struct fuzz_log {
  struct fuzz_base *base;
  struct jbd2_format f;
  bool started;
  uint32_t first, end, at, tid;
  uint64_t blocks[FUZZ_LOG_MOST], revokes[FUZZ_LOG_MOST];
  uint8_t *content[FUZZ_LOG_MOST];
  unsigned block_count, revoke_count;
};

/* Before the first record. */
extern void fuzz_log_init (struct fuzz_log *l, struct fuzz_base *b);

/* Does what a record of the FUZZ_LOG kinds says.  If the image has no
 * journal, nothing.
 */
extern void fuzz_log_record (struct fuzz_log *l,
                             const struct fuzz_record *r);

/* After the last: what was not committed is lost. */
extern void fuzz_log_fini (struct fuzz_log *l);

#endif /* FUZZ_LOG_H */

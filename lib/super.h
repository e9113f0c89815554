/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Reading the superblock before libext2fs does: may this filesystem be
 * served, and may it be written?
 */

#ifndef EXT2SERVE_SUPER_H
#define EXT2SERVE_SUPER_H

#include <stdbool.h>

#include <ext2fs/ext2fs.h>

#include "device.h"

struct super_verdict {
  uint32_t block_size;          /* bytes */
  bool readonly;                /* safe to read, not to write */
  bool recover;                 /* the journal must be replayed first */
  bool mmp;                     /* needs mmp_start before it is written */
  struct ext2_super_block judged; /* what was read, in host order */
};

/* Reads the primary superblock of DEV and judges it for serving, for
 * writing too if WANT_WRITE.  On refusal logs one line that names the
 * feature or state and the remedy, and returns an error; where only
 * writing is unsafe, logs a warning and sets readonly.  Writes nothing.
 *
 * With v->recover, the superblock is from before the replay of the
 * journal, and is to be judged again after it, in memory at first: no
 * warnings yet, and readonly is set.
 */
extern errcode_t super_check (struct device *dev, bool want_write,
                              struct super_verdict *v);

/* The UUID of the filesystem on DEV, and whether it has the feature mmp.
 * An error, not logged, if there is none.
 */
extern errcode_t super_identify (struct device *dev, uint8_t uuid[16],
                                 bool *mmp);

/* Does V hold for SB, in host order, which was read later?  False if
 * somebody else has changed what it rests on since.  Nothing is logged.
 */
extern bool super_unchanged (const struct super_verdict *v,
                             const struct ext2_super_block *sb);

#endif /* EXT2SERVE_SUPER_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A commit without a journal: by the order of writes in place.
 *
 *   1. Before the first change ever: superblock with VALID_FS cleared,
 *      flush.
 *   2. Bitmaps, descriptors, superblock counts; tree blocks that nothing
 *      on disk points at yet.
 *   3. Flush.  That covers 2, and also all file data written before the
 *      set was frozen: both are durable before any pointer to them.
 *      A crash up to here leaks blocks, which e2fsck -p frees.
 *   4. Tree blocks and inodes that existed before, in any order: each
 *      single block's write is a whole change of its own (extent-edit.c).
 *   5. Flush.  The set is durable.
 *      A crash before that leaks blocks and leaves wrong block counts of
 *      inodes, which e2fsck -p corrects.
 *
 * Freed blocks keep their bits until 5 is done; clearing them is a change
 * of a later set (release.c), so a crash before it leaks at worst.
 */

#include <config.h>

#include "commit.h"

static bool
in_first_wave (const struct frozen_block *fb)
{
  return fb->fresh || fb->mclass == MCLASS_BITMAP;
}

static bool
in_second_wave (const struct frozen_block *fb)
{
  return !in_first_wave (fb);
}

errcode_t
commit_ordered (struct filesystem *fs, struct commit *c)
{
  errcode_t err;

  if (c->first && ((err = commit_super (fs, &c->super)) ||
                   (err = device_flush (fs->dev))))
    return err;
  if ((err = write_in_place (fs, &c->set, in_first_wave)) ||
      (c->super_dirty && (err = commit_super (fs, &c->super))) ||
      (err = device_flush (fs->dev)) ||
      (err = write_in_place (fs, &c->set, in_second_wave)))
    return err;
  return device_flush (fs->dev);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Opening and closing a filesystem. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "fs.h"
#include "icache.h"
#include "inode.h"
#include "iomgr.h"
#include "map.h"
#include "super.h"

bool
filesystem_valid_data (const struct filesystem *fs, uint64_t blk,
                       uint64_t count)
{
  return blk >= fs->first_block && blk < fs->blocks &&
    count <= fs->blocks - blk && !syszone_overlaps (&fs->zones, blk, count);
}

static errcode_t
fail (const char *what, errcode_t err)
{
  char why[128];

  log_error ("%s: %s: run e2fsck", what, errcode_text (err, why, sizeof why));
  return err;
}

static errcode_t
open_with_libext2fs (struct filesystem *fs)
{
  /* MMP is looked after elsewhere: libext2fs would open the device by
   * its name.
   */
  int flags = EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP | EXT2_FLAG_THREADS;
  errcode_t err;

  if (fs->writable)
    flags |= EXT2_FLAG_RW;
  iomgr_set_target (fs->mc, fs->dev);
  err = ext2fs_open2 ("image", NULL, flags, 0, 0, &mcache_io_manager,
                      &fs->e2);
  iomgr_set_target (NULL, NULL);
  return err ? fail ("cannot open the filesystem", err) : 0;
}

static void
note_geometry (struct filesystem *fs)
{
  fs->first_block = fs->e2->super->s_first_data_block;
  fs->blocks = ext2fs_blocks_count (fs->e2->super);
  fs->original_state = fs->e2->super->s_state;
}

static errcode_t
check_root_directory (struct filesystem *fs)
{
  struct ext2_inode root;
  errcode_t err = ext2fs_read_inode (fs->e2, EXT2_ROOT_INO, &root);

  if (!err && !LINUX_S_ISDIR (root.i_mode))
    err = EXT2_ET_NO_DIRECTORY;
  return err ? fail ("cannot read the root directory", err) : 0;
}

/* The fields of the journal's superblock that matter here; big-endian.
 * Source: the kernel's ext4 documentation, "Journal (jbd2)".
 */
struct journal_super {
  uint32_t magic, type, h_sequence;
  uint32_t block_size, max_len, first;
  uint32_t sequence, start, error;
};

#define JOURNAL_MAGIC 0xc03b3998

/* A journal that holds something is replayed by whoever looks next, over
 * all that was written since: even if the superblock does not say
 * needs_recovery.
 */
static errcode_t
check_journal_empty (struct filesystem *fs, uint64_t blk)
{
  struct journal_super js;
  struct mbuf *mb;
  errcode_t err = mcache_read (fs->mc, blk, &mb);

  if (err)
    return fail ("cannot read the journal's superblock", err);
  memcpy (&js, mb->data, sizeof js);
  mcache_unpin (fs->mc, mb);
  if (ext2fs_be32_to_cpu (js.magic) != JOURNAL_MAGIC) {
    log_error ("the journal has no superblock: run e2fsck");
    return EXT2_ET_CORRUPT_JOURNAL_SB;
  }
  if (js.start != 0 || js.error != 0) {
    log_error ("the journal %s although needs_recovery is not set: run "
               "e2fsck", js.start ? "holds transactions"
               : "has recorded an error");
    return EXT2_ET_CORRUPT_JOURNAL_SB;
  }
  return 0;
}

static errcode_t
collect_journal (struct filesystem *fs, struct inode *inode,
                 struct syszone *zones)
{
  uint64_t lblk = 0, blocks = inode->size >> fs->block_bits;
  struct mapping m;
  errcode_t err;

  if (blocks == 0 || blocks > fs->blocks)
    return EXT2_ET_CORRUPT_JOURNAL_SB;
  for (; lblk < blocks; lblk += m.len) {
    err = map_lookup (inode, lblk, &m);
    if (err)
      return err;
    if (m.state != MAP_WRITTEN)
      return EXT2_ET_CORRUPT_JOURNAL_SB;
    if (lblk == 0 && (err = check_journal_empty (fs, m.pblk)))
      return err;
    if ((err = syszone_add (zones, m.pblk, m.len)))
      return err;
  }
  return 0;
}

/* The journal's blocks are no file's data either.  Locks: FS. */
static errcode_t
protect_journal (struct filesystem *fs)
{
  struct ext2_super_block *sb = fs->e2->super;
  struct syszone journal = { .count = 0 };
  struct inode *inode;
  size_t i;
  errcode_t err;

  if (!ext2fs_has_feature_journal (sb) || sb->s_journal_inum == 0)
    return 0;
  err = inode_load (fs, sb->s_journal_inum, &inode);
  if (err)
    return fail ("cannot read the journal's inode", err);
  err = inode->kind == INLINE_DATA ? EXT2_ET_CORRUPT_JOURNAL_SB
    : collect_journal (fs, inode, &journal);
  inode_free (inode);
  for (i = 0; i < journal.count && !err; i++)
    err = syszone_add (&fs->zones, journal.zones[i].start,
                       journal.zones[i].end - journal.zones[i].start);
  syszone_finish (&fs->zones);
  syszone_free (&journal);
  return err ? fail ("the journal cannot be used", err) : 0;
}

static errcode_t
load (struct filesystem *fs)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = open_with_libext2fs (fs);
  if (err)
    return err;
  note_geometry (fs);
  if ((err = syszone_build (&fs->zones, fs->e2)) ||
      (err = check_root_directory (fs)) || (err = protect_journal (fs)) ||
      (err = alloc_init (fs)) || (err = icache_init (fs)))
    return err;
  return 0;
}

static void
filesystem_free (struct filesystem *fs)
{
  if (fs->e2) {
    alloc_free (fs);
    /* Not ext2fs_close: everything to be written has been. */
    ext2fs_free (fs->e2);
  }
  icache_fini (fs);
  syszone_free (&fs->zones);
  mcache_free (fs->mc);
  lock_destroy (&fs->lock);
  lock_destroy (&fs->icache_lock);
  lock_destroy (&fs->syncer.lock);
  pthread_cond_destroy (&fs->syncer.wanted);
  pthread_cond_destroy (&fs->syncer.done);
  free (fs->commit_batch);
  free (fs->releasing.ranges);
  free (fs);
}

errcode_t
filesystem_open (struct device *dev, const struct filesystem_options *opts,
                 struct filesystem **fsp)
{
  struct super_verdict v;
  struct filesystem *fs;
  errcode_t err;

  err = super_check (dev, dev->writable && !opts->readonly, &v);
  if (err)
    return err;
  fs = calloc (1, sizeof *fs);
  if (fs == NULL)
    return ENOMEM;
  fs->dev = dev;
  fs->writable = !v.readonly;
  fs->block_size = v.block_size;
  while ((1u << fs->block_bits) < fs->block_size)
    fs->block_bits++;
  fs->running_tid = 1;
  lock_init (&fs->syncer.lock, LOCK_SYNC);
  pthread_cond_init (&fs->syncer.wanted, NULL);
  pthread_cond_init (&fs->syncer.done, NULL);
  lock_init (&fs->icache_lock, LOCK_ICACHE);
  lock_init (&fs->lock, LOCK_FS);
  fs->mc = mcache_new (dev, fs->block_size, opts->cache_size);
  fs->commit_batch = malloc (COMMIT_BATCH);
  err = fs->mc && fs->commit_batch ? load (fs) : ENOMEM;
  if (!err && fs->writable)
    err = syncer_start (fs);
  if (err) {
    filesystem_free (fs);
    return err;
  }
  log_debug ("opened: %llu blocks of %u bytes, %u groups, %s",
             (unsigned long long) fs->blocks, fs->block_size,
             (unsigned) fs->e2->group_desc_count,
             fs->writable ? "writable" : "read-only");
  *fsp = fs;
  return 0;
}

errcode_t
filesystem_close (struct filesystem *fs)
{
  errcode_t err = syncer_stop (fs);

  filesystem_free (fs);
  return err;
}

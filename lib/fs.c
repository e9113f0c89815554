/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Opening and closing a filesystem. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commit.h"
#include "errors.h"
#include "fs.h"
#include "icache.h"
#include "inode.h"
#include "iomgr.h"
#include "journal.h"
#include "log.h"
#include "mmp.h"
#include "overlay.h"
#include "recover.h"
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

/* libext2fs reads the superblock again, so V may be about another one. */
static errcode_t
open_with_libext2fs (struct filesystem *fs, const struct super_verdict *v)
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
  if (err)
    return fail ("cannot open the filesystem", err);
  super_writer_init (fs);
  if (super_unchanged (v, fs->e2->super))
    return 0;
  log_error ("the filesystem is being changed by somebody else: try again "
             "when that has ended");
  return EBUSY;
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

/* The journal's blocks are no file's data either.  Locks: FS. */
static errcode_t
protect_journal (struct filesystem *fs)
{
  const struct journal *j = fs->journal;
  size_t i;
  errcode_t err = 0;

  for (i = 0; j && i < j->run_count && !err; i++)
    err = syszone_add (&fs->zones, j->runs[i].pblk, j->runs[i].len);
  syszone_finish (&fs->zones);
  return err;
}

/* A journal that holds something is replayed by whoever looks next, over
 * all that was written since: even if the superblock does not say
 * needs_recovery.  Not by us: for Linux it does not exist, so it may be
 * older than what is on disk.  Locks: FS.
 */
static errcode_t
check_journal (struct filesystem *fs)
{
  struct recovery r;
  errcode_t err;

  if (fs->journal == NULL)
    return 0;
  if (fs->journal->super.start != 0) {
    log_error ("the journal holds transactions although needs_recovery is "
               "not set: run e2fsck");
    return EXT2_ET_CORRUPT_JOURNAL_SB;
  }
  if (fs->journal->super.error == 0)
    return 0;
  if (!fs->writable) {
    log_warning ("the journal has recorded an error: what is read may be "
                 "wrong, run e2fsck -f");
    return 0;
  }
  /* Replays nothing, and hands the error on to the superblock. */
  if ((err = recover_journal (fs, fs->journal, fs->dev, &r)) ||
      (err = recover_finish (fs)))
    return err;
  log_error ("the journal has recorded an error: run e2fsck -f, or serve it "
             "read-only with -r");
  return EROFS;
}

static errcode_t
load (struct filesystem *fs, const struct super_verdict *v)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = open_with_libext2fs (fs, v);
  if (err)
    return err;
  note_geometry (fs);
  if ((err = syszone_build (&fs->zones, fs->e2)) ||
      (err = mmp_protect_block (fs)) || (err = check_root_directory (fs)) ||
      (err = journal_load (fs, &fs->journal)) ||
      (err = check_journal (fs)) || (err = protect_journal (fs)) ||
      (err = orphan_load (fs)) || (err = alloc_init (fs)) ||
      (err = icache_init (fs)))
    return err;
  if (fs->writable && fs->journal) {
    err = log_new (fs, &fs->log);
    if (err == ENOTSUP)
      fs->writable = false;
    else if (err)
      return err;
  }
  return 0;
}

/* As much as it takes to find the journal; nothing else can be trusted
 * yet.  Replays it onto OUT.
 */
static errcode_t
load_and_replay (struct filesystem *fs, const struct super_verdict *v,
                 struct device *out, struct recovery *r)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = open_with_libext2fs (fs, v);
  if (err)
    return err;
  note_geometry (fs);
  if ((err = syszone_build (&fs->zones, fs->e2)) ||
      (err = journal_load (fs, &fs->journal)))
    return err;
  return recover_journal (fs, fs->journal, out, r);
}

static errcode_t
load_and_finish (struct filesystem *fs, const struct super_verdict *v)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = open_with_libext2fs (fs, v);
  return err ? err : recover_finish (fs);
}

static void
filesystem_free (struct filesystem *fs)
{
  if (fs->e2) {
    alloc_free (fs);
    super_writer_fini (fs);
    /* Not ext2fs_close: everything to be written has been. */
    ext2fs_free (fs->e2);
  }
  log_free (fs, fs->log);
  commit_fini (fs);
  icache_fini (fs);
  orphan_free (fs);
  syszone_free (&fs->zones);
  mcache_free (fs->mc);
  lock_destroy (&fs->lock);
  pthread_cond_destroy (&fs->space_back);
  lock_destroy (&fs->icache_lock);
  syncer_fini (&fs->syncer);
  journal_free (fs->journal);
  overlay_free (fs->overlay);
  free (fs);
}

static struct filesystem *
filesystem_new (struct device *dev, const struct super_verdict *v,
                size_t cache_size)
{
  struct filesystem *fs = calloc (1, sizeof *fs);

  if (fs == NULL)
    return NULL;
  fs->dev = dev;
  fs->writable = !v->readonly;
  fs->block_size = v->block_size;
  while ((1u << fs->block_bits) < fs->block_size)
    fs->block_bits++;
  fs->running_tid = 1;
  fs->most_releasing = MOST_RELEASING;
  syncer_init (&fs->syncer);
  lock_init (&fs->icache_lock, LOCK_ICACHE);
  lock_init (&fs->lock, LOCK_FS);
  lock_cond_init (&fs->space_back);
  fs->mc = mcache_new (dev, fs->block_size, cache_size);
  if (fs->mc && commit_init (fs) == 0)
    return fs;
  filesystem_free (fs);
  return NULL;
}

/* Replays the journal of the filesystem on DEV, onto it or onto OVERLAY.
 * What was read for that is forgotten: the replay may have replaced it.
 */
static errcode_t
replay (struct device *dev, const struct super_verdict *v,
        struct overlay *overlay)
{
  struct filesystem *fs = filesystem_new (dev, v, 0);
  struct recovery r;
  errcode_t err;

  if (fs == NULL)
    return ENOMEM;
  err = load_and_replay (fs, v, overlay ? overlay_device (overlay) : dev,
                         &r);
  filesystem_free (fs);
  if (!err)
    log_warning ("replayed the journal%s: %u transactions, %u blocks",
                 overlay ? " in memory" : "", r.transactions, r.blocks);
  return err;
}

/* The log is empty: only the superblock does not know yet. */
static errcode_t
finish (struct device *dev)
{
  struct super_verdict v;
  struct filesystem *fs;
  errcode_t err;

  err = super_check (dev, false, &v);
  if (err)
    return err;
  fs = filesystem_new (dev, &v, 0);
  if (fs == NULL)
    return ENOMEM;
  err = load_and_finish (fs, &v);
  filesystem_free (fs);
  return err;
}

/* The filesystem on DEV as V judges it. */
static errcode_t
open_judged (struct device *dev, const struct super_verdict *v,
             const struct filesystem_options *opts, struct filesystem **fsp)
{
  struct filesystem *fs = filesystem_new (dev, v, opts->cache_size);
  errcode_t err;

  if (fs == NULL)
    return ENOMEM;
  fs->syncer.interval = (uint64_t) opts->commit_ms * 1000;
  err = load (fs, v);
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

/* Replays the journal and judges DEV, or in *OVERLAY a layer over it,
 * again.
 */
static errcode_t
recover_and_judge (struct device *dev, bool want_write,
                   struct super_verdict *v, struct overlay **overlay)
{
  const bool to_disk = !v->readonly;
  errcode_t err;

  if (!to_disk) {
    *overlay = overlay_new (dev, v->block_size);
    if (*overlay == NULL)
      return ENOMEM;
  }
  v->readonly = true;           /* for libext2fs, while replaying */
  err = replay (dev, v, *overlay);
  if (!err && to_disk)
    err = finish (dev);
  else if (!err)
    overlay_freeze (*overlay);
  if (!err)
    err = super_check (*overlay ? overlay_device (*overlay) : dev,
                       want_write, v);
  if (*overlay)
    v->readonly = true;         /* whatever the replay has brought */
  return err;
}

/* Takes the filesystem if V says that it must be, and judges it again:
 * whoever has had it until now may have changed it since.
 */
static errcode_t
take (struct device *dev, const struct filesystem_options *opts,
      bool want_write, struct super_verdict *v, struct mmp **mmp)
{
  errcode_t err;

  if (*mmp || !v->mmp || v->readonly)
    return 0;
  err = mmp_start (dev, &v->judged, opts, mmp);
  return err ? err : super_check (dev, want_write, v);
}

errcode_t
filesystem_open (struct device *dev, const struct filesystem_options *opts,
                 struct filesystem **fsp)
{
  const bool want_write = dev->writable && !opts->readonly;
  struct overlay *overlay = NULL;
  struct mmp *mmp = NULL;
  struct super_verdict v;
  errcode_t err;

  err = super_check (dev, want_write, &v);
  if (!err)
    err = take (dev, opts, want_write, &v, &mmp);
  if (!err && v.recover)
    err = recover_and_judge (dev, want_write, &v, &overlay);
  if (!err)                     /* the replay may have brought the feature */
    err = take (dev, opts, want_write, &v, &mmp);
  if (!err && v.recover) {
    log_error ("somebody else has used the filesystem while it was being "
               "opened: end the other server, then try again");
    err = EBUSY;
  }
  if (!err)
    err = open_judged (overlay ? overlay_device (overlay) : dev, &v, opts,
                       fsp);
  if (err) {
    overlay_free (overlay);
    mmp_stop (mmp, true);
  }
  else {
    (*fsp)->reserve = opts->reserve;
    (*fsp)->overlay = overlay;
    (*fsp)->mmp = mmp;
    mmp_attach (mmp, *fsp);
  }
  return err;
}

errcode_t
filesystem_close (struct filesystem *fs)
{
  errcode_t err = syncer_stop (fs);
  const bool clean = err == 0 && !atomic_load (&fs->aborted);

  mmp_stop (fs->mmp, clean);
  filesystem_free (fs);
  return err;
}

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
#include "gdt.h"
#include "icache.h"
#include "inode.h"
#include "iomgr.h"
#include "journal.h"
#include "log.h"
#include "mmp.h"
#include "overlay.h"
#include "quota.h"
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

/* libext2fs reads the superblock again, so V may be about another one; and
 * no more than that: see gdt.c.
 */
static errcode_t
open_with_libext2fs (struct filesystem *fs, const struct super_verdict *v)
{
  /* MMP is looked after elsewhere: libext2fs would open the device by
   * its name.
   */
  int flags = EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP | EXT2_FLAG_THREADS |
    EXT2_FLAG_SUPER_ONLY;
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

/* Where everything is.  Locks: FS. */
static errcode_t
load_geometry (struct filesystem *fs, const struct super_verdict *v,
               const struct filesystem_options *opts)
{
  errcode_t err = open_with_libext2fs (fs, v);

  if (err)
    return err;
  fs->first_block = fs->e2->super->s_first_data_block;
  fs->blocks = ext2fs_blocks_count (fs->e2->super);
  fs->original_state = fs->e2->super->s_state;
  err = gdt_load (fs, opts);
  return err ? err : mmp_protect_block (fs);
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
 * older than what is on disk.
 *
 * An error that it has recorded is left there, for e2fsck.  Locks: FS.
 */
static errcode_t
check_journal (struct filesystem *fs)
{
  if (fs->journal == NULL)
    return 0;
  if (fs->journal->super.start != 0) {
    log_error ("the journal holds transactions although needs_recovery is "
               "not set: run e2fsck");
    return EXT2_ET_CORRUPT_JOURNAL_SB;
  }
  if (fs->journal->super.error == 0)
    return 0;
  if (fs->writable) {
    log_error ("the journal has recorded an error: run e2fsck -f, or serve "
               "it read-only with -r");
    return EROFS;
  }
  log_warning ("the journal has recorded an error: what is read may be "
               "wrong, run e2fsck -f");
  return 0;
}

static errcode_t
load (struct filesystem *fs, const struct super_verdict *v,
      const struct filesystem_options *opts)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  if ((err = load_geometry (fs, v, opts)) ||
      (err = check_root_directory (fs)) ||
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
 * yet.  Replays it, see recover_journal.
 */
static errcode_t
load_and_replay (struct filesystem *fs, const struct super_verdict *v,
                 const struct filesystem_options *opts,
                 struct overlay *overlay, struct recovery *r)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  if ((err = load_geometry (fs, v, opts)) ||
      (err = journal_load (fs, &fs->journal)))
    return err;
  return recover_journal (fs, fs->journal, overlay, r);
}

static errcode_t
load_and_finish (struct filesystem *fs, const struct super_verdict *v,
                 const struct filesystem_options *opts)
{
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = load_geometry (fs, v, opts);
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

/* Replays the journal of the filesystem on DEV, onto it or in OVERLAY.
 * What was read for that is forgotten: the replay may have replaced it.
 */
static errcode_t
replay (struct device *dev, const struct super_verdict *disk,
        const struct filesystem_options *opts, struct overlay *overlay,
        struct recovery *r)
{
  struct filesystem *fs = filesystem_new (dev, disk, 0);
  errcode_t err;

  if (fs == NULL)
    return ENOMEM;
  err = load_and_replay (fs, disk, opts, overlay, r);
  filesystem_free (fs);
  return err;
}

static void
say_replayed (const struct recovery *r, const char *where)
{
  log_warning ("replayed the journal%s: %u transactions, %u blocks", where,
               r->transactions, r->blocks);
}

/* Judging: nothing is written. */

struct finding {
  struct super_verdict disk;    /* of the device as it is */
  struct super_verdict v;       /* with the journal replayed, if it must be */
  struct recovery r;            /* what was replayed, in memory */
};

/* Replays the journal in memory and judges the superblock again. */
static errcode_t
recover_in_memory (struct device *dev, bool want_write,
                   const struct filesystem_options *opts, struct finding *f,
                   struct overlay **overlayp)
{
  struct overlay *overlay = overlay_new (dev, f->disk.block_size);
  errcode_t err;

  if (overlay == NULL)
    return ENOMEM;
  *overlayp = overlay;
  err = replay (dev, &f->disk, opts, overlay, &f->r);
  if (err)
    return err;
  overlay_freeze (overlay);
  return super_check (overlay_device (overlay), want_write, &f->v);
}

/* The filesystem on DEV as V judges it. */
static errcode_t
load_judged (struct device *dev, const struct super_verdict *v,
             const struct filesystem_options *opts, struct filesystem **fsp)
{
  struct filesystem *fs = filesystem_new (dev, v, opts->cache_size);
  errcode_t err;

  if (fs == NULL)
    return ENOMEM;
  fs->syncer.interval = (uint64_t) opts->commit_ms * 1000;
  fs->reserve = opts->reserve;
  err = load (fs, v, opts);
  if (err)
    filesystem_free (fs);
  else
    *fsp = fs;
  return err;
}

/* Reads and judges all that can be a reason to refuse.  *FSP is the
 * filesystem as it is found; if its journal had to be replayed, that was
 * done in memory, in fs->overlay.
 */
static errcode_t
judge (struct device *dev, const struct filesystem_options *opts,
       struct finding *f, struct filesystem **fsp)
{
  const bool want_write = dev->writable && !opts->readonly;
  struct overlay *overlay = NULL;
  errcode_t err;

  err = super_check (dev, want_write, &f->disk);
  if (err)
    return err;
  f->v = f->disk;
  if (f->disk.recover)
    err = recover_in_memory (dev, want_write, opts, f, &overlay);
  if (!err)
    err = load_judged (overlay ? overlay_device (overlay) : dev, &f->v, opts,
                       fsp);
  if (err) {
    overlay_free (overlay);
    return err;
  }
  (*fsp)->overlay = overlay;
  /* A journal that brings the feature must be replayed before the block can
   * be ours, so look now whether it can.
   */
  if ((*fsp)->writable && f->v.mmp && !f->disk.mmp &&
      (err = mmp_look ((*fsp)->dev, &f->v.judged)))
    filesystem_free (*fsp);
  return err;
}

/* Opening. */

/* The log is empty: only the superblock does not know yet. */
static errcode_t
finish (struct device *dev, const struct filesystem_options *opts)
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
  err = load_and_finish (fs, &v, opts);
  filesystem_free (fs);
  return err;
}

static errcode_t
recover_to_disk (struct device *dev, const struct finding *f,
                 const struct filesystem_options *opts)
{
  struct recovery r;
  errcode_t err;

  err = replay (dev, &f->disk, opts, NULL, &r);
  if (!err)
    err = finish (dev, opts);
  if (!err)
    say_replayed (&r, "");
  return err;
}

/* What must be done to the device before the filesystem that was found can
 * be written: it is taken (MMP), or its journal replayed.  *DONE if there is
 * nothing left.  Otherwise judge again: what was found is not true any more,
 * and whoever has had it until now may have changed it.
 */
static errcode_t
prepare_device (struct device *dev, const struct filesystem_options *opts,
                const struct finding *f, struct mmp **mmp, bool *replayed,
                bool *done)
{
  struct super_verdict disk = f->disk;

  if (disk.mmp && *mmp == NULL)
    return mmp_start (dev, &disk.judged, opts, mmp);
  if (disk.recover && !*replayed) {
    *replayed = true;
    return recover_to_disk (dev, f, opts);
  }
  *done = true;
  if (!disk.recover)
    return 0;
  log_error ("somebody else has used the filesystem while it was being "
             "opened: end the other server, then try again");
  return EBUSY;
}

/* *FSP is loaded, and the device ready for it. */
static errcode_t
judge_and_prepare (struct device *dev, const struct filesystem_options *opts,
                   struct mmp **mmp, struct filesystem **fsp)
{
  struct filesystem *fs;
  bool replayed = false, done;
  struct finding f;
  errcode_t err;

  for (;;) {
    err = judge (dev, opts, &f, &fs);
    if (err)
      return err;
    done = !fs->writable;
    if (!done)
      err = prepare_device (dev, opts, &f, mmp, &replayed, &done);
    if (done && !err)
      break;
    filesystem_free (fs);
    if (err)
      return err;
  }
  if (fs->overlay)
    say_replayed (&f.r, " in memory");
  *fsp = fs;
  return 0;
}

errcode_t
filesystem_open (struct device *dev, const struct filesystem_options *opts,
                 struct filesystem **fsp)
{
  struct filesystem *fs = NULL;
  struct mmp *mmp = NULL;
  errcode_t err;

  err = judge_and_prepare (dev, opts, &mmp, &fs);
  if (!err && fs->writable)
    err = syncer_start (fs);
  if (err) {
    if (fs)
      filesystem_free (fs);
    mmp_stop (mmp, true);
    return err;
  }
  if (!fs->writable) {          /* others have changed that meanwhile */
    mmp_stop (mmp, true);
    mmp = NULL;
  }
  orphan_warn (fs);
  quota_warn (fs);
  log_debug ("opened: %llu blocks of %u bytes, %u groups, %s",
             (unsigned long long) fs->blocks, fs->block_size,
             (unsigned) fs->e2->group_desc_count,
             fs->writable ? "writable" : "read-only");
  fs->mmp = mmp;
  mmp_attach (mmp, fs);
  *fsp = fs;
  return 0;
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

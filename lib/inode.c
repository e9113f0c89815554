/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The inode cache. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "errors.h"
#include "extent.h"
#include "hints.h"
#include "icache.h"
#include "indirect.h"
#include "inline.h"
#include "inode.h"

/* Zero-filled edges and trims of whole blocks rely on it. */
_Static_assert (EXT2_MAX_BLOCK_LOG_SIZE < SPREAD_UNIT_BITS,
                "a block lies in one unit of INODE");

#define FLAG_COMPRESSED 0x00000200      /* EXT2_COMPRBLK_FL */

/* Locks.  A waiting exclusive request is served before new shared ones
 * (spread-lock.h): otherwise a trim would starve under a steady load of
 * reads of its range.  No thread takes the same lock twice, so this cannot deadlock.
 */

spread_range *
inode_lock_shared (struct inode *inode, uint64_t offset, uint64_t count)
{
  lock_note_acquire (LOCK_INODE);
  return spread_lock_range_shared (&inode->io_lock, offset, count);
}

void
inode_unlock_shared (struct inode *inode, spread_range *range)
{
  lock_note_release (LOCK_INODE);
  spread_unlock_range_shared (&inode->io_lock, range);
}

void
inode_lock_exclusive (struct inode *inode, uint64_t offset, uint64_t count)
{
  lock_note_acquire (LOCK_INODE);
  spread_lock_range_exclusive (&inode->io_lock, offset, count);
}

void
inode_unlock_exclusive (struct inode *inode)
{
  lock_note_release (LOCK_INODE);
  spread_unlock_exclusive (&inode->io_lock);
}

void
inode_map_lock_shared (struct inode *inode)
{
  lock_note_acquire (LOCK_MAP);
  spread_lock_shared (&inode->map_lock);
}

void
inode_map_unlock_shared (struct inode *inode)
{
  lock_note_release (LOCK_MAP);
  spread_unlock_shared (&inode->map_lock);
}

void
inode_map_lock_exclusive (struct inode *inode)
{
  lock_note_acquire (LOCK_MAP);
  spread_lock_exclusive (&inode->map_lock);
}

void
inode_map_unlock_exclusive (struct inode *inode)
{
  lock_note_release (LOCK_MAP);
  spread_unlock_exclusive (&inode->map_lock);
}

/* Loading. */

static errcode_t
check_mapping (struct inode *inode)
{
  struct filesystem *fs = inode->fs;
  uint64_t blocks = inode->size / fs->block_size
    + (inode->size % fs->block_size != 0);

  if (inode->raw->i_flags & EXT4_INLINE_DATA_FL) {
    /* Linux lets it become as long as if it were mapped by blocks. */
    inode->kind = INLINE_DATA;
    inode->max_blocks = indirect_max_blocks (fs);
    inline_measure (inode);
  }
  else if (inode->raw->i_flags & EXT4_EXTENTS_FL) {
    inode->kind = MAPPED_BY_EXTENTS;
    inode->max_blocks = UINT32_MAX;
  }
  else {
    inode->kind = MAPPED_BY_BLOCKS;
    inode->max_blocks = indirect_max_blocks (fs);
  }
  if (blocks > inode->max_blocks) {
    log_error ("inode %u: its size of %llu bytes is impossible: run e2fsck",
               (unsigned) inode->ino, (unsigned long long) inode->size);
    return EXT2_FILSYS_CORRUPTED;
  }
  return inode->kind == MAPPED_BY_EXTENTS ? extent_check_root (inode) : 0;
}

static uint32_t
tree_csum_seed (struct inode *inode)
{
  uint32_t ino = ext2fs_cpu_to_le32 (inode->ino);
  uint32_t gen = ext2fs_cpu_to_le32 (inode->raw->i_generation);
  uint32_t crc = ext2fs_crc32c_le (inode->fs->e2->csum_seed,
                                   (unsigned char *) &ino, sizeof ino);

  return ext2fs_crc32c_le (crc, (unsigned char *) &gen, sizeof gen);
}

/* Reads INO; the mapping is not yet looked at.  Locks: FS. */
static errcode_t
load_raw (struct filesystem *fs, ext2_ino_t ino, struct inode **ip)
{
  const size_t size = EXT2_INODE_SIZE (fs->e2->super);
  struct inode *inode = aligned_alloc (CACHE_LINE, sizeof *inode);
  errcode_t err;

  if (inode == NULL)
    return ENOMEM;
  memset (inode, 0, sizeof *inode);
  /* Small inodes get zeros for the fields they do not have. */
  inode->raw = calloc (1, size > sizeof *inode->raw
                       ? size : sizeof *inode->raw);
  if (inode->raw == NULL) {
    free (inode);
    return ENOMEM;
  }
  inode->fs = fs;
  inode->ino = ino;
  spread_lock_init (&inode->io_lock, 0);        /* held for whole requests */
  spread_lock_init (&inode->map_lock, LOCK_SPINS);
  lock_init (&inode->fill_lock, LOCK_FILL);
  pthread_cond_init (&inode->fill_done, NULL);
  err = ext2fs_read_inode_full (fs->e2, ino, (struct ext2_inode *) inode->raw,
                                size);
  if (err) {
    inode_free (inode);
    return err;
  }
  inode->size = EXT2_I_SIZE (inode->raw);
  inode->csum_seed = tree_csum_seed (inode);
  inode->root_tid = fs->running_tid;
  runs_init (&inode->runs, inode->size / fs->block_size);
  *ip = inode;
  return 0;
}

errcode_t
inode_load (struct filesystem *fs, ext2_ino_t ino, struct inode **ip)
{
  errcode_t err;

  lock_assert_held (LOCK_FS);
  err = load_raw (fs, ino, ip);
  if (err)
    return err;
  err = check_mapping (*ip);
  if (err) {
    inode_free (*ip);
    *ip = NULL;
  }
  return err;
}

void
inode_free (struct inode *inode)
{
  spread_lock_destroy (&inode->io_lock);
  spread_lock_destroy (&inode->map_lock);
  lock_destroy (&inode->fill_lock);
  pthread_cond_destroy (&inode->fill_done);
  hints_free (inode->hints);
  runs_destroy (&inode->runs);
  free (inode->raw);
  free (inode);
}

/* May this inode be served, and written? */

static errcode_t
check_type (struct inode *inode, const char *name)
{
  if (LINUX_S_ISREG (inode->raw->i_mode))
    return 0;
  if (LINUX_S_ISDIR (inode->raw->i_mode)) {
    log_error ("%s: is a directory: name a regular file inside the image",
               name);
    return EISDIR;
  }
  log_error ("%s: is not a regular file (mode 0%o): name a regular file "
             "inside the image", name, inode->raw->i_mode);
  return EINVAL;
}

static errcode_t
check_flags (struct inode *inode, const char *name)
{
  static const struct { uint32_t flag; const char *what, *remedy; } refuse[] =
    {
      { EXT4_ENCRYPT_FL, "encrypted", "copy it out with its key on Linux" },
      { FLAG_COMPRESSED, "compressed", "decompress it on Linux" },
      { EXT4_EA_INODE_FL, "an extended attribute's inode (ea_inode)",
        "name a regular file" },
      { EXT4_SNAPFILE_FL, "a snapshot file", "name a regular file" },
      { 0, NULL, NULL },
    };
  size_t i;

  for (i = 0; refuse[i].flag; i++) {
    if (inode->raw->i_flags & refuse[i].flag) {
      log_error ("%s: is %s and cannot be served: %s", name, refuse[i].what,
                 refuse[i].remedy);
      return EINVAL;
    }
  }
  return 0;
}

static bool
may_write (struct inode *inode, const char *name)
{
  const char *what;

  if (!inode->fs->writable)
    return false;
  if (inode->raw->i_flags & EXT2_IMMUTABLE_FL)
    what = "immutable (undo with chattr -i)";
  else if (inode->raw->i_flags & EXT2_APPEND_FL)
    what = "append-only (undo with chattr -a)";
  else if (inode->raw->i_flags & EXT4_VERITY_FL)
    what = "protected by fs-verity";
  else if (orphan_is (inode->fs, inode->ino))
    what = "an orphan, a truncate of it is unfinished (run e2fsck, or mount "
      "the filesystem with Linux, to finish it)";
  else if (inode->kind == INLINE_DATA && inode->inline_bytes < inode->size)
    what = "inline and longer than its data (copy it to change that)";
  else
    return true;
  log_warning ("%s: serving read-only: the file is %s", name, what);
  return false;
}

static errcode_t
check_inode (struct inode *inode, const char *name)
{
  struct ext2_super_block *sb = inode->fs->e2->super;
  errcode_t err;

  if (inode->ino == sb->s_journal_inum ||
      inode->ino == sb->s_orphan_file_inum ||
      (inode->ino < EXT2_FIRST_INODE (sb) && inode->ino != EXT2_ROOT_INO)) {
    log_error ("%s: is an internal file of the filesystem (inode %u) and "
               "is not served", name, (unsigned) inode->ino);
    return EINVAL;
  }
  if (inode->raw->i_links_count == 0) {
    log_error ("%s: the inode is deleted but still has a name: run e2fsck",
               name);
    return EXT2_FILSYS_CORRUPTED;
  }
  if ((err = check_type (inode, name)) || (err = check_flags (inode, name)))
    return err;
  err = check_mapping (inode);
  if (err)
    log_error ("%s: the file's block map is damaged: run e2fsck", name);
  return err;
}

/* The table. */

static struct inode **
bucket_of (struct filesystem *fs, ext2_ino_t ino)
{
  return &fs->icache[(ino * 2654435761u) >> (32 - ICACHE_BITS)];
}

errcode_t
icache_init (struct filesystem *fs)
{
  fs->icache = calloc ((size_t) 1 << ICACHE_BITS, sizeof *fs->icache);
  return fs->icache ? 0 : ENOMEM;
}

void
icache_fini (struct filesystem *fs)
{
  free (fs->icache);
  fs->icache = NULL;
}

static errcode_t
load_for_service (struct filesystem *fs, ext2_ino_t ino, const char *name,
                  struct inode **ip)
{
  char why[128];
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = load_raw (fs, ino, ip);
  if (err) {
    log_error ("%s: cannot read inode %u: %s", name, (unsigned) ino,
               errcode_text (err, why, sizeof why));
    return err;
  }
  err = check_inode (*ip, name);
  if (err)
    inode_free (*ip);
  else {
    (*ip)->writable = may_write (*ip, name);
    /* An earlier object of this inode may have changed it. */
    (*ip)->changed_tid = fs->changed ? fs->running_tid : fs->running_tid - 1;
  }
  return err;
}

/* The file is read under ICACHE: opens of other files wait for it, but
 * there is never a second object for an inode.
 */
errcode_t
iget (struct filesystem *fs, ext2_ino_t ino, const char *name,
      struct inode **ip)
{
  struct inode **bucket = bucket_of (fs, ino), *inode;
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->icache_lock);
  for (inode = *bucket; inode; inode = inode->hash_next) {
    if (inode->ino == ino) {
      inode->refs++;
      *ip = inode;
      return 0;
    }
  }
  err = load_for_service (fs, ino, name, &inode);
  if (err)
    return err;
  inode->refs = 1;
  inode->hash_next = *bucket;
  *bucket = inode;
  *ip = inode;
  return 0;
}

/* Whoever opens the file next must see the times, so this happens under
 * ICACHE too.
 */
static void
write_pending_times (struct inode *inode)
{
  struct filesystem *fs = inode->fs;
  errcode_t err;

  if (!atomic_load (&inode->times_pending))
    return;
  do {
    LOCK_FOR_SCOPE (&fs->lock);
    err = inode_begin_change (inode);
    if (!err)
      inode_write (inode);
  } while (err == TRANSACTION_FULL && filesystem_make_room (fs) == 0);
}

static void
drop (struct filesystem *fs, struct inode *inode)
{
  struct inode **p;

  LOCK_FOR_SCOPE (&fs->icache_lock);
  if (--inode->refs > 0)
    return;
  write_pending_times (inode);
  for (p = bucket_of (fs, inode->ino); *p != inode; p = &(*p)->hash_next)
    ;
  *p = inode->hash_next;
  inode_free (inode);
}

void
iput (struct inode *inode)
{
  struct filesystem *fs = inode->fs;

  drop (fs, inode);
  filesystem_balance (fs);
}

/* Writing. */

/* 34 bits of seconds and 30 of nanoseconds, where the inode has room. */
static void
set_time (const struct inode *inode, uint32_t *sec, uint32_t *extra,
          const struct timespec *ts)
{
  size_t fixed = EXT2_GOOD_OLD_INODE_SIZE + inode->raw->i_extra_isize;
  const int64_t seconds = ts->tv_sec;   /* time_t has 32 bits on some */

  *sec = (uint32_t) seconds;
  if (EXT2_INODE_SIZE (inode->fs->e2->super) > EXT2_GOOD_OLD_INODE_SIZE &&
      (size_t) ((uint8_t *) (extra + 1) - (uint8_t *) inode->raw) <= fixed)
    *extra = (uint32_t) (ts->tv_nsec << 2)
      | (uint32_t) (((seconds - (int32_t) seconds) >> 32) & 3);
}

static void
set_times (struct inode *inode)
{
  struct timespec now;

  clock_gettime (CLOCK_REALTIME, &now);
  set_time (inode, &inode->raw->i_mtime, &inode->raw->i_mtime_extra, &now);
  set_time (inode, &inode->raw->i_ctime, &inode->raw->i_ctime_extra, &now);
}

/* Where INODE lies in the inode table: bytes from the device's start. */
static uint64_t
table_offset (struct inode *inode)
{
  ext2_filsys e2 = inode->fs->e2;
  dgrp_t g = (inode->ino - 1) / EXT2_INODES_PER_GROUP (e2->super);

  return (ext2fs_inode_table_loc (e2, g) << inode->fs->block_bits)
    + (uint64_t) ((inode->ino - 1) % EXT2_INODES_PER_GROUP (e2->super))
    * EXT2_INODE_SIZE (e2->super);
}

static errcode_t
read_table_block (struct inode *inode, struct mbuf **mbp)
{
  return mcache_read (inode->fs->mc,
                      table_offset (inode) >> inode->fs->block_bits, mbp);
}

/* The raw inode goes into its block, which inode_begin_change has put into
 * the running set.  What ext2fs_write_inode_full does, without the memory
 * that takes: this comes after the change, so it must not fail.  Locks: FS.
 */
static errcode_t
put_raw (struct inode *inode)
{
  struct filesystem *fs = inode->fs;
  const size_t size = EXT2_INODE_SIZE (fs->e2->super);
  struct ext2_inode_large *to;
  struct mbuf *mb;
  errcode_t err = read_table_block (inode, &mb);

  if (err)
    return err;
  LOCK_DEBUG (assert (mcache_is_dirty (mb)));
  to = (void *) (mb->data + (table_offset (inode) & (fs->block_size - 1)));
#ifdef WORDS_BIGENDIAN
  ext2fs_swap_inode_full (fs->e2, to, inode->raw, 1, (int) size);
#else
  memcpy (to, inode->raw, size);
#endif
  err = ext2fs_inode_csum_set (fs->e2, inode->ino, to);
  mcache_unpin (fs->mc, mb);
  ext2fs_flush_icache (fs->e2);         /* it has the inode as it was */
  return err;
}

errcode_t
inode_begin_change (struct inode *inode)
{
  struct filesystem *fs = inode->fs;
  struct mbuf *mb;
  errcode_t err;

  err = read_table_block (inode, &mb);
  if (err)
    return err;
  err = filesystem_begin_change (fs);
  if (!err)
    err = mcache_dirty (fs->mc, mb, MCLASS_INODE, false);
  mcache_unpin (fs->mc, mb);
  return err;
}

errcode_t
inode_write (struct inode *inode)
{
  struct filesystem *fs = inode->fs;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  atomic_store (&inode->times_pending, false);
  set_times (inode);
  err = put_raw (inode);
  if (err)
    filesystem_abort (fs, "an inode could not be changed", err);
  else
    atomic_store (&inode->changed_tid, fs->running_tid);
  filesystem_note_growth (fs);
  return err;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Orphan inodes: which there are, so that they can be left alone.
 *
 * Notes on the design.  Linux and e2fsck finish orphans when they next
 * look at the filesystem: an inode without links is deleted, one with
 * links is cut to its size.  We do neither.  Deleting an inode means its
 * attribute blocks with their reference counts, inodes that hold large
 * attribute values, quota, the inode bitmap; all that for an inode that
 * nobody can ask us for, only to gain space a little earlier.
 *
 * Leaving them is safe:
 *
 *   1. Their inodes and blocks are allocated in the bitmaps, and we only
 *      ever take blocks whose bit is clear, and never an inode.
 *   2. We change no inode but those of files that are served writable,
 *      and no orphan is: one without links has no name, one with links is
 *      served read-only.
 *   3. So i_dtime, which chains them, stays, and so do the orphan file's
 *      blocks, s_last_orphan and orphan_present: every superblock we
 *      write is the one that was read, but for the fields we keep.
 *   4. Reading one with links is right: what is beyond its size is not
 *      shown, and its blocks below are what they were.
 *
 * What must be known is therefore the complete list.  A list that is
 * damaged makes the filesystem read-only.
 *
 * On disk: s_last_orphan names the first inode of a chain, i_dtime of each
 * the next, 0 ends it.  With the feature orphan_file they are also (most
 * of them) entered into the blocks of inode s_orphan_file_inum, each an
 * array of 32-bit inode numbers, 0 for a free place, with an
 * ext4_orphan_block_tail at the end; orphan_present says whether there
 * may be any.  Source: the kernel's ext4 documentation, "Orphan file".
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "fs.h"
#include "inode.h"
#include "map.h"
#include "orphan.h"

/* More than a machine can have open; bounds the walk of a chain that is a
 * circle, too.
 */
#define MOST ((size_t) 1 << 20)

static errcode_t
add (struct filesystem *fs, ext2_ino_t ino)
{
  struct orphans *o = &fs->orphans;
  const struct ext2_super_block *sb = fs->e2->super;

  if (ino < EXT2_FIRST_INODE (sb) || ino > sb->s_inodes_count ||
      ino == sb->s_orphan_file_inum || o->count == MOST)
    return EXT2_FILSYS_CORRUPTED;
  if (o->count == o->size) {
    size_t n = o->size ? o->size * 2 : 64;
    ext2_ino_t *p = realloc (o->inos, n * sizeof *p);

    if (p == NULL)
      return ENOMEM;
    o->inos = p;
    o->size = n;
  }
  o->inos[o->count++] = ino;
  return 0;
}

static errcode_t
walk_chain (struct filesystem *fs)
{
  ext2_ino_t ino = fs->e2->super->s_last_orphan;
  struct ext2_inode inode;
  errcode_t err = 0;

  while (ino != 0 && !err) {
    err = add (fs, ino);
    if (!err)
      err = ext2fs_read_inode (fs->e2, ino, &inode);
    if (!err)
      ino = inode.i_dtime;
  }
  return err;
}

/* (The library's own ..._csum_verify, 1.47, turns the sum round once too
 * often on big-endian machines.)
 */
static bool
has_good_checksum (struct inode *inode, uint64_t blk, char *buf,
                   const struct ext4_orphan_block_tail *tail)
{
  ext2_filsys e2 = inode->fs->e2;

  return !ext2fs_has_feature_metadata_csum (e2->super) ||
    tail->ob_checksum
    == ext2fs_do_orphan_file_block_csum (e2, inode->ino,
                                         inode->raw->i_generation, blk, buf);
}

/* One block of the orphan file. */
static errcode_t
read_block (struct inode *inode, uint64_t blk, char *buf)
{
  struct filesystem *fs = inode->fs;
  const struct ext4_orphan_block_tail *tail
    = ext2fs_orphan_block_tail (fs->e2, buf);
  const int entries = ext2fs_inodes_per_orphan_block (fs->e2);
  uint32_t entry;
  errcode_t err;
  int i;

  err = device_pread (fs->dev, buf, fs->block_size, blk << fs->block_bits);
  if (err)
    return err;
  if (ext2fs_le32_to_cpu (tail->ob_magic) != EXT4_ORPHAN_BLOCK_MAGIC ||
      !has_good_checksum (inode, blk, buf, tail))
    return EXT2_FILSYS_CORRUPTED;
  for (i = 0; i < entries && !err; i++) {
    memcpy (&entry, buf + (size_t) i * sizeof entry, sizeof entry);
    if (entry != 0)
      err = add (fs, ext2fs_le32_to_cpu (entry));
  }
  return err;
}

static errcode_t
read_blocks (struct filesystem *fs, struct inode *inode, char *buf)
{
  const uint64_t blocks = inode->size >> fs->block_bits;
  struct mapping m;
  uint64_t lblk, i;
  errcode_t err = 0;

  if (inode->kind == INLINE_DATA || !LINUX_S_ISREG (inode->raw->i_mode) ||
      inode->size % fs->block_size != 0 || blocks > MOST)
    return EXT2_FILSYS_CORRUPTED;
  for (lblk = 0; lblk < blocks && !err; lblk += m.len) {
    err = map_lookup (inode, lblk, blocks - lblk, &m);
    if (!err && m.state != MAP_WRITTEN)
      err = EXT2_FILSYS_CORRUPTED;
    if (!err && m.len > blocks - lblk)
      m.len = blocks - lblk;
    for (i = 0; !err && i < m.len; i++)
      err = read_block (inode, m.pblk + i, buf);
  }
  return err;
}

static errcode_t
read_orphan_file (struct filesystem *fs)
{
  struct ext2_super_block *sb = fs->e2->super;
  struct inode *inode;
  char *buf;
  errcode_t err;

  if (!ext2fs_has_feature_orphan_present (sb))
    return 0;
  if (!ext2fs_has_feature_orphan_file (sb))
    return EXT2_FILSYS_CORRUPTED;
  err = inode_load (fs, sb->s_orphan_file_inum, &inode);
  if (err)
    return err;
  buf = malloc (fs->block_size);
  err = buf ? read_blocks (fs, inode, buf) : ENOMEM;
  free (buf);
  inode_free (inode);
  return err;
}

static int
compare (const void *av, const void *bv)
{
  const ext2_ino_t a = *(const ext2_ino_t *) av, b = *(const ext2_ino_t *) bv;

  return a < b ? -1 : a > b;
}

/* An inode that is there twice means a circle, or a mistake. */
static errcode_t
sort (struct orphans *o)
{
  size_t i;

  if (o->count == 0)
    return 0;
  qsort (o->inos, o->count, sizeof *o->inos, compare);
  for (i = 1; i < o->count; i++)
    if (o->inos[i - 1] == o->inos[i])
      return EXT2_FILSYS_CORRUPTED;
  return 0;
}

errcode_t
orphan_load (struct filesystem *fs)
{
  char why[128];
  errcode_t err;

  lock_assert_held (LOCK_FS);
  if (!fs->writable)
    return 0;
  if ((err = walk_chain (fs)) || (err = read_orphan_file (fs)) ||
      (err = sort (&fs->orphans))) {
    if (err == ENOMEM)
      return err;
    log_warning ("serving read-only: the list of orphan inodes is damaged "
                 "(%s): run e2fsck -f to write",
                 errcode_text (err, why, sizeof why));
    fs->writable = false;
  }
  return 0;
}

void
orphan_warn (const struct filesystem *fs)
{
  if (fs->orphans.count > 0)
    log_warning ("%zu orphan inodes (deleted or truncated files, not yet "
                 "freed) are left as they are: run e2fsck, or mount it with "
                 "Linux, to get their space back", fs->orphans.count);
}

void
orphan_free (struct filesystem *fs)
{
  free (fs->orphans.inos);
}

bool
orphan_is (const struct filesystem *fs, ext2_ino_t ino)
{
  const struct orphans *o = &fs->orphans;

  return o->count > 0 &&
    bsearch (&ino, o->inos, o->count, sizeof ino, compare) != NULL;
}

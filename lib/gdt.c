/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block group descriptors.
 *
 * Notes on the design.  libext2fs allocates room for all descriptors that
 * the superblock asks for and reads them before anybody can look at one.
 * A superblock of 1 KiB can ask for gigabytes, so it is told to read the
 * superblock only (EXT2_FLAG_SUPER_ONLY, public as is fs->group_desc),
 * and the rest is done here: read a piece, judge it, and only then make
 * room for the next, which is as large as all before, within limits: so
 * that large filesystems still take few requests.
 *
 * That two groups claim the same blocks is found by sorting the zones,
 * whenever there are twice as many: descriptors that repeat do not get
 * far either.  Then neighbours become one, too: with flex_bg the zones of
 * one kind lie side by side, but come in turn.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "errors.h"
#include "gdt.h"

/* Bytes of descriptors in one read.  */
#define LEAST_PIECE ((size_t) 1 << 20)
#define MOST_PIECE ((size_t) 16 << 20)

/* See whether to give up after so many bytes. */
#define LOOK_UP ((size_t) 64 << 10)

/* Sort the zones when there are so many for the first time. */
#define FIRST_SORT 1024

struct loading {
  struct filesystem *fs;
  uint8_t *descs;               /* becomes fs->e2->group_desc */
  size_t room;                  /* blocks */
  size_t next_sort;             /* zones */
};

/* The device's block with descriptor block I.  With 1k blocks, block 0 is
 * never one of the filesystem's own, even if the groups begin there.
 */
static uint64_t
place (const ext2_filsys e2, size_t i, size_t first_meta)
{
  const struct ext2_super_block *sb = e2->super;

  if (i >= first_meta)
    return ext2fs_descriptor_block_loc2 (e2, sb->s_first_data_block, i);
  return sb->s_first_data_block + 1 + i
    + (sb->s_first_data_block == 0 && e2->blocksize == 1024);
}

static errcode_t
make_room (struct loading *l, size_t blocks)
{
  ext2_filsys e2 = l->fs->e2;
  size_t n = 2 * l->room;
  uint8_t *p;

  if (blocks <= l->room)
    return 0;
  if (n < blocks)
    n = blocks;
  if (n > e2->desc_blocks)
    n = e2->desc_blocks;
  p = realloc (l->descs, n * e2->blocksize);
  if (p == NULL)
    return ENOMEM;
  l->descs = p;
  l->room = n;
  e2->group_desc = (struct opaque_ext2_group_desc *) p;
  return 0;
}

static errcode_t
overlap (void)
{
  log_error ("the metadata of two block groups overlap: run e2fsck");
  return EXT2_FILSYS_CORRUPTED;
}

/* Groups [G, END), whose descriptors have been read. */
static errcode_t
judge (struct loading *l, dgrp_t g, dgrp_t end)
{
  struct filesystem *fs = l->fs;
  errcode_t err;

  for (; g < end; g++) {
#ifdef WORDS_BIGENDIAN
    ext2fs_swap_group_desc2 (fs->e2, ext2fs_group_desc (fs->e2,
                                                        fs->e2->group_desc,
                                                        g));
#endif
    err = syszone_add_group (&fs->zones, fs->e2, g);
    if (err)
      return err;
    if (fs->zones.count >= l->next_sort) {
      if (!syszone_finish (&fs->zones))
        return overlap ();
      l->next_sort = 2 * fs->zones.count > FIRST_SORT
        ? 2 * fs->zones.count : FIRST_SORT;
    }
  }
  return 0;
}

/* How many blocks to read in one go, having read I. */
static size_t
piece (const ext2_filsys e2, size_t i, size_t first_meta)
{
  size_t bytes = i * e2->blocksize, n;

  if (i >= first_meta)
    return 1;                   /* each lies in another group */
  if (bytes < LEAST_PIECE)
    bytes = LEAST_PIECE;
  if (bytes > MOST_PIECE)
    bytes = MOST_PIECE;
  n = bytes / e2->blocksize;
  return n < first_meta - i ? n : first_meta - i;
}

static errcode_t
read_piece (struct loading *l, size_t i, size_t n, size_t first_meta)
{
  ext2_filsys e2 = l->fs->e2;
  const size_t per_block = EXT2_DESC_PER_BLOCK (e2->super);
  char why[128];
  uint64_t end = (uint64_t) (i + n) * per_block;
  errcode_t err;

  err = make_room (l, i + n);
  if (!err)
    err = io_channel_read_blk64 (e2->io, place (e2, i, first_meta), n,
                                 l->descs + i * e2->blocksize);
  if (err) {
    log_error ("cannot read the block group descriptors: %s: see to the %s",
               errcode_text (err, why, sizeof why), err == ENOMEM
               ? "memory of this machine" : "device");
    return err;
  }
  if (end > e2->group_desc_count)
    end = e2->group_desc_count;
  return judge (l, i * per_block, end);
}

errcode_t
gdt_load (struct filesystem *fs, const struct filesystem_options *opts)
{
  ext2_filsys e2 = fs->e2;
  struct loading l = { .fs = fs, .next_sort = FIRST_SORT };
  const size_t first_meta = ext2fs_has_feature_meta_bg (e2->super)
    ? e2->super->s_first_meta_bg : e2->desc_blocks;
  size_t i, n, looked = 0;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  for (i = 0; i < e2->desc_blocks; i += n) {
    if ((i - looked) * e2->blocksize >= LOOK_UP) {
      looked = i;
      if (opts->wait && !opts->wait (0)) {
        log_error ("opening was given up while reading the block group "
                   "descriptors");
        return ECANCELED;
      }
    }
    n = piece (e2, i, first_meta);
    if ((err = read_piece (&l, i, n, first_meta)))
      return err;
  }
  e2->flags &= ~EXT2_FLAG_SUPER_ONLY;
  return syszone_finish (&fs->zones) ? 0 : overlap ();
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Changing block bitmaps, and the descriptors and counts that go along. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs.h"
#include "group.h"

/* Record that the bitmap and the descriptor of G are going to change. */
static errcode_t
note_change (struct filesystem *fs, dgrp_t g)
{
  struct allocator *a = &fs->alloc;
  size_t gdt = (size_t) g / EXT2_DESC_PER_BLOCK (fs->e2->super);

  if (!a->groups[g].bitmap_dirty) {
    if (a->ndirty == a->dirty_size) {
      size_t n = a->dirty_size ? a->dirty_size * 2 : 64;
      dgrp_t *p = realloc (a->dirty_groups, n * sizeof *p);

      if (p == NULL)
        return ENOMEM;
      a->dirty_groups = p;
      a->dirty_size = n;
    }
    a->dirty_groups[a->ndirty++] = g;
    a->groups[g].bitmap_dirty = true;
  }
  if (!a->gdt_dirty[gdt]) {
    a->gdt_dirty[gdt] = 1;
    a->ngdt_dirty++;
  }
  fs->super_dirty = true;
  return 0;
}

errcode_t
group_load_for_change (struct filesystem *fs, dgrp_t g, struct mbuf **mbp)
{
  errcode_t err = group_bitmap (fs, g, mbp);

  if (err)
    return err;
  err = mcache_dirty (fs->mc, *mbp, MCLASS_BITMAP, false);
  if (!err)
    err = note_change (fs, g);
  if (err)
    mcache_unpin (fs->mc, *mbp);
  return err;
}

/* inv 2 */
static void
count_change (struct filesystem *fs, dgrp_t g, uint32_t n, bool allocate)
{
  ext2_filsys e2 = fs->e2;
  uint32_t free_blocks = ext2fs_bg_free_blocks_count (e2, g);

  ext2fs_bg_free_blocks_count_set (e2, g, allocate ? free_blocks - n
                                   : free_blocks + n);
  ext2fs_free_blocks_count_add (e2->super,
                                allocate ? -(blk64_t) n : (blk64_t) n);
  ext2fs_bg_flags_clear (e2, g, EXT2_BG_BLOCK_UNINIT);
}

errcode_t
group_change_bits (struct filesystem *fs, dgrp_t g, uint32_t bit, uint32_t n,
                   bool allocate)
{
  struct mbuf *mb;
  uint32_t i;
  errcode_t err;

  err = group_bitmap (fs, g, &mb);
  if (err)
    return err;
  if (bit_find (mb->data, bit, bit + n, allocate) != bit + n) {
    /* Two owners for one block, or a bitmap that never knew of it. */
    mcache_unpin (fs->mc, mb);
    group_set_bad (fs, g, allocate
                  ? "a reserved block is already allocated"
                  : "a block to be freed is already free");
    return EXT2_FILSYS_CORRUPTED;
  }
  mcache_unpin (fs->mc, mb);
  err = group_load_for_change (fs, g, &mb);
  if (err)
    return err;
  for (i = 0; i < n; i++) {
    if (allocate)
      bit_set (mb->data, bit + i);
    else
      bit_clear (mb->data, bit + i);
  }
  count_change (fs, g, n, allocate);
  mcache_unpin (fs->mc, mb);
  return 0;
}

static errcode_t
copy_descriptors (struct filesystem *fs, size_t index)
{
  ext2_filsys e2 = fs->e2;
  uint8_t *from = (uint8_t *) e2->group_desc + index * fs->block_size;
  blk64_t blk = ext2fs_descriptor_block_loc2 (e2, e2->super->s_first_data_block,
                                              index);
  struct mbuf *mb;
  errcode_t err;

  err = mcache_zeroed (fs->mc, blk, &mb);
  if (err)
    return err;
  memcpy (mb->data, from, fs->block_size);
#ifdef WORDS_BIGENDIAN
  {
    size_t per = EXT2_DESC_PER_BLOCK (e2->super), i;

    for (i = 0; i < per; i++)
      ext2fs_swap_group_desc2 (e2, (struct ext2_group_desc *)
                               (mb->data + i * EXT2_DESC_SIZE (e2->super)));
  }
#endif
  err = mcache_dirty (fs->mc, mb, MCLASS_BITMAP, false);
  mcache_unpin (fs->mc, mb);
  return err;
}

errcode_t
group_prepare_freeze (struct filesystem *fs)
{
  struct allocator *a = &fs->alloc;
  ext2_filsys e2 = fs->e2;
  struct mbuf *mb;
  size_t i;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  for (i = 0; i < a->ndirty; i++) {
    dgrp_t g = a->dirty_groups[i];

    /* Dirty, hence still cached. */
    mb = mcache_find (fs->mc, ext2fs_block_bitmap_loc (e2, g));
    if (mb == NULL)
      return EIO;
    ext2fs_block_bitmap_csum_set (e2, g, (char *) mb->data,
                                  EXT2_CLUSTERS_PER_GROUP (e2->super) / 8);
    mcache_unpin (fs->mc, mb);
    ext2fs_group_desc_csum_set (e2, g);
  }
  for (i = 0; a->ngdt_dirty > 0 && i < e2->desc_blocks; i++) {
    if (!a->gdt_dirty[i])
      continue;
    err = copy_descriptors (fs, i);
    if (err)
      return err;
    a->gdt_dirty[i] = 0;
    a->ngdt_dirty--;
  }
  for (i = 0; i < a->ndirty; i++) {
    LOCK_DEBUG (group_check (fs, a->dirty_groups[i]));
    a->groups[a->dirty_groups[i]].bitmap_dirty = false;
    group_drop_busy (fs, a->dirty_groups[i]);
  }
  a->ndirty = 0;
  return 0;
}

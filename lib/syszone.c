/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The filesystem's own fixed metadata blocks, as a sorted array. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>

#include "errors.h"
#include "syszone.h"

errcode_t
syszone_add (struct syszone *z, uint64_t blk, uint64_t count)
{
  if (count == 0)
    return 0;
  /* What follows the last one is often added next. */
  if (z->count > 0 && z->zones[z->count - 1].end == blk) {
    z->zones[z->count - 1].end += count;
    return 0;
  }
  if (z->count == z->size) {
    size_t n = z->size ? z->size * 2 : 64;
    struct zone *p = realloc (z->zones, n * sizeof *p);

    if (p == NULL)
      return ENOMEM;
    z->zones = p;
    z->size = n;
  }
  z->zones[z->count].start = blk;
  z->zones[z->count].end = blk + count;
  z->count++;
  return 0;
}

static int
compare_zones (const void *av, const void *bv)
{
  const struct zone *a = av, *b = bv;

  return a->start < b->start ? -1 : a->start > b->start;
}

bool
syszone_finish (struct syszone *z)
{
  size_t i, n = 0;
  bool disjoint = true;

  if (z->count == 0)
    return true;
  qsort (z->zones, z->count, sizeof *z->zones, compare_zones);
  for (i = 1; i < z->count; i++) {
    if (z->zones[i].start <= z->zones[n].end) {
      if (z->zones[i].start < z->zones[n].end)
        disjoint = false;
      if (z->zones[i].end > z->zones[n].end)
        z->zones[n].end = z->zones[i].end;
    }
    else
      z->zones[++n] = z->zones[i];
  }
  z->count = n + 1;
  return disjoint;
}

void
syszone_free (struct syszone *z)
{
  free (z->zones);
  z->zones = NULL;
  z->count = z->size = 0;
}

/* Superblock copy and descriptors at the start of a group. */
static errcode_t
add_super_and_descriptors (struct syszone *z, ext2_filsys fs, dgrp_t group)
{
  blk64_t super, old_desc, new_desc;
  blk_t used;
  errcode_t err;

  err = ext2fs_super_and_bgd_loc2 (fs, group, &super, &old_desc, &new_desc,
                                   &used);
  if (err)
    return err;
  if (super || group == 0) {
    err = syszone_add (z, super, 1);
    if (err)
      return err;
  }
  /* With 1k blocks block 0 is the boot block, outside every group. */
  if (old_desc) {
    blk_t n = ext2fs_has_feature_meta_bg (fs->super)
      ? fs->super->s_first_meta_bg
      : fs->desc_blocks + fs->super->s_reserved_gdt_blocks;

    err = syszone_add (z, old_desc, n);
    if (err)
      return err;
  }
  if (new_desc)
    return syszone_add (z, new_desc, 1);
  return 0;
}

/* Where the metadata of a group may be: [FIRST, END). */
struct bounds {
  dgrp_t group;
  uint64_t first, end;
};

static errcode_t
add_located (struct syszone *z, const struct bounds *b, const char *what,
             uint64_t blk, uint64_t count)
{
  if (blk < b->first || blk >= b->end || count > b->end - blk) {
    log_error ("the %s of block group %u is at block %llu, which is not "
               "between %llu and %llu: run e2fsck", what,
               (unsigned) b->group, (unsigned long long) blk,
               (unsigned long long) b->first,
               (unsigned long long) b->end - 1);
    return EXT2_FILSYS_CORRUPTED;
  }
  return syszone_add (z, blk, count);
}

errcode_t
syszone_add_group (struct syszone *z, ext2_filsys fs, dgrp_t g)
{
  struct bounds b = { g, fs->super->s_first_data_block,
                      ext2fs_blocks_count (fs->super) };
  errcode_t err;

  if (!ext2fs_group_desc_csum_verify (fs, g)) {
    log_error ("the descriptor of block group %u has a wrong checksum: "
               "run e2fsck", (unsigned) g);
    return EXT2_FILSYS_CORRUPTED;
  }
  /* Linux does not mount it otherwise either. */
  if (!ext2fs_has_feature_flex_bg (fs->super)) {
    b.first = ext2fs_group_first_block2 (fs, g);
    b.end = ext2fs_group_last_block2 (fs, g) + 1;
  }
  if ((err = add_super_and_descriptors (z, fs, g)) ||
      (err = add_located (z, &b, "block bitmap",
                          ext2fs_block_bitmap_loc (fs, g), 1)) ||
      (err = add_located (z, &b, "inode bitmap",
                          ext2fs_inode_bitmap_loc (fs, g), 1)))
    return err;
  return add_located (z, &b, "inode table", ext2fs_inode_table_loc (fs, g),
                      fs->inode_blocks_per_group);
}

size_t
syszone_search (const struct syszone *z, uint64_t blk)
{
  size_t lo = 0, hi = z->count;

  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;

    if (z->zones[mid].end > blk)
      hi = mid;
    else
      lo = mid + 1;
  }
  return lo;
}

bool
syszone_overlaps (const struct syszone *z, uint64_t blk, uint64_t count)
{
  size_t i = syszone_search (z, blk);

  return i < z->count && z->zones[i].start < blk + count;
}

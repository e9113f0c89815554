/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Which blocks belong to whom: see fuzz-walk.h. */

#include <config.h>

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz-walk.h"

#define MOST_DEPTH 6

struct walk {
  const struct fuzz_base *b;
  const uint8_t *mem;
  uint8_t *marks;
  unsigned left;                /* nodes still to be looked at */
};

static uint32_t
get16 (const uint8_t *p)
{
  return p[0] | p[1] << 8;
}

static uint32_t
get32 (const uint8_t *p)
{
  return get16 (p) | get16 (p + 2) << 16;
}

static void
mark (struct walk *w, uint64_t blk, uint64_t len)
{
  for (; len > 0 && blk < w->b->blocks; blk++, len--)
    if (w->marks[blk] < 255)
      w->marks[blk]++;
}

static const uint8_t *
block_at (struct walk *w, uint64_t blk)
{
  if (blk == 0 || blk >= w->b->blocks || w->left == 0)
    return NULL;
  w->left--;
  return w->mem + blk * w->b->block_size;
}

/* An extent tree: the node has SIZE bytes. */
static void
mark_extents (struct walk *w, const uint8_t *node, uint32_t size,
              unsigned depth)
{
  const uint32_t entries = get16 (node + 2);
  const bool index = get16 (node + 6) != 0;
  const uint8_t *e = node + 12, *child;
  uint32_t i, len;
  uint64_t blk;

  if (get16 (node) != EXT3_EXT_MAGIC)
    return;
  for (i = 0; i < entries && 12 + 12 * (i + 1) <= size; i++, e += 12) {
    if (index) {
      blk = get32 (e + 4) | (uint64_t) get16 (e + 8) << 32;
      mark (w, blk, 1);
      child = depth < MOST_DEPTH ? block_at (w, blk) : NULL;
      if (child)
        mark_extents (w, child, w->b->block_size, depth + 1);
    }
    else {
      len = get16 (e + 4);
      blk = get32 (e + 8) | (uint64_t) get16 (e + 6) << 32;
      mark (w, blk, len > EXT_INIT_MAX_LEN ? len - EXT_INIT_MAX_LEN : len);
    }
  }
}

/* What the pointer at P leads to; LEVEL 0 is data. */
static void
mark_pointer (struct walk *w, const uint8_t *p, unsigned level)
{
  const uint32_t blk = get32 (p);
  const uint8_t *table;
  uint32_t i;

  if (blk == 0)
    return;
  mark (w, blk, 1);
  table = level > 0 ? block_at (w, blk) : NULL;
  for (i = 0; table && i < w->b->block_size / 4; i++)
    mark_pointer (w, table + 4 * (size_t) i, level - 1);
}

static const uint8_t *
inode_at (const struct fuzz_base *b, const uint8_t *mem, uint32_t ino)
{
  ext2_filsys e2 = b->fs->e2;
  const uint32_t per_group = e2->super->s_inodes_per_group;

  return mem
    + ext2fs_inode_table_loc (e2, (ino - 1) / per_group) * b->block_size
    + (size_t) ((ino - 1) % per_group) * EXT2_INODE_SIZE (e2->super);
}

void
fuzz_mark (const struct fuzz_base *b, const uint8_t *mem, uint32_t ino,
           uint8_t *marks)
{
  struct walk w = { b, mem, marks, 20000 };
  const uint8_t *inode = inode_at (b, mem, ino);
  const uint8_t *i_block = inode + offsetof (struct ext2_inode, i_block);
  const uint32_t mode = get16 (inode);
  const uint32_t flags = get32 (inode
                                + offsetof (struct ext2_inode, i_flags));
  unsigned i;

  if (flags & EXT4_INLINE_DATA_FL)
    return;
  if (LINUX_S_ISLNK (mode) &&
      get32 (inode + offsetof (struct ext2_inode, i_size)) < 60)
    return;
  if (flags & EXT4_EXTENTS_FL)
    mark_extents (&w, i_block, 60, 0);
  else
    for (i = 0; i < 15; i++)
      mark_pointer (&w, i_block + 4 * (size_t) i, i < 12 ? 0 : i - 11);
}

bool
fuzz_is_allocated (const struct fuzz_base *b, const uint8_t *mem,
                   uint64_t blk)
{
  ext2_filsys e2 = b->fs->e2;
  const dgrp_t g = ext2fs_group_of_blk2 (e2, blk);

  return ext2fs_test_bit
    ((blk - ext2fs_group_first_block2 (e2, g)) >> e2->cluster_ratio_bits,
     mem + ext2fs_block_bitmap_loc (e2, g) * b->block_size);
}

/* Consistency. */

static const uint8_t *
desc_at (const struct fuzz_base *b, dgrp_t g)
{
  return b->dev->mem + b->places[FUZZ_DESC][g].offset;
}

static bool
is_in_use (const struct fuzz_base *b, uint32_t ino)
{
  ext2_filsys e2 = b->fs->e2;
  const uint32_t per_group = e2->super->s_inodes_per_group;
  const dgrp_t g = (ino - 1) / per_group;

  return !(get16 (desc_at (b, g) + 18) & EXT2_BG_INODE_UNINIT) &&
    ext2fs_test_bit ((ino - 1) % per_group, b->dev->mem
                     + ext2fs_inode_bitmap_loc (e2, g) * b->block_size);
}

static void
mark_all (const struct fuzz_base *b, uint8_t *marks)
{
  struct walk w = { b, b->dev->mem, marks, 0 };
  const struct syszone *z = &b->fs->zones;
  uint32_t ino;
  size_t i;

  for (i = 0; i < z->count; i++)
    mark (&w, z->zones[i].start, z->zones[i].end - z->zones[i].start);
  for (ino = EXT2_ROOT_INO; ino <= b->fs->e2->super->s_inodes_count; ino++)
    if (ino != EXT2_RESIZE_INO && ino != EXT2_JOURNAL_INO &&
        is_in_use (b, ino))
      fuzz_mark (b, b->dev->mem, ino, marks);
  /* Tables of the journal's and the resize inode are in no zone. */
  for (ino = EXT2_RESIZE_INO; ino <= EXT2_JOURNAL_INO; ino++) {
    uint8_t *theirs = calloc (1, b->blocks);
    uint64_t blk;

    fuzz_mark (b, b->dev->mem, ino, theirs);
    for (blk = 0; blk < b->blocks; blk++)
      if (theirs[blk] && marks[blk] == 0)
        marks[blk] = 1;
    free (theirs);
  }
}

static void
check_group (const struct fuzz_base *b, dgrp_t g, const uint8_t *marks,
             uint64_t *total)
{
  ext2_filsys e2 = b->fs->e2;
  const uint8_t *desc = desc_at (b, g);
  const bool uninit = get16 (desc + 18) & EXT2_BG_BLOCK_UNINIT;
  const uint64_t end = ext2fs_group_last_block2 (e2, g);
  uint64_t blk, free = 0;

  for (blk = ext2fs_group_first_block2 (e2, g); blk <= end; blk++) {
    if (marks[blk] > 1)
      fuzz_die ("block %llu has %u owners", (unsigned long long) blk,
                marks[blk]);
    if (!uninit && fuzz_is_allocated (b, b->dev->mem, blk) != (marks[blk] == 1))
      fuzz_die ("block %llu: %u owners, and its bit says otherwise",
                (unsigned long long) blk, marks[blk]);
    free += marks[blk] == 0;
  }
  if (free != get16 (desc + 12))
    fuzz_die ("group %u: %u free blocks, not %llu", g, get16 (desc + 12),
              (unsigned long long) free);
  *total += free;
}

void
fuzz_check_consistent (const struct fuzz_base *b)
{
  const struct ext2_super_block *sb
    = (const struct ext2_super_block *) (b->dev->mem + 1024);
  uint8_t *marks = calloc (1, b->blocks);
  uint64_t total = 0;
  dgrp_t g;

  if (marks == NULL)
    fuzz_die ("no memory");
  if (b->fs->e2->cluster_ratio_bits == 0) {
    mark_all (b, marks);
    for (g = 0; g < b->fs->e2->group_desc_count; g++)
      check_group (b, g, marks, &total);
    if (total != ext2fs_le32_to_cpu (sb->s_free_blocks_count))
      fuzz_die ("the superblock has %u free blocks, not %llu",
                ext2fs_le32_to_cpu (sb->s_free_blocks_count),
                (unsigned long long) total);
  }
  free (marks);
}

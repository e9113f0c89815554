/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Checksums: see fuzz-sum.h.  Source for what goes into them: the kernel's
 * ext4 documentation, "Checksums".
 */

#include <config.h>

#include <stddef.h>
#include <string.h>

#include "fuzz-sum.h"
#include "jbd2.h"

#define PAGE 4096u

/* Of libext2fs, which exports it without a declaration. */
extern uint16_t ext2fs_crc16 (uint16_t crc, const void *buf,
                              unsigned int len);

static const struct ext2_super_block *
super_of (const struct fuzz_base *b)
{
  return (const struct ext2_super_block *) (b->dev->mem + 1024);
}

static bool
has_sums (const struct fuzz_base *b)
{
  return super_of (b)->s_feature_ro_compat &
    ext2fs_cpu_to_le32 (EXT4_FEATURE_RO_COMPAT_METADATA_CSUM);
}

static uint32_t
seed_of (const struct fuzz_base *b)
{
  const struct ext2_super_block *sb = super_of (b);

  if (sb->s_feature_incompat &
      ext2fs_cpu_to_le32 (EXT4_FEATURE_INCOMPAT_CSUM_SEED))
    return ext2fs_le32_to_cpu (sb->s_checksum_seed);
  return ext2fs_crc32c_le (~0u, sb->s_uuid, sizeof sb->s_uuid);
}

static void
put16 (uint8_t *p, uint32_t v)
{
  p[0] = v;
  p[1] = v >> 8;
}

static void
put32 (uint8_t *p, uint32_t v)
{
  put16 (p, v);
  put16 (p + 2, v >> 16);
}

static uint32_t
sum32 (uint32_t seed, uint32_t v)
{
  uint8_t le[4];

  put32 (le, v);
  return ext2fs_crc32c_le (seed, le, sizeof le);
}

static void
sum_super (uint8_t *p)
{
  const size_t at = offsetof (struct ext2_super_block, s_checksum);

  put32 (p + at, ext2fs_crc32c_le (~0u, p, at));
}

#define DESC_SUM offsetof (struct ext4_group_desc, bg_checksum)

/* With the older feature uninit_bg it is a CRC-16. */
static void
sum_old_desc (const struct fuzz_base *b, const struct fuzz_place *p,
              uint8_t *d)
{
  uint8_t group[4];
  uint16_t crc;

  put32 (group, p->owner);
  crc = ext2fs_crc16 (0xffff, super_of (b)->s_uuid, 16);
  crc = ext2fs_crc16 (crc, group, sizeof group);
  crc = ext2fs_crc16 (crc, d, DESC_SUM);
  if (p->len > DESC_SUM + 2)
    crc = ext2fs_crc16 (crc, d + DESC_SUM + 2, p->len - DESC_SUM - 2);
  put16 (d + DESC_SUM, crc);
}

static void
sum_desc (const struct fuzz_base *b, const struct fuzz_place *p, uint8_t *d)
{
  if (!has_sums (b)) {
    if (super_of (b)->s_feature_ro_compat &
        ext2fs_cpu_to_le32 (EXT4_FEATURE_RO_COMPAT_GDT_CSUM))
      sum_old_desc (b, p, d);
    return;
  }
  put16 (d + DESC_SUM, 0);
  put16 (d + DESC_SUM,
         ext2fs_crc32c_le (sum32 (seed_of (b), p->owner), d, p->len));
}

/* LEN bytes of bitmap P: the sum is in the descriptor, at LO and HI. */
static void
sum_bitmap (const struct fuzz_base *b, const struct fuzz_place *p,
            const uint8_t *map, uint32_t len, size_t lo, size_t hi)
{
  const struct fuzz_place *desc = fuzz_place (b, FUZZ_DESC, p->owner);
  uint8_t *d = fuzz_device_at (b->dev, desc->offset, desc->len);
  uint32_t sum;

  if (!has_sums (b) || desc->owner != p->owner || len > p->len)
    return;
  sum = ext2fs_crc32c_le (seed_of (b), map, len);
  put16 (d + lo, sum);
  if (desc->len > hi)
    put16 (d + hi, sum >> 16);
}

static void
sum_inode (const struct fuzz_base *b, const struct fuzz_place *p, uint8_t *d)
{
  struct ext2_inode_large *inode = (void *) d;
  const size_t lo = offsetof (struct ext2_inode_large,
                              osd2.linux2.l_i_checksum_lo);
  const size_t hi = offsetof (struct ext2_inode_large, i_checksum_hi);
  const bool wide = p->len > EXT2_GOOD_OLD_INODE_SIZE &&
    ext2fs_le16_to_cpu (inode->i_extra_isize) >= 4;
  uint32_t sum;

  if (!has_sums (b))
    return;
  put16 (d + lo, 0);
  if (wide)
    put16 (d + hi, 0);
  sum = sum32 (seed_of (b), p->owner);
  sum = ext2fs_crc32c_le (sum, (uint8_t *) &inode->i_generation, 4);
  sum = ext2fs_crc32c_le (sum, d, p->len);
  put16 (d + lo, sum);
  if (wide)
    put16 (d + hi, sum >> 16);
}

static void
sum_tree (const struct fuzz_base *b, const struct fuzz_place *p, uint8_t *d)
{
  const struct ext3_extent_header *h = (const void *) d;
  const uint32_t most = ext2fs_le16_to_cpu (h->eh_max);

  if (ext2fs_le16_to_cpu (h->eh_magic) == EXT3_EXT_MAGIC &&
      sizeof *h + most * sizeof (struct ext3_extent) + 4 <= p->len)
    ext2fs_extent_block_csum_set (b->fs->e2, p->owner, (void *) d);
}

/* The journal's superblock, and blocks of its log; not the sums in tags,
 * which are of other blocks.
 */
static void
sum_journal (const struct fuzz_base *b, const struct fuzz_place *p,
             uint8_t *d)
{
  struct jbd2_super *js = (void *) d;
  struct jbd2_format f;

  if (ext2fs_be32_to_cpu (js->h.magic) != JBD2_MAGIC)
    return;
  switch (ext2fs_be32_to_cpu (js->h.type)) {
  case JBD2_SUPER_V2:
    jbd2_set_super (js);
    return;
  case JBD2_DESCRIPTOR: case JBD2_REVOKE: case JBD2_COMMIT:
    js = (void *) (b->dev->mem + fuzz_place (b, FUZZ_JOURNAL, 0)->offset);
    jbd2_format_of (js, &f);
    f.block_size = p->len;
    if (ext2fs_be32_to_cpu (((struct jbd2_header *) (void *) d)->type)
        == JBD2_COMMIT)
      jbd2_set_commit (&f, d);
    else
      jbd2_set_tail (&f, d);
    return;
  }
}

void
fuzz_sum (struct fuzz_base *b, const struct fuzz_place *p)
{
  struct ext2_super_block *sb = b->fs->e2->super;
  uint8_t *d = fuzz_device_at (b->dev, p->offset, p->len);

  if (d == NULL)
    return;
  b->fs->e2->csum_seed = seed_of (b);
  switch (p->class) {
  case FUZZ_SUPER:
    sum_super (d);
    break;
  case FUZZ_DESC:
    sum_desc (b, p, d);
    break;
  case FUZZ_BLOCK_BITMAP:
    sum_bitmap (b, p, d, sb->s_clusters_per_group / 8,
                offsetof (struct ext4_group_desc, bg_block_bitmap_csum_lo),
                offsetof (struct ext4_group_desc, bg_block_bitmap_csum_hi));
    break;
  case FUZZ_INODE_BITMAP:
    sum_bitmap (b, p, d, sb->s_inodes_per_group / 8,
                offsetof (struct ext4_group_desc, bg_inode_bitmap_csum_lo),
                offsetof (struct ext4_group_desc, bg_inode_bitmap_csum_hi));
    break;
  case FUZZ_INODE:
    sum_inode (b, p, d);
    break;
  case FUZZ_TREE:
    sum_tree (b, p, d);
    break;
  case FUZZ_DIR:
    ext2fs_dir_block_csum_set (b->fs->e2, p->owner, (void *) d);
    break;
  case FUZZ_JOURNAL:
    sum_journal (b, p, d);
    break;
  case FUZZ_ORPHAN:
    ext2fs_orphan_file_block_csum_set (b->fs->e2, p->owner,
                                       p->offset / b->block_size,
                                       (char *) d);
    break;
  case FUZZ_MMP:
    ext2fs_mmp_csum_set (b->fs->e2, (void *) d);
    break;
  default:
    break;
  }
}

static bool
touched (const struct fuzz_base *b, const struct fuzz_place *p)
{
  uint64_t page;

  for (page = p->offset / PAGE; page <= (p->offset + p->len - 1) / PAGE;
       page++)
    if (b->dev->dirty[page])
      return true;
  return false;
}

void
fuzz_sum_all (struct fuzz_base *b)
{
  /* The descriptors hold those of bitmaps. */
  static const enum fuzz_class order[] = {
    FUZZ_TREE, FUZZ_DIR, FUZZ_ORPHAN, FUZZ_MMP, FUZZ_JOURNAL, FUZZ_INODE,
    FUZZ_BLOCK_BITMAP, FUZZ_INODE_BITMAP, FUZZ_DESC, FUZZ_SUPER,
  };
  unsigned i, k;

  for (i = 0; i < sizeof order / sizeof *order; i++)
    for (k = 0; k < b->count[order[i]]; k++)
      if (touched (b, &b->places[order[i]][k]))
        fuzz_sum (b, &b->places[order[i]][k]);
}

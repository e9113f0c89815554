/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Checksums of damaged metadata put right, so that the damage gets past
 * them: see damage.h.  By libext2fs, with what it knows of the healthy
 * image.
 */

#include <config.h>

#include <string.h>

#include "damage.h"
#include "jbd2.h"

/* The descriptor of group G from IMAGE to libext2fs, or back. */
static uint8_t *
descriptor (struct victim *v, uint8_t *image, dgrp_t g)
{
  size_t i;

  for (i = 0; i < v->region_count; i++)
    if (v->regions[i].kind == R_DESC && v->regions[i].number == g)
      return image + v->regions[i].offset;
  return NULL;
}

static bool
seal_group (struct victim *v, uint8_t *image, const struct region *r)
{
  ext2_filsys e2 = v->e2;
  const size_t size = EXT2_DESC_SIZE (e2->super);
  uint8_t *disk = descriptor (v, image, r->number);
  void *memory = ext2fs_group_desc (e2, e2->group_desc, r->number);
  uint8_t healthy[256];

  if (!ext2fs_has_group_desc_csum (e2) || disk == NULL ||
      size > sizeof healthy)
    return false;
  memcpy (healthy, memory, size);
  memcpy (memory, disk, size);
  if (r->kind == R_BLOCK_BITMAP)
    ext2fs_block_bitmap_csum_set (e2, r->number, (char *) image + r->offset,
                                  r->len);
  else if (r->kind == R_INODE_BITMAP)
    ext2fs_inode_bitmap_csum_set (e2, r->number, (char *) image + r->offset,
                                  r->len);
  ext2fs_group_desc_csum_set (e2, r->number);
  memcpy (disk, memory, size);
  memcpy (memory, healthy, size);
  return r->kind == R_DESC || ext2fs_has_feature_metadata_csum (e2->super);
}

/* A block of the log: by what it is in the healthy image. */
static bool
seal_journal (struct victim *v, uint8_t *image, const struct region *r)
{
  const uint32_t bs = v->e2->blocksize;
  uint8_t *p = image + r->offset, *desc;
  struct jbd2_header h;
  struct jbd2_super js;
  struct jbd2_format f;
  uint32_t csum;

  memcpy (&js, v->md->mem + victim_journal_offset (v, 0), sizeof js);
  jbd2_format_of (&js, &f);
  if (!f.csum_v2 && !f.csum_v3)
    return false;
  if (r->kind == R_JOURNAL_SUPER) {
    jbd2_set_super ((struct jbd2_super *) p);
    return true;
  }
  if (r->tag == 0) {
    memcpy (&h, v->md->mem + r->offset, sizeof h);
    if (ext2fs_be32_to_cpu (h.type) == JBD2_COMMIT)
      jbd2_set_commit (&f, p);
    else
      jbd2_set_tail (&f, p);
    return true;
  }
  desc = image + r->tag / bs * bs;
  memcpy (&h, desc, sizeof h);
  csum = ext2fs_cpu_to_be32 (jbd2_data_checksum
                             (&f, ext2fs_be32_to_cpu (h.tid), p));
  if (f.csum_v3)
    memcpy (image + r->tag + 12, &csum, 4);
  else
    memcpy (image + r->tag + 4, (uint8_t *) &csum + 2, 2);
  jbd2_set_tail (&f, desc);
  return true;
}

bool
victim_seal (struct victim *v, uint8_t *image, const struct region *r)
{
  ext2_filsys e2 = v->e2;
  const bool csum = ext2fs_has_feature_metadata_csum (e2->super);
  void *p = image + r->offset;

  switch (r->kind) {
  case R_DESC: case R_BLOCK_BITMAP: case R_INODE_BITMAP:
    return seal_group (v, image, r);
  case R_JOURNAL_SUPER: case R_JOURNAL:
    return seal_journal (v, image, r);
  default:
    break;
  }
  if (!csum)
    return false;
  switch (r->kind) {
  case R_SUPER:
    return ext2fs_superblock_csum_set (e2, p) == 0;
  case R_INODE:
    return ext2fs_inode_csum_set (e2, r->number, p) == 0;
  case R_EXTENTS:
    return ext2fs_extent_block_csum_set (e2, r->number, p) == 0;
  case R_DIRECTORY:
    return ext2fs_dir_block_csum_set (e2, r->number, p) == 0;
  case R_ATTRIBUTES:
    return ext2fs_ext_attr_block_csum_set
      (e2, r->number, r->offset / e2->blocksize, p) == 0;
  case R_MMP:
    return ext2fs_mmp_csum_set (e2, p) == 0;
  case R_ORPHANS:
    return ext2fs_orphan_file_block_csum_set
      (e2, r->number, r->offset / e2->blocksize, p) == 0;
  default:
    return false;
  }
}

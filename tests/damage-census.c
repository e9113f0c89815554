/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Who owns which block, for a judge that must not believe the code that
 * it judges: read from the bytes, with nothing of lib/ or libext2fs.
 *
 * It is generous: every pointer that a file's inode or tree has counts as
 * a claim, be the node that it is in valid or not (but for nodes where the
 * bitmaps, inodes and the like have their place).  So a damaged tree can
 * make a block look shared, and unprotected, but never make one look as
 * if it were nobody's.
 *
 * A block counts as protected only where the image itself says that it
 * may not be given away: one file's alone, and marked as used.  What two
 * files claim, either may write; what a bitmap calls free may be handed
 * out.  No server could know better without reading all of the image.
 */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "damage.h"

/* A larger image is not looked at. */
#define MOST_BLOCKS (UINT64_C (1) << 20)
#define MOST_GROUPS 4096

enum { NOBODY, ONE, MANY };

struct census {
  const struct census *earlier; /* of the same image, or NULL */
  const uint8_t *image;
  uint64_t size;                /* bytes */
  uint32_t block_size, first, inodes, blocks_per_group, inodes_per_group,
    inode_size, desc_size, desc_per_block, groups, journal;
  uint64_t blocks;
  uint32_t compat, incompat, ro_compat;
  uint8_t *claims;              /* for each block */
  uint32_t *owner;              /* for each block */
  uint8_t *used, *fixed;        /* for each block */
  uint8_t *directory;           /* for each block: a directory claims it */
  uint8_t *named;               /* by a descriptor block of the journal */
  uint32_t budget;              /* nodes of this file still to look at */
  bool in_directory;            /* it is one */
  bool confused;                /* some tree leads into fixed metadata */
};

static uint32_t
le16 (const uint8_t *p)
{
  return p[0] | p[1] << 8;
}

static uint32_t
le32 (const uint8_t *p)
{
  return le16 (p) | le16 (p + 2) << 16;
}

static uint32_t
be32 (const uint8_t *p)
{
  return (uint32_t) p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static const uint8_t *
block_at (const struct census *c, uint64_t blk)
{
  return blk < c->blocks ? c->image + blk * c->block_size : NULL;
}

/* The superblock.  Offsets of its fields: the kernel's ext4
 * documentation, "Super Block".
 */
static bool
read_super (struct census *c)
{
  const uint8_t *sb = c->image + 1024;
  bool wide;

  if (c->size < 2048 || le16 (sb + 56) != 0xef53 || le32 (sb + 24) > 6)
    return false;
  c->block_size = 1024u << le32 (sb + 24);
  c->first = le32 (sb + 20);
  c->inodes = le32 (sb);
  c->blocks_per_group = le32 (sb + 32);
  c->inodes_per_group = le32 (sb + 40);
  c->compat = le32 (sb + 92);
  c->incompat = le32 (sb + 96);
  c->ro_compat = le32 (sb + 100);
  wide = c->incompat & EXT4_FEATURE_INCOMPAT_64BIT;
  c->blocks = le32 (sb + 4) | (wide ? (uint64_t) le32 (sb + 336) << 32 : 0);
  c->inode_size = le32 (sb + 76) == 0 ? 128 : le16 (sb + 88);
  c->desc_size = wide ? le16 (sb + 254) : 32;
  c->journal = c->compat & EXT3_FEATURE_COMPAT_HAS_JOURNAL
    ? le32 (sb + 224) : 0;
  if (c->blocks > MOST_BLOCKS || c->blocks > c->size / c->block_size ||
      c->first > 1 || c->blocks <= c->first || c->blocks_per_group == 0 ||
      c->blocks_per_group > 8 * c->block_size || c->inodes_per_group == 0 ||
      c->inodes_per_group > 8 * c->block_size || c->inode_size < 128 ||
      c->inode_size > c->block_size || c->desc_size < 32 ||
      c->desc_size > c->block_size)
    return false;
  c->desc_per_block = c->block_size / c->desc_size;
  c->groups = (c->blocks - c->first + c->blocks_per_group - 1) /
    c->blocks_per_group;
  return c->groups <= MOST_GROUPS;
}

static bool
is_power (uint32_t n, uint32_t of)
{
  while (n > 1 && n % of == 0)
    n /= of;
  return n == 1;
}

/* Does group G have a copy of the superblock? */
static bool
has_super (const struct census *c, uint32_t g)
{
  const uint8_t *sb = c->image + 1024;

  if (g == 0)
    return true;
  if (c->compat & EXT4_FEATURE_COMPAT_SPARSE_SUPER2)
    return g == le32 (sb + 588) || g == le32 (sb + 592);
  return g == 1 || !(c->ro_compat & EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER) ||
    is_power (g, 3) || is_power (g, 5) || is_power (g, 7);
}

static uint64_t
group_start (const struct census *c, uint32_t g)
{
  return c->first + (uint64_t) g * c->blocks_per_group;
}

/* The descriptor of group G, or NULL. */
static const uint8_t *
descriptor (const struct census *c, uint32_t g)
{
  const uint32_t table = g / c->desc_per_block;
  const uint8_t *p;
  uint64_t blk = c->first + 1 + table;
  uint32_t lead;

  if ((c->incompat & EXT2_FEATURE_INCOMPAT_META_BG) &&
      table >= le32 (c->image + 1024 + 260)) {
    lead = table * c->desc_per_block;
    blk = group_start (c, lead) + has_super (c, lead);
  }
  p = block_at (c, blk);
  return p ? p + g % c->desc_per_block * c->desc_size : NULL;
}

/* Field at LO, and its upper half at HI, of a descriptor. */
static uint64_t
located (const struct census *c, const uint8_t *desc, unsigned lo,
         unsigned hi)
{
  return le32 (desc + lo) |
    (c->desc_size >= 64 ? (uint64_t) le32 (desc + hi) << 32 : 0);
}

static void
fix (struct census *c, uint64_t blk, uint64_t count)
{
  for (; count > 0 && blk < c->blocks; blk++, count--)
    c->fixed[blk] = 1;
}

/* Claims. */

static void
claim (struct census *c, uint32_t ino, uint64_t blk)
{
  if (blk >= c->blocks)
    return;
  if (c->in_directory)
    c->directory[blk] = 1;
  if (c->claims[blk] != NOBODY)
    c->claims[blk] = MANY;      /* be it by the same file, twice */
  else {
    c->claims[blk] = ONE;
    c->owner[blk] = ino;
  }
}

/* A block that is used as a node or a table of pointers, if it may be one:
 * not fixed metadata, nor what somebody else has written to since.
 */
static const uint8_t *
node_at (struct census *c, uint64_t blk)
{
  if (blk == 0 || blk >= c->blocks ||
      (c->earlier && blk < c->earlier->blocks &&
       c->earlier->claims[blk] == MANY))
    return NULL;
  if (!c->fixed[blk])
    return block_at (c, blk);
  c->confused = true;
  return NULL;
}

static void
claim_extents (struct census *c, uint32_t ino, const uint8_t *node,
               uint32_t size, unsigned levels)
{
  uint32_t entries = le16 (node + 2), i, k;
  const bool leaf = le16 (node + 6) == 0;

  if (entries > size / 12 - 1)
    entries = size / 12 - 1;
  for (i = 0; i < entries; i++) {
    const uint8_t *e = node + 12 + 12 * i, *child;
    uint64_t blk;

    if (leaf) {
      uint32_t n = le16 (e + 4);

      blk = le32 (e + 8) | (uint64_t) le16 (e + 6) << 32;
      if (n > 32768)
        n -= 32768;
      for (k = 0; k < n; k++)
        claim (c, ino, blk + k);
      continue;
    }
    blk = le32 (e + 4) | (uint64_t) le16 (e + 8) << 32;
    child = node_at (c, blk);
    claim (c, ino, blk);
    if (child && levels > 0 && c->budget > 0) {
      c->budget--;
      claim_extents (c, ino, child, c->block_size, levels - 1);
    }
  }
}

static void
claim_table (struct census *c, uint32_t ino, uint64_t blk, unsigned levels)
{
  const uint8_t *table = node_at (c, blk);
  uint32_t i;

  if (blk == 0)
    return;
  claim (c, ino, blk);
  if (table == NULL || levels == 0 || c->budget == 0)
    return;
  c->budget--;
  for (i = 0; i < c->block_size / 4; i++)
    claim_table (c, ino, le32 (table + 4 * i), levels - 1);
}

static bool
is_used_inode (const uint8_t *inode)
{
  return le16 (inode) != 0 && le16 (inode + 26) != 0;
}

static void
claim_inode (struct census *c, uint32_t ino, const uint8_t *inode)
{
  const uint32_t mode = le16 (inode) & 0xf000, flags = le32 (inode + 32);
  const uint64_t attributes = le32 (inode + 104) |
    (uint64_t) le16 (inode + 118) << 32;
  unsigned i;

  c->in_directory = mode == 0x4000;
  if (attributes != 0)
    claim (c, ino, attributes);
  if ((flags & EXT4_INLINE_DATA_FL) || mode == 0x2000 || mode == 0x6000 ||
      mode == 0x1000 || mode == 0xc000)
    return;
  if (mode == 0xa000 && le32 (inode + 4) < 60 && le32 (inode + 28) == 0)
    return;                     /* the text is in the inode */
  c->budget = 20000;
  if (flags & EXT4_EXTENTS_FL)
    claim_extents (c, ino, inode + 40, 60, 6);
  else
    for (i = 0; i < 15; i++)
      claim_table (c, ino, le32 (inode + 40 + 4 * i), i < 12 ? 0 : i - 11);
}

static const uint8_t *
inode_at (const struct census *c, const uint8_t *image, uint32_t ino)
{
  const uint32_t g = (ino - 1) / c->inodes_per_group;
  const uint8_t *desc = g < c->groups ? descriptor (c, g) : NULL;
  uint64_t at;

  if (desc == NULL)
    return NULL;
  at = located (c, desc, 8, 40) * c->block_size +
    (uint64_t) ((ino - 1) % c->inodes_per_group) * c->inode_size;
  return at <= c->size && c->inode_size <= c->size - at ? image + at : NULL;
}

/* What is marked as used, and the metadata at fixed places. */
static void
read_groups (struct census *c)
{
  const uint32_t reserved = le16 (c->image + 1024 + 206);
  const bool flags = c->ro_compat & (EXT4_FEATURE_RO_COMPAT_GDT_CSUM |
                                     EXT4_FEATURE_RO_COMPAT_METADATA_CSUM);
  const uint32_t tables = (c->groups + c->desc_per_block - 1) /
    c->desc_per_block;
  uint32_t g, i;

  for (g = 0; g < c->groups; g++) {
    const uint8_t *desc = descriptor (c, g), *bitmap;

    if (has_super (c, g))
      fix (c, group_start (c, g), 1 + tables + reserved);
    else if (c->incompat & EXT2_FEATURE_INCOMPAT_META_BG)
      fix (c, group_start (c, g), 1);
    if (desc == NULL)
      continue;
    fix (c, located (c, desc, 0, 32), 1);
    fix (c, located (c, desc, 4, 36), 1);
    fix (c, located (c, desc, 8, 40), c->inodes_per_group * c->inode_size /
         c->block_size);
    bitmap = block_at (c, located (c, desc, 0, 32));
    if (bitmap == NULL || (flags && (le16 (desc + 18) & 2)))
      continue;                 /* BLOCK_UNINIT: nothing is used */
    for (i = 0; i < c->blocks_per_group; i++)
      if (group_start (c, g) + i < c->blocks && bitmap[i / 8] >> i % 8 & 1)
        c->used[group_start (c, g) + i] = 1;
  }
}

/* Blocks that a descriptor block names, wherever in the journal it is and
 * however the tags are laid out: each word that could be a number is.
 */
static void
read_journal (struct census *c)
{
  uint64_t blk;
  uint32_t i;

  for (blk = 0; blk < c->blocks; blk++) {
    const uint8_t *p = block_at (c, blk);

    if (c->owner[blk] != c->journal || be32 (p) != 0xc03b3998 ||
        be32 (p + 4) != 1)
      continue;
    for (i = 12; i < c->block_size; i += 4)
      if (be32 (p + i) < c->blocks)
        c->named[be32 (p + i)] = 1;
  }
}

static void *
one_each (uint64_t n, size_t size)
{
  void *p = calloc (n, size);

  must (p != NULL);
  return p;
}

static struct census *
take_census (const uint8_t *image, uint64_t size,
             const struct census *earlier)
{
  struct census *c = one_each (1, sizeof *c);
  uint32_t ino;

  c->earlier = earlier;
  c->image = image;
  c->size = size;
  if (!read_super (c))
    c->blocks = 0;
  c->claims = one_each (c->blocks + 1, 1);
  c->owner = one_each (c->blocks + 1, sizeof *c->owner);
  c->used = one_each (c->blocks + 1, 1);
  c->fixed = one_each (c->blocks + 1, 1);
  c->directory = one_each (c->blocks + 1, 1);
  c->named = one_each (c->blocks + 1, 1);
  if (c->blocks == 0)
    return c;
  if (c->inodes > c->groups * c->inodes_per_group)
    c->inodes = c->groups * c->inodes_per_group;
  read_groups (c);
  for (ino = 1; ino <= c->inodes; ino++) {
    const uint8_t *inode = inode_at (c, image, ino);

    if (inode && is_used_inode (inode))
      claim_inode (c, ino, inode);
  }
  if (c->journal)
    read_journal (c);
  return c;
}

struct census *
census_new (const uint8_t *image, uint64_t size)
{
  return take_census (image, size, NULL);
}

void
census_free (struct census *c)
{
  free (c->claims);
  free (c->owner);
  free (c->used);
  free (c->fixed);
  free (c->directory);
  free (c->named);
  free (c);
}

static bool
is_in (const ext2_ino_t *list, ext2_ino_t ino)
{
  for (; *list; list++)
    if (*list == ino)
      return true;
  return false;
}

bool
census_protected (const struct census *c, uint64_t blk,
                  const ext2_ino_t *targets)
{
  return c->claims[blk] == ONE && c->used[blk] && !c->fixed[blk] &&
    c->owner[blk] != c->journal && !is_in (targets, c->owner[blk]);
}

bool
census_same (const struct census *c, const uint8_t *after,
             const ext2_ino_t *targets, char *why, size_t len)
{
  const uint32_t bs = c->block_size;
  uint64_t blk;
  uint32_t ino;

  for (blk = c->first; blk < c->blocks; blk++)
    if (memcmp (c->image + blk * bs, after + blk * bs, bs) != 0 &&
        census_protected (c, blk, targets)) {
      snprintf (why, len, "block %llu of inode %u has changed",
                (unsigned long long) blk, c->owner[blk]);
      return false;
    }
  for (ino = 1; ino <= c->inodes && c->blocks > 0; ino++) {
    const uint8_t *inode = inode_at (c, c->image, ino);

    if (inode && is_used_inode (inode) && !is_in (targets, ino) &&
        memcmp (inode, inode_at (c, after, ino), c->inode_size) != 0) {
      snprintf (why, len, "inode %u has changed", ino);
      return false;
    }
  }
  return true;
}

bool
census_contended (const struct census *c)
{
  uint64_t blk;

  if (c->confused)
    return true;
  for (blk = c->first; blk < c->blocks; blk++)
    if (c->claims[blk] == MANY ||
        (c->claims[blk] == ONE && !c->used[blk] && !c->fixed[blk]))
      return true;
  return false;
}

bool
census_kept (const struct census *c, const uint8_t *image,
             const ext2_ino_t *targets, char *why, size_t len)
{
  struct census *after = take_census (image, c->size, c);
  bool kept = true;
  uint64_t blk;

  for (blk = c->first; blk < c->blocks && blk < after->blocks && kept; blk++)
    if (census_protected (c, blk, targets) &&
        (after->claims[blk] == MANY || !after->used[blk])) {
      snprintf (why, len, "block %llu of inode %u is now %s",
                (unsigned long long) blk, c->owner[blk],
                after->used[blk] ? "another's too" : "marked as free");
      kept = false;
    }
  census_free (after);
  return kept;
}

bool
census_same_directories (const struct census *c, const uint8_t *after)
{
  const uint32_t bs = c->block_size;
  uint64_t blk;
  uint32_t ino;

  for (blk = c->first; blk < c->blocks; blk++)
    if (c->directory[blk] &&
        memcmp (c->image + blk * bs, after + blk * bs, bs) != 0)
      return false;
  for (ino = 1; ino <= c->inodes && c->blocks > 0; ino++) {
    const uint8_t *p = inode_at (c, c->image, ino);

    if (p && (le16 (p) & 0xf000) == 0x4000 &&
        memcmp (p, inode_at (c, after, ino), c->inode_size) != 0)
      return false;
  }
  return c->blocks > 0;
}

bool
census_replay_only (const struct census *c, const uint8_t *after, char *why,
                    size_t len)
{
  uint64_t at, blk;

  for (at = 0; at < c->size; at += 1024) {
    if (at == 1024 || memcmp (c->image + at, after + at, 1024) == 0)
      continue;
    blk = c->blocks ? at / c->block_size : 0;
    if (blk < c->blocks && c->blocks &&
        (c->named[blk] || (c->journal && c->owner[blk] == c->journal)))
      continue;
    snprintf (why, len, "byte %llu on has changed, which no replay writes",
              (unsigned long long) at);
    return false;
  }
  return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Block groups and their bitmaps. */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "fs.h"
#include "group.h"

uint32_t
bit_find (const uint8_t *map, uint32_t from, uint32_t to, bool set)
{
  const uint8_t skip = set ? 0 : 0xff;

  while (from < to) {
    if (from % 8 == 0) {
      while (from + 64 <= to) {
        uint64_t w;

        memcpy (&w, map + from / 8, sizeof w);
        if (w != (set ? 0 : ~UINT64_C (0)))
          break;
        from += 64;
      }
      if (from < to && map[from / 8] == skip) {
        from += 8;
        continue;
      }
    }
    if (from < to && bit_test (map, from) == set)
      return from;
    from++;
  }
  return to;
}

static uint32_t
count_clear (const uint8_t *map, uint32_t bits)
{
  uint32_t n = 0, i = 0;

  for (; i + 64 <= bits; i += 64) {
    uint64_t w;

    memcpy (&w, map + i / 8, sizeof w);
    n += 64 - __builtin_popcountll (w);
  }
  for (; i < bits; i++)
    n += !bit_test (map, i);
  return n;
}

uint64_t
group_first (struct filesystem *fs, dgrp_t g)
{
  return fs->first_block
    + (uint64_t) g * EXT2_BLOCKS_PER_GROUP (fs->e2->super);
}

uint32_t
group_blocks (struct filesystem *fs, dgrp_t g)
{
  uint64_t left = fs->blocks - group_first (fs, g);
  uint32_t per_group = EXT2_BLOCKS_PER_GROUP (fs->e2->super);

  return left < per_group ? (uint32_t) left : per_group;
}

dgrp_t
group_of (struct filesystem *fs, uint64_t blk)
{
  return (blk - fs->first_block) / EXT2_BLOCKS_PER_GROUP (fs->e2->super);
}

/* Free on disk, and not held (inv 2). */
static uint32_t
count_free (struct filesystem *fs, dgrp_t g)
{
  const uint32_t n = ext2fs_bg_free_blocks_count (fs->e2, g);
  const uint32_t held = fs->alloc.groups[g].held;

  return n > held ? n - held : 0;
}

uint32_t
group_available (struct filesystem *fs, dgrp_t g)
{
  return fs->alloc.groups[g].bad ? 0 : count_free (fs, g);
}

void
group_set_bad (struct filesystem *fs, dgrp_t g, const char *why)
{
  struct group_state *gs = &fs->alloc.groups[g];

  if (!gs->bad) {
    fs->alloc.lost += count_free (fs, g);
    log_error ("block group %u: %s: not allocating there; end the server, "
               "then run e2fsck -f", (unsigned) g, why);
    super_note_error (fs, __func__, __LINE__,
                      ext2fs_block_bitmap_loc (fs->e2, g),
                      EXT2_FILSYS_CORRUPTED);
  }
  gs->bad = true;
  fs->damaged = true;
}

/* The I-th zone of fixed metadata, cut to group G: bits [*FROM, *TO).
 * Start with I = syszone_search (group_first); false when there are no
 * more.
 */
static bool
zone_bits (struct filesystem *fs, dgrp_t g, size_t i, uint32_t *from,
           uint32_t *to)
{
  const uint64_t first = group_first (fs, g);
  const uint64_t end = first + group_blocks (fs, g);
  const struct zone *z = &fs->zones.zones[i];

  if (i >= fs->zones.count || z->start >= end)
    return false;
  *from = z->start > first ? z->start - first : 0;
  *to = (z->end < end ? z->end : end) - first;
  return true;
}

/* Set bits for the metadata and the padding of group G: what the bitmap
 * of a group that was never initialised consists of.
 */
static void
init_bitmap (struct filesystem *fs, dgrp_t g, uint8_t *map)
{
  size_t i = syszone_search (&fs->zones, group_first (fs, g));
  uint32_t from, to;

  memset (map, 0, fs->block_size);
  for (; zone_bits (fs, g, i, &from, &to); i++)
    for (; from < to; from++)
      bit_set (map, from);
  for (from = group_blocks (fs, g); from < fs->block_size * 8; from++)
    bit_set (map, from);
}

/* Whatever the descriptor claims, blocks of the group that hold fixed
 * metadata must be marked in use: otherwise files would overwrite them.
 */
static bool
zones_marked (struct filesystem *fs, dgrp_t g, const uint8_t *map)
{
  size_t i = syszone_search (&fs->zones, group_first (fs, g));
  uint32_t from, to;

  for (; zone_bits (fs, g, i, &from, &to); i++)
    if (bit_find (map, from, to, false) != to)
      return false;
  return true;
}

errcode_t
group_bitmap (struct filesystem *fs, dgrp_t g, struct mbuf **mbp)
{
  struct group_state *gs = &fs->alloc.groups[g];
  struct ext2_super_block *sb = fs->e2->super;
  struct mbuf *mb;
  errcode_t err;

  if (gs->bad)
    return EXT2_FILSYS_CORRUPTED;
  if (ext2fs_has_group_desc_csum (fs->e2) &&
      ext2fs_bg_flags_test (fs->e2, g, EXT2_BG_BLOCK_UNINIT)) {
    /* It is not on the device.  As long as the flag is set, so that
     * nothing has been allocated, it can be made up again.
     */
    mb = mcache_find (fs->mc, ext2fs_block_bitmap_loc (fs->e2, g));
    if (mb == NULL) {
      err = mcache_zeroed (fs->mc, ext2fs_block_bitmap_loc (fs->e2, g), &mb);
      if (err)
        return err;
      init_bitmap (fs, g, mb->data);
    }
  }
  else {
    err = mcache_read (fs->mc, ext2fs_block_bitmap_loc (fs->e2, g), &mb);
    if (err)
      return err;               /* may go better next time */
    if (!gs->checked &&
        !ext2fs_block_bitmap_csum_verify (fs->e2, g, (char *) mb->data,
                                          EXT2_CLUSTERS_PER_GROUP (sb) / 8)) {
      group_set_bad (fs, g, "the block bitmap's checksum is wrong");
      goto bad;
    }
  }
  if (!gs->checked) {
    if (!zones_marked (fs, g, mb->data)) {
      group_set_bad (fs, g, "the block bitmap has metadata marked free");
      goto bad;
    }
    if (count_clear (mb->data, group_blocks (fs, g)) !=
        ext2fs_bg_free_blocks_count (fs->e2, g)) {
      group_set_bad (fs, g, "the block bitmap and the free count disagree");
      goto bad;
    }
    gs->checked = true;
  }
  *mbp = mb;
  return 0;

 bad:
  mcache_unpin (fs->mc, mb);
  return EXT2_FILSYS_CORRUPTED;
}


/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Blocks that are free on disk but not to be had: reserved for a fill in
 * progress, or freed by a transaction that is not durable.
 *
 * A group with such blocks has a second map, the busy map.  It is made
 * when it is first needed and kept, while other groups are not used more
 * recently, because fills of one file come back to the same group.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs.h"
#include "group.h"

const uint8_t *
group_busy_map (struct filesystem *fs, dgrp_t g, const struct mbuf *mb)
{
  return fs->alloc.groups[g].busy ?: mb->data;
}

errcode_t
group_make_busy (struct filesystem *fs, dgrp_t g, const struct mbuf *mb)
{
  struct group_state *gs = &fs->alloc.groups[g];

  lock_assert_held (LOCK_FS);
  if (gs->busy)
    return 0;
  gs->busy = malloc (fs->block_size);
  if (gs->busy == NULL)
    return ENOMEM;
  memcpy (gs->busy, mb->data, fs->block_size);
  return 0;
}

void
group_hold (struct filesystem *fs, dgrp_t g, uint32_t bit, uint32_t n)
{
  struct group_state *gs = &fs->alloc.groups[g];
  uint32_t i;

  lock_assert_held (LOCK_FS);
  for (i = 0; i < n; i++)
    bit_set (gs->busy, bit + i);
  gs->held += n;
}

/* G holds nothing: one such map stays, the last one. */
static void
retire (struct filesystem *fs, dgrp_t g)
{
  struct allocator *a = &fs->alloc;
  struct group_state *last = &a->groups[a->last_busy];

  if (a->last_busy != g && last->held == 0) {
    free (last->busy);
    last->busy = NULL;
  }
  a->last_busy = g;
}

void
group_unhold (struct filesystem *fs, dgrp_t g, uint32_t bit, uint32_t n,
              bool release)
{
  struct group_state *gs = &fs->alloc.groups[g];
  uint32_t i;

  lock_assert_held (LOCK_FS);
  for (i = 0; release && i < n; i++)
    bit_clear (gs->busy, bit + i);
  assert (gs->held >= n);
  gs->held -= n;
  if (release && gs->bad)
    fs->alloc.lost += n;        /* free, but not to be had */
  if (gs->held == 0)
    retire (fs, g);
}

void
group_drop_busy (struct filesystem *fs, dgrp_t g)
{
  struct group_state *gs = &fs->alloc.groups[g];

  lock_assert_held (LOCK_FS);
  if (gs->held > 0 || fs->alloc.last_busy == g)
    return;
  free (gs->busy);
  gs->busy = NULL;
}

void
group_check (struct filesystem *fs, dgrp_t g)
{
  const struct group_state *gs = &fs->alloc.groups[g];
  uint32_t i, clear = 0, held = 0;
  struct mbuf *mb;

  lock_assert_held (LOCK_FS);
  if (gs->bad || !gs->checked)
    return;
  mb = mcache_find (fs->mc, ext2fs_block_bitmap_loc (fs->e2, g));
  if (mb == NULL)
    return;
  for (i = 0; i < group_blocks (fs, g); i++) {
    const bool set = bit_test (mb->data, i);
    const bool busy = gs->busy ? bit_test (gs->busy, i) : set;

    assert (busy || !set);
    clear += !set;
    held += busy && !set;
  }
  mcache_unpin (fs->mc, mb);
  assert (clear == ext2fs_bg_free_blocks_count (fs->e2, g));
  assert (held == gs->held);
}

void
group_note_bit (struct filesystem *fs, dgrp_t g, uint32_t bit, bool in_use)
{
  struct group_state *gs = &fs->alloc.groups[g];

  if (gs->busy == NULL)
    return;
  if (in_use)
    bit_set (gs->busy, bit);
  else
    bit_clear (gs->busy, bit);
}

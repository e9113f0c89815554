/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Without a journal: blocks that have been freed, but whose bits stay set
 * until that is durable and they are released (alloc.h, inv 5).
 *
 * Nothing but noticing that a block of a damaged image is freed twice
 * depends on them.  So where there is no memory for more, some are not
 * remembered.
 */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "fs.h"
#include "group.h"

/* Of a large file, trimmed in one go, a group has one run; there may be as
 * many groups as the filesystem has.
 */
struct group_freed {
  uint32_t from, to;            /* the run, while there is no map */
  uint8_t *map;
  uint32_t count;               /* blocks in the map */
};

bool
group_is_freed (struct filesystem *fs, dgrp_t g, uint32_t bit, uint32_t n)
{
  const struct group_freed *f = fs->alloc.groups[g].freed;

  lock_assert_held (LOCK_FS);
  if (f == NULL)
    return false;
  if (f->map)
    return bit_find (f->map, bit, bit + n, true) != bit + n;
  return bit < f->to && f->from < bit + n;
}

static void
set_bits (struct group_freed *f, uint32_t from, uint32_t to)
{
  f->count += to - from;
  for (; from < to; from++)
    bit_set (f->map, from);
}

/* F gets a map, if there is memory. */
static bool
spread (struct filesystem *fs, struct group_freed *f)
{
  f->map = calloc (1, fs->block_size);
  if (f->map == NULL)
    return false;
  set_bits (f, f->from, f->to);
  return true;
}

void
group_note_freed (struct filesystem *fs, dgrp_t g, uint32_t bit, uint32_t n)
{
  struct group_state *gs = &fs->alloc.groups[g];
  struct group_freed *f = gs->freed;

  lock_assert_held (LOCK_FS);
  if (f == NULL) {
    f = gs->freed = calloc (1, sizeof *f);
    if (f == NULL)
      return;
    f->from = f->to = bit;
  }
  if (f->map == NULL && bit == f->to)
    f->to += n;
  else if (f->map == NULL && bit + n == f->from)
    f->from = bit;
  else if (f->map || spread (fs, f))
    set_bits (f, bit, bit + n);
}

/* FROM to TO, of F's run or some of it: not any more. */
static void
cut_run (struct group_freed *f, uint32_t from, uint32_t to)
{
  if (from <= f->from)
    f->from = to < f->to ? to : f->to;
  else                          /* the rest behind it is not remembered */
    f->to = from;
}

void
group_note_released (struct filesystem *fs, dgrp_t g, uint32_t bit,
                     uint32_t n)
{
  struct group_state *gs = &fs->alloc.groups[g];
  struct group_freed *f = gs->freed;
  uint32_t i;

  if (!group_is_freed (fs, g, bit, n))
    return;
  if (f->map == NULL && bit > f->from && bit + n < f->to)
    spread (fs, f);
  if (f->map == NULL)
    cut_run (f, bit, bit + n);
  for (i = bit; f->map && i < bit + n; i++) {
    f->count -= bit_test (f->map, i);
    bit_clear (f->map, i);
  }
  if (f->map ? f->count == 0 : f->from == f->to)
    group_forget_freed (fs, g);
}

void
group_forget_freed (struct filesystem *fs, dgrp_t g)
{
  struct group_state *gs = &fs->alloc.groups[g];

  if (gs->freed)
    free (gs->freed->map);
  free (gs->freed);
  gs->freed = NULL;
}

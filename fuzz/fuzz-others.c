/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What requests must leave alone: see fuzz-others.h. */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "fuzz-others.h"
#include "fuzz-walk.h"

#define PAGE 4096u

struct fuzz_others {
  struct fuzz_base *b;
  bool check;                   /* it can be known */
  uint8_t *old;                 /* what the device held: of the base,
                                   which keeps it */
  uint8_t *had;                 /* pages that differ from the healthy */
};

static bool
is_same (const struct fuzz_base *b, const struct fuzz_place *p)
{
  return memcmp (b->mem + p->offset, b->dev->mem + p->offset, p->len) == 0;
}

/* If the fixed metadata may be somewhere else, nothing can be said. */
static bool
is_geometry_healthy (const struct fuzz_base *b)
{
  unsigned i;

  for (i = 0; i < b->count[FUZZ_DESC]; i++)
    if (!is_same (b, &b->places[FUZZ_DESC][i]))
      return false;
  return is_same (b, &b->places[FUZZ_SUPER][0]);
}

/* Copying all of an image for each input would take most of the time: the
 * pages of OLD that differ are put back by fuzz_others_free.
 */
struct fuzz_others *
fuzz_others_new (struct fuzz_case *c)
{
  struct fuzz_base *b = c->base;
  struct fuzz_others *o = calloc (1, sizeof *o);
  uint64_t i;

  if (o == NULL)
    fuzz_die ("no memory");
  o->b = b;
  o->check = is_geometry_healthy (b) && !(c->flags & FUZZ_DIRTY) &&
    b->fs->e2->cluster_ratio_bits == 0;
  if (!o->check)
    return o;
  if (b->old == NULL) {
    b->old = malloc (b->size);
    if (b->old == NULL)
      fuzz_die ("no memory");
    memcpy (b->old, b->mem, b->size);
  }
  o->old = b->old;
  o->had = calloc (1, b->size / PAGE);
  if (o->had == NULL)
    fuzz_die ("no memory");
  for (i = 0; i < b->size / PAGE; i++)
    if (b->dev->dirty[i]) {
      o->had[i] = 1;
      memcpy (o->old + i * PAGE, b->dev->mem + i * PAGE, PAGE);
    }
  return o;
}

void
fuzz_others_free (struct fuzz_others *o)
{
  uint64_t i;

  for (i = 0; o->check && i < o->b->size / PAGE; i++)
    if (o->had[i])
      memcpy (o->old + i * PAGE, o->b->mem + i * PAGE, PAGE);
  free (o->had);
  free (o);
}

static bool
is_changed (const struct fuzz_client *cl, uint32_t ino)
{
  unsigned i;

  for (i = 0; i < FUZZ_FILES; i++)
    if (cl->changed[i] == ino)
      return true;
  return false;
}

static void
check_block (const struct fuzz_others *o, uint64_t blk)
{
  const struct fuzz_base *b = o->b;
  const uint8_t *old = o->old;
  const uint32_t bs = b->block_size;

  if (memcmp (old + blk * bs, b->dev->mem + blk * bs, bs) != 0 &&
      fuzz_is_allocated (b, old, blk))
    fuzz_die ("block %llu of another file has been changed",
              (unsigned long long) blk);
}

void
fuzz_others_check (struct fuzz_others *o, const struct fuzz_client *cl)
{
  const struct fuzz_base *b = o->b;
  uint8_t *theirs, *ours;
  uint64_t blk;
  unsigned i;

  if (!o->check)
    return;
  theirs = calloc (2, b->blocks);
  if (theirs == NULL)
    fuzz_die ("no memory");
  ours = theirs + b->blocks;
  for (i = 0; i < b->count[FUZZ_INODE]; i++) {
    const struct fuzz_place *p = &b->places[FUZZ_INODE][i];

    if (is_changed (cl, p->owner) || p->owner == EXT2_JOURNAL_INO)
      fuzz_mark (b, o->old, p->owner, ours);
    else {
      fuzz_mark (b, b->mem, p->owner, theirs);
      if (memcmp (o->old + p->offset, b->dev->mem + p->offset, p->len) != 0)
        fuzz_die ("inode %u has been changed", p->owner);
    }
  }
  for (blk = 0; blk < b->blocks; blk++)
    if (theirs[blk] && !ours[blk])
      check_block (o, blk);
  free (theirs);
}

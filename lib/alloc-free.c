/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Freeing blocks.  The invariants are in alloc.h. */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "errors.h"
#include "fs.h"
#include "group.h"

#define ALREADY_FREE "a block to be freed is already free"

/* The part of [BLK, BLK+LEN) that lies in BLK's group. */
struct part {
  dgrp_t group;
  uint32_t bit, n;
};

static struct part
first_part (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  struct part p = { .group = group_of (fs, blk) };
  uint32_t left;

  p.bit = blk - group_first (fs, p.group);
  left = group_blocks (fs, p.group) - p.bit;
  p.n = len < left ? (uint32_t) len : left;
  return p;
}

/* Room in the lists for all that has been prepared. */
static errcode_t
make_room (struct filesystem *fs)
{
  struct allocator *a = &fs->alloc;
  const size_t n = a->prepared;
  struct free_list *l = &a->pending;
  size_t size = l->size ? l->size : 64;
  struct free_range *p;
  uint64_t *q;

  while (size < l->count + n || size < a->nrevoked + n)
    size *= 2;
  if (size > l->size) {
    p = realloc (l->ranges, size * sizeof *p);
    if (p == NULL)
      return ENOMEM;
    l->ranges = p;
    l->size = size;
  }
  if (fs->log && size > a->revoked_size) {
    q = realloc (a->revoked, size * sizeof *q);
    if (q == NULL)
      return ENOMEM;
    a->revoked = q;
    a->revoked_size = size;
  }
  return 0;
}

void
alloc_begin_free (struct filesystem *fs)
{
  lock_assert_held (LOCK_FS);
  fs->alloc.prepared = 0;
}

/* Are all of P allocated?  If not, that is said. */
static errcode_t
check_allocated (struct filesystem *fs, const struct part *p)
{
  struct mbuf *mb;
  bool all;
  errcode_t err = group_bitmap (fs, p->group, &mb);

  if (err)
    return err;
  all = bit_find (mb->data, p->bit, p->bit + p->n, false) == p->bit + p->n;
  mcache_unpin (fs->mc, mb);
  if (all)
    return 0;
  group_set_bad (fs, p->group, ALREADY_FREE);
  return EXT2_FILSYS_CORRUPTED;
}

/* With a journal their bits are going to be cleared at once. */
static errcode_t
prepare_part (struct filesystem *fs, const struct part *p)
{
  struct mbuf *mb;
  errcode_t err;

  if (!fs->log)
    return check_allocated (fs, p);
  err = group_load_for_change (fs, p->group, &mb);
  if (err)
    return err;
  err = group_make_busy (fs, p->group, mb);
  mcache_unpin (fs->mc, mb);
  return err;
}

errcode_t
alloc_prepare_free (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  errcode_t err = 0;

  lock_assert_held (LOCK_FS);
  while (len > 0 && !err) {
    struct part p = first_part (fs, blk, len);

    fs->alloc.prepared++;
    blk += p.n;
    len -= p.n;
    err = prepare_part (fs, &p);
    if (err == EXT2_FILSYS_CORRUPTED)
      err = 0;                  /* said; its blocks are leaked */
  }
  return err ? err : make_room (fs);
}

uint64_t
alloc_freeable (struct filesystem *fs, uint64_t blk, uint64_t len,
                unsigned *groups)
{
  uint64_t done = 0;

  for (; done < len && *groups > 0; --*groups)
    done += first_part (fs, blk + done, len - done).n;
  return done;
}

errcode_t
alloc_check_tree_block (struct filesystem *fs, uint64_t blk)
{
  struct part p = first_part (fs, blk, 1);
  struct mbuf *mb;
  bool is_free;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  err = group_bitmap (fs, p.group, &mb);
  if (err == EXT2_FILSYS_CORRUPTED)
    return 0;                   /* nothing is allocated there any more */
  if (err)
    return err;
  is_free = !bit_test (mb->data, p.bit) ||
    group_is_freed (fs, p.group, p.bit, 1);
  mcache_unpin (fs->mc, mb);
  if (!is_free)
    return 0;
  group_set_bad (fs, p.group, "a block of a file's tree is free");
  return EXT2_FILSYS_CORRUPTED;
}

/* At the end of the list of pending frees, for which there is room. */
static void
add_pending (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  struct free_list *l = &fs->alloc.pending;
  struct free_range *last = l->count ? &l->ranges[l->count - 1] : NULL;

  if (last && last->blk + last->len == blk)
    last->len += len;
  else if (last && blk + len == last->blk) {
    last->blk = blk;
    last->len += len;
  }
  else {
    assert (l->count < l->size);
    l->ranges[l->count].blk = blk;
    l->ranges[l->count].len = len;
    l->count++;
  }
}

/* inv 5.  The bits are set in the busy map, so nobody can take them. */
static void
withhold (struct filesystem *fs, const struct part *p)
{
  if (group_change_bits (fs, p->group, p->bit, p->n, false) != 0)
    return;                     /* a bad group: said, and leaked */
  group_hold (fs, p->group, p->bit, p->n);
  fs->alloc.withheld += p->n;
  add_pending (fs, group_first (fs, p->group) + p->bit, p->n);
}

/* The same without a journal: their bits stay set. */
static void
remember (struct filesystem *fs, const struct part *p)
{
  if (fs->alloc.groups[p->group].bad)
    return;
  if (group_is_freed (fs, p->group, p->bit, p->n)) {
    group_set_bad (fs, p->group, ALREADY_FREE);
    return;
  }
  group_note_freed (fs, p->group, p->bit, p->n);
  add_pending (fs, group_first (fs, p->group) + p->bit, p->n);
}

void
alloc_free_later (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  lock_assert_held (LOCK_FS);
  while (len > 0) {
    struct part p = first_part (fs, blk, len);

    if (fs->log)
      withhold (fs, &p);
    else
      remember (fs, &p);
    blk += p.n;
    len -= p.n;
  }
}

void
alloc_free_tree_block (struct filesystem *fs, uint64_t blk)
{
  struct allocator *a = &fs->alloc;

  lock_assert_held (LOCK_FS);
  mcache_forget (fs->mc, blk);
  if (fs->log) {
    assert (a->nrevoked < a->revoked_size);
    a->revoked[a->nrevoked++] = blk;
  }
  alloc_free_later (fs, blk, 1);
}

errcode_t
alloc_free_now (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  errcode_t first_error = 0;

  lock_assert_held (LOCK_FS);
  while (len > 0) {
    struct part p = first_part (fs, blk, len);
    errcode_t err = group_change_bits (fs, p.group, p.bit, p.n, false);
    uint32_t i;

    for (i = 0; !err && i < p.n; i++)
      group_note_bit (fs, p.group, p.bit + i, false);
    /* The rest can still be freed; what could not be is leaked. */
    if (err && !first_error)
      first_error = err;
    blk += p.n;
    len -= p.n;
  }
  alloc_note_returned (fs);
  return first_error;
}

bool
alloc_may_discard (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  lock_assert_held (LOCK_FS);
  if (atomic_load (&fs->aborted))
    return false;
  if (fs->log)
    return true;                /* looked at when it was withheld */
  while (len > 0) {
    struct part p = first_part (fs, blk, len);

    if (check_allocated (fs, &p) != 0)
      return false;
    blk += p.n;
    len -= p.n;
  }
  return true;
}

/* Without a journal it is a change of its own. */
static void
clear_bits (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  if (filesystem_begin_change (fs) != 0)
    return;
  alloc_free_now (fs, blk, len);
  while (len > 0) {
    struct part p = first_part (fs, blk, len);

    group_note_released (fs, p.group, p.bit, p.n);
    blk += p.n;
    len -= p.n;
  }
}

void
alloc_released (struct filesystem *fs, uint64_t blk, uint64_t len)
{
  lock_assert_held (LOCK_FS);
  alloc_search_again (fs);
  if (!fs->log) {
    clear_bits (fs, blk, len);
    return;
  }
  fs->alloc.withheld -= len;
  while (len > 0) {
    struct part p = first_part (fs, blk, len);

    group_unhold (fs, p.group, p.bit, p.n, true);
    blk += p.n;
    len -= p.n;
  }
  alloc_note_returned (fs);
}

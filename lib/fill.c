/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Giving blocks to a file.
 *
 * Notes on the design.  A fill goes through three steps:
 *
 *   reserve   the logical range is entered into the inode's list of
 *             fills, after waiting for those that overlap; it is looked
 *             up again and blocks are reserved (FS, short)
 *   write     data go to the reserved blocks, zero-filled to the edges
 *             of blocks.  No lock but INODE shared.
 *   insert    the blocks are allocated and enter the tree as written
 *             (MAP exclusive and FS, short)
 *
 * Until the insertion, readers see the hole or unwritten extent that was
 * there before, and a crash or a flush in between finds nothing that
 * points at half-written blocks.  INODE shared keeps trims of the range
 * away throughout; the list keeps other fills of the same blocks away, which
 * is what makes the zero-filled edges safe: of two writers to parts of
 * one block, the second finds it written.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fill.h"
#include "map.h"

/* Most blocks in one step: bounds the time that an overlapping fill
 * waits.
 */
#define MAX_FILL 8192u

/* Up to this size an unaligned piece is copied and written in one call.
 * Bytes.
 */
#define BOUNCE ((uint64_t) 128 << 10)

/* The list of fills. */

static bool
overlaps_any (struct inode *inode, const struct pending_fill *f)
{
  const struct pending_fill *other;

  for (other = inode->fills; other; other = other->next)
    if (f->start < other->end && other->start < f->end)
      return true;
  return false;
}

static void
begin_fill (struct inode *inode, struct pending_fill *f)
{
  LOCK_FOR_SCOPE (&inode->fill_lock);
  while (overlaps_any (inode, f))
    lock_wait (&inode->fill_done, &inode->fill_lock);
  f->next = inode->fills;
  inode->fills = f;
}

static void
end_fill (struct inode *inode, struct pending_fill *f)
{
  struct pending_fill **p;

  LOCK_FOR_SCOPE (&inode->fill_lock);
  for (p = &inode->fills; *p != f; p = &(*p)->next)
    ;
  *p = f->next;
  pthread_cond_broadcast (&inode->fill_done);
}

/* Writing with zero-filled edges.  The piece covers whole blocks of
 * LEN bytes at device offset DEV_OFFSET; the COUNT bytes of BUF start
 * HEAD bytes into it.
 */
struct piece {
  uint64_t dev_offset, len;
  uint64_t head, count;
  const uint8_t *buf;
};

static errcode_t
write_bounced (struct inode *inode, const struct piece *p)
{
  uint8_t *bounce = malloc (p->len);
  errcode_t err;

  if (bounce == NULL)
    return ENOMEM;
  memset (bounce, 0, p->head);
  memcpy (bounce + p->head, p->buf, p->count);
  memset (bounce + p->head + p->count, 0, p->len - p->head - p->count);
  err = device_pwrite (inode->fs->dev, bounce, p->len, p->dev_offset, 0);
  free (bounce);
  return err;
}

static errcode_t
write_piece (struct inode *inode, const struct piece *p)
{
  const uint64_t bs = inode->fs->block_size;
  const uint64_t tail = (p->head + p->count) % bs;
  struct piece edge, rest = *p;
  errcode_t err;

  if (p->head == 0 && tail == 0)
    return device_pwrite (inode->fs->dev, p->buf, p->count, p->dev_offset, 0);
  if (p->len <= BOUNCE || p->len <= 2 * bs)
    return write_bounced (inode, p);

  /* Large: only the edge blocks are copied. */
  if (rest.head > 0) {
    edge = rest;
    edge.len = bs;
    edge.count = bs - rest.head;
    err = write_bounced (inode, &edge);
    if (err)
      return err;
    rest.dev_offset += bs;
    rest.len -= bs;
    rest.buf += edge.count;
    rest.count -= edge.count;
    rest.head = 0;
  }
  if (tail > 0) {
    edge.dev_offset = rest.dev_offset + rest.len - bs;
    edge.len = bs;
    edge.head = 0;
    edge.count = tail;
    edge.buf = rest.buf + rest.count - tail;
    err = write_bounced (inode, &edge);
    if (err)
      return err;
    rest.count -= tail;
  }
  return device_pwrite (inode->fs->dev, rest.buf, rest.count,
                        rest.dev_offset, 0);
}

/* The steps. */

struct fill {
  enum fill_kind kind;
  struct mapping m;             /* what was there; len cut to the fill */
  uint32_t meta;                /* tree blocks to promise */
  struct reservation r;
};

static bool
needs_change (const struct fill *f)
{
  return f->m.state == MAP_HOLE ||
    (f->m.state == MAP_UNWRITTEN && f->kind != FILL_UNWRITTEN);
}

static errcode_t
reserve_at (struct inode *inode, struct fill *f, struct goal *goal,
            uint32_t check, uint32_t search)
{
  goal->check = check;
  goal->search = search;
  return alloc_reserve (inode->fs, goal, f->m.len, f->meta, &f->r);
}

/* A run of blocks for the hole F->m (alloc-find.c): on the line of its
 * window, if that has a place already; else where the whole window can
 * go, on the file's line or in a free piece; else anywhere.  Elsewhere is
 * behind the end of the line, where it pushes nothing off.
 */
static errcode_t
reserve_run (struct inode *inode, struct fill *f)
{
  struct filesystem *fs = inode->fs;
  const uint64_t size = inode->size >> fs->block_bits, lblk = f->m.lblk;
  const uint32_t window = alloc_window (fs, size);
  struct goal goal = { .lblk = lblk, .limit = map_limit (inode) };
  errcode_t err = NOT_AT_GOAL;
  bool placed;

  placed = window_recall (&inode->windows, lblk, window, &goal.at) ||
    map_line (inode, lblk, window, &goal.at);
  goal.elsewhere = goal.at + size - lblk;
  goal.spacious = window == alloc_window (fs, UINT64_MAX);
  if (!placed)
    err = reserve_at (inode, f, &goal, window, window);
  if (err == NOT_AT_GOAL)
    err = reserve_at (inode, f, &goal, 1, 1);
  if (err)
    return err;
  /* A block that is taken on the way does not change the line. */
  if (!placed)
    window_note (&inode->windows, lblk, window, f->r.blk);
  f->m.len = f->r.len;
  return 0;
}

static errcode_t
reserve_once (struct inode *inode, struct fill *f, uint64_t lblk,
              uint64_t blocks)
{
  struct filesystem *fs = inode->fs;
  uint32_t most = map_max_insert (inode, lblk);
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = map_lookup (inode, lblk, blocks, &f->m);
  if (err)
    return err;
  if (f->m.len > most)
    f->m.len = most;
  if (f->m.len > blocks)
    f->m.len = blocks;
  f->meta = map_meta_needed (inode);
  if (!needs_change (f))
    return 0;
  if (!fs->writable || atomic_load (&fs->aborted))
    return EROFS;
  if (f->m.state == MAP_HOLE)
    return reserve_run (inode, f);
  /* Preallocated blocks are there to be written when space is short.
   * Most conversions need no block for the tree.
   */
  err = alloc_reserve (fs, NULL, 0, f->meta, &f->r);
  return err == EXT2_ET_BLOCK_ALLOC_FAIL ? 0 : err;
}

/* Looks at up to BLOCKS from LBLK on, once more, because another fill of
 * them may have just ended, and reserves what is needed.  Under FS alone:
 * somebody else's insertion then holds up one step of ours, not two.  What
 * the lookup needs is in the cache as a rule: there has been one before.
 */
static errcode_t
reserve (struct inode *inode, struct fill *f, uint64_t lblk, uint64_t blocks)
{
  errcode_t err;

  do
    err = reserve_once (inode, f, lblk, blocks);
  while (err == SEARCH_ON);
  return err;
}

static errcode_t
write_data (struct inode *inode, const struct fill *f, const void *buf,
            uint64_t count, uint64_t offset)
{
  struct filesystem *fs = inode->fs;
  uint64_t pblk = f->m.state == MAP_HOLE ? f->r.blk : f->m.pblk;
  struct piece p = {
    .dev_offset = pblk << fs->block_bits,
    .len = f->m.len << fs->block_bits,
    .head = offset & (fs->block_size - 1),
    .count = count,
    .buf = buf,
  };

  switch (f->kind) {
  case FILL_DATA:
    return write_piece (inode, &p);
  case FILL_ZEROS:
    return device_zero (fs->dev, p.len, p.dev_offset, 0);
  case FILL_UNWRITTEN:
    break;
  }
  return 0;
}

/* Locks: MAP exclusive and FS. */
static errcode_t
insert_locked (struct inode *inode, struct fill *f)
{
  struct filesystem *fs = inode->fs;
  enum map_state state = f->kind == FILL_UNWRITTEN ? MAP_UNWRITTEN
    : MAP_WRITTEN;
  uint64_t pblk = f->r.blk;
  uint32_t done = 0;
  errcode_t err, err2;

  err = inode_begin_change (inode);
  if (err)
    return err;
  if (f->m.state == MAP_UNWRITTEN)
    err = map_convert (inode, f->m.lblk, f->m.len, state, &f->r);
  else {
    err = alloc_take (fs, &f->r, f->m.len);
    if (err)
      return err;
    err = map_insert (inode, f->m.lblk, f->m.len, pblk, state, &f->r, &done);
    ext2fs_iblk_add_blocks (fs->e2, (struct ext2_inode *) inode->raw, done);
    /* What did not get into the tree is free again, at once: nothing on
     * disk has pointed at it.
     */
    if (done < f->m.len)
      alloc_free_now (fs, pblk + done, f->m.len - done);
  }
  err2 = inode_write (inode);
  return err ? err : err2;
}

/* With an error, gives the reservation back and returns the same. */
static errcode_t
insert (struct inode *inode, struct fill *f, errcode_t write_error)
{
  struct filesystem *fs = inode->fs;
  errcode_t err = write_error;
  bool full;

  do {
    inode_map_lock_exclusive (inode);
    lock_acquire (&fs->lock);
    if (!err)
      err = insert_locked (inode, f);
    full = err == TRANSACTION_FULL;
    if (!full)
      alloc_release (fs, &f->r);
    lock_release (&fs->lock);
    inode_map_unlock_exclusive (inode);
    if (full)
      err = filesystem_make_room (fs);
  } while (full);
  return err;
}

/* Locks: the range is in the list of fills. */
static errcode_t
fill_listed (struct inode *inode, struct fill *f, const void *buf,
             uint64_t count, uint64_t offset, uint64_t blocks,
             uint64_t *done)
{
  struct filesystem *fs = inode->fs;
  errcode_t err;

  err = reserve (inode, f, offset >> fs->block_bits, blocks);
  if (err || f->m.state == MAP_WRITTEN)
    return err;
  *done = (f->m.len << fs->block_bits) - (offset & (fs->block_size - 1));
  if (*done > count)
    *done = count;
  if (!needs_change (f))
    return 0;
  err = write_data (inode, f, buf, *done, offset);
  return insert (inode, f, err);
}

errcode_t
fill (struct inode *inode, enum fill_kind kind, const void *buf,
      uint64_t count, uint64_t offset, uint64_t *done)
{
  struct filesystem *fs = inode->fs;
  const uint64_t start = offset >> fs->block_bits;
  uint64_t blocks = ((offset + count - 1) >> fs->block_bits) + 1 - start;
  struct fill f = { .kind = kind };
  struct pending_fill pending;
  errcode_t err;

  lock_assert_held (LOCK_INODE);
  *done = 0;
  if (blocks > MAX_FILL)
    blocks = MAX_FILL;
  pending.start = start;
  pending.end = start + blocks;
  begin_fill (inode, &pending);
  err = fill_listed (inode, &f, buf, count, offset, blocks, done);
  end_fill (inode, &pending);
  if (err)
    *done = 0;
  return err;
}

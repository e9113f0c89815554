/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Reading and writing a file.
 *
 * How a request travels: file_read or file_write takes INODE shared for
 * its range, looks that up piece by piece (in the file's long runs, or
 * else with MAP shared by a search in cached tree blocks), and passes each
 * written piece to the device with the caller's own buffer.  No FS, no
 * libext2fs, no copy.  INODE shared keeps the answer of the lookup true
 * until the I/O is done, because only trims and zeros take blocks away,
 * under INODE exclusive for their range.
 * Holes and unwritten extents read as zeros here; writes to them go
 * through fill.c.
 */

#include <config.h>

#include <errno.h>
#include <string.h>

#include "errors.h"
#include "file.h"
#include "fill.h"
#include "inline.h"

static errcode_t
check_range (const struct inode *inode, uint64_t count, uint64_t offset)
{
  return offset > inode->size || count > inode->size - offset ? EINVAL : 0;
}

/* A piece of the file in one state, in bytes. */
struct extent_at {
  uint64_t count;               /* at most what was asked for */
  uint64_t dev_offset;          /* if written or unwritten */
  enum map_state state;
};

/* Looks up OFFSET.  Locks: INODE for the range. */
static errcode_t
lookup (struct inode *inode, uint64_t offset, uint64_t count,
        struct extent_at *at)
{
  const unsigned bits = inode->fs->block_bits;
  const uint64_t in = offset & (inode->fs->block_size - 1);
  struct mapping m;
  errcode_t err;

  lock_assert_held (LOCK_INODE);
  m.lblk = offset >> bits;
  m.state = MAP_WRITTEN;
  if (!runs_find (&inode->runs, m.lblk, &m.pblk, &m.len)) {
    inode_map_lock_shared (inode);
    err = map_lookup (inode, m.lblk, ((in + count - 1) >> bits) + 1, &m);
    if (!err && m.state == MAP_WRITTEN)
      runs_note (&inode->runs, m.lblk, m.lblk - m.before, m.before + m.len,
                 m.pblk - m.before);
    inode_map_unlock_shared (inode);
    if (err)
      return err;
  }
  at->count = (m.len << bits) - in;
  if (at->count > count)
    at->count = count;
  at->dev_offset = (m.pblk << bits) + in;
  at->state = m.state;
  return 0;
}

/* Times go along with the next change of the inode or its last close. */
static void
note_times (struct inode *inode)
{
  if (!atomic_load_explicit (&inode->times_pending, memory_order_relaxed))
    atomic_store (&inode->times_pending, true);
}

/* The end of a request that changes data: for FUA, the transactions that
 * mapped the range are durable too.
 */
static errcode_t
finish_change (struct inode *inode, errcode_t err, unsigned flags)
{
  if (!err && (flags & FILE_FUA))
    err = filesystem_commit_tid (inode->fs,
                                 atomic_load (&inode->changed_tid));
  filesystem_balance (inode->fs);
  return err;
}

static errcode_t
may_change (struct inode *inode)
{
  return !inode->writable || atomic_load (&inode->fs->aborted) ? EROFS : 0;
}

/* After a change: was it put off for want of room in the transaction,
 * and can be tried again now?
 */
static bool
make_room (struct filesystem *fs, errcode_t *err)
{
  if (*err != TRANSACTION_FULL)
    return false;
  *err = filesystem_make_room (fs);
  return *err == 0;
}

/* Inline data. */

static errcode_t
read_inline (struct inode *inode, void *buf, uint64_t count, uint64_t offset)
{
  errcode_t err;

  inode_map_lock_shared (inode);
  err = inline_read (inode, buf, count, offset);
  inode_map_unlock_shared (inode);
  return err;
}

static errcode_t
write_inline (struct inode *inode, const void *buf, uint64_t count,
              uint64_t offset)
{
  struct filesystem *fs = inode->fs;
  errcode_t err;

  do {
    inode_map_lock_exclusive (inode);
    lock_acquire (&fs->lock);
    err = inode_begin_change (inode);
    if (!err)
      err = inline_write (inode, buf, count, offset);
    if (!err)
      err = inode_write (inode);
    lock_release (&fs->lock);
    inode_map_unlock_exclusive (inode);
  } while (make_room (fs, &err));
  return err;
}

/* Read. */

errcode_t
file_read (struct inode *inode, void *buf, uint64_t count, uint64_t offset)
{
  uint8_t *p = buf;
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  err = check_range (inode, count, offset);
  if (err)
    return err;
  if (inode->kind == INLINE_DATA)
    return read_inline (inode, buf, count, offset);

  range = inode_lock_shared (inode, offset, count);
  for (; count > 0 && !err; p += at.count, offset += at.count,
         count -= at.count) {
    err = lookup (inode, offset, count, &at);
    if (err)
      break;
    if (at.state == MAP_WRITTEN)
      err = device_pread (inode->fs->dev, p, at.count, at.dev_offset);
    else
      memset (p, 0, at.count);
  }
  inode_unlock_shared (inode, range);
  return err;
}

/* Write. */

/* *DONE is how far it got, also on error.  Locks: INODE shared. */
static errcode_t
write_locked (struct inode *inode, const uint8_t *buf, uint64_t count,
              uint64_t offset, unsigned flags, uint64_t *done,
              struct shortage *space)
{
  const unsigned fua = flags & FILE_FUA ? DEVICE_FUA : 0;
  struct extent_at at;
  uint64_t n;
  errcode_t err;

  for (; *done < count; *done += n) {
    const uint8_t *p = buf + *done;
    uint64_t o = offset + *done, left = count - *done;

    err = lookup (inode, o, left, &at);
    if (err)
      return err;
    if (at.state == MAP_WRITTEN) {
      n = at.count;
      err = device_pwrite (inode->fs->dev, p, n, at.dev_offset, fua);
    }
    else {
      filesystem_note_space (inode->fs, space);
      err = fill (inode, FILL_DATA, p, at.count, o, &n);
    }
    if (err)
      return err;
  }
  return 0;
}

errcode_t
file_write (struct inode *inode, const void *buf, uint64_t count,
            uint64_t offset, unsigned flags)
{
  struct shortage space = { 0 };
  spread_range *range;
  uint64_t done = 0;
  errcode_t err;

  if ((err = check_range (inode, count, offset)) ||
      (err = may_change (inode)) || count == 0)
    return err;
  if (inode->kind == INLINE_DATA)
    err = write_inline (inode, buf, count, offset);
  else {
    do {
      range = inode_lock_shared (inode, offset, count);
      err = write_locked (inode, buf, count, offset, flags, &done, &space);
      inode_unlock_shared (inode, range);
    } while (err == EXT2_ET_BLOCK_ALLOC_FAIL &&
             filesystem_reclaim (inode->fs, &space));
    note_times (inode);
  }
  return finish_change (inode, err, flags);
}

/* Zero and trim. */

/* Take what is mapped in [START, END) out of one leaf of the tree.
 * Locks: INODE exclusive, MAP exclusive and FS.
 */
static errcode_t
unmap_locked (struct inode *inode, uint64_t start, uint64_t end,
              uint64_t *next)
{
  struct filesystem *fs = inode->fs;
  struct reservation r;
  errcode_t err, err2;

  err = inode_begin_change (inode);
  if (err)
    return err;
  /* A hole in the middle of an extent can split a leaf, which takes a
   * block; most need none, so go on without.
   */
  if (alloc_reserve (fs, NULL, 0, map_meta_needed (inode), &r) != 0)
    memset (&r, 0, sizeof r);
  err = map_remove (inode, start, end, &r, next);
  /* What is freed may go to somebody else.  Other windows stay: fills
   * there may not have come to the tree yet.
   */
  if (!err)
    window_forget (&inode->windows, start, *next,
                   alloc_window (fs, inode->size >> fs->block_bits));
  alloc_release (fs, &r);
  err2 = inode_write (inode);
  return err ? err : err2;
}

/* *NEXT is the end of the hole at START, or of some of it; START itself if
 * there is none.
 */
static errcode_t
skip_hole (struct inode *inode, uint64_t start, uint64_t end, uint64_t *next)
{
  const unsigned bits = inode->fs->block_bits;
  const uint64_t offset = start << bits, count = (end - start) << bits;
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  range = inode_lock_shared (inode, offset, count);
  err = lookup (inode, offset, count, &at);
  inode_unlock_shared (inode, range);
  *next = start;
  if (!err && at.state == MAP_HOLE)
    *next += at.count >> bits;
  return err;
}

/* Unmap what is in one leaf of the tree. */
static errcode_t
unmap_leaf (struct inode *inode, uint64_t start, uint64_t end,
            uint64_t *next)
{
  struct filesystem *fs = inode->fs;
  const unsigned bits = fs->block_bits;
  errcode_t err;

  inode_lock_exclusive (inode, start << bits, (end - start) << bits);
  inode_map_lock_exclusive (inode);
  lock_acquire (&fs->lock);
  err = unmap_locked (inode, start, end, next);
  lock_release (&fs->lock);
  inode_map_unlock_exclusive (inode);
  inode_unlock_exclusive (inode);
  return err;
}

/* Unmap the whole blocks [START, END), a leaf of the tree at a time, so
 * that other requests are served in between.  Holes are no change.  *DONE is
 * how far it got.
 */
static errcode_t
unmap (struct inode *inode, uint64_t start, uint64_t end, uint64_t *done)
{
  uint64_t next;
  errcode_t err = 0;

  while (start < end && !err) {
    filesystem_pace_frees (inode->fs);
    err = skip_hole (inode, start, end, &next);
    if (!err && next == start)
      err = unmap_leaf (inode, start, end, &next);
    if (!err)
      start = next;
    else
      make_room (inode->fs, &err);
  }
  *done = start;
  return err;
}

/* Locks: INODE and MAP exclusive, FS. */
static errcode_t
unwrite_locked (struct inode *inode, uint64_t start, uint64_t count,
                uint64_t *done)
{
  struct filesystem *fs = inode->fs;
  struct reservation r;
  struct mapping m;
  errcode_t err, err2;

  err = map_lookup (inode, start, count, &m);
  if (err || m.state != MAP_WRITTEN)
    return err;
  if (m.len > count)
    m.len = count;
  if (m.len > MAP_MAX_INSERT)
    m.len = MAP_MAX_INSERT;
  err = inode_begin_change (inode);
  if (!err)
    err = alloc_reserve (fs, NULL, 0, map_meta_needed (inode), &r);
  if (err)
    return err;
  err = map_convert (inode, start, m.len, MAP_UNWRITTEN, &r);
  alloc_release (fs, &r);
  err2 = inode_write (inode);
  if (err || err2)
    return err ? err : err2;
  *done = m.len;
  return 0;
}

/* Turn written blocks into unwritten ones.  *DONE in blocks; stops at
 * what is not written.
 */
static errcode_t
unwrite (struct inode *inode, uint64_t start, uint64_t count, uint64_t *done)
{
  struct filesystem *fs = inode->fs;
  const unsigned bits = fs->block_bits;
  errcode_t err;

  *done = 0;
  do {
    inode_lock_exclusive (inode, start << bits, count << bits);
    inode_map_lock_exclusive (inode);
    lock_acquire (&fs->lock);
    err = unwrite_locked (inode, start, count, done);
    lock_release (&fs->lock);
    inode_map_unlock_exclusive (inode);
    inode_unlock_exclusive (inode);
  } while (make_room (fs, &err));
  return err;
}

/* Zero part of one block: nothing to do unless it is written. */
static errcode_t
zero_edge (struct inode *inode, uint64_t count, uint64_t offset)
{
  static const uint8_t zeros[65536];    /* the largest block size */
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  range = inode_lock_shared (inode, offset, count);
  err = lookup (inode, offset, count, &at);
  if (!err && at.state == MAP_WRITTEN)
    err = device_pwrite (inode->fs->dev, zeros, count, at.dev_offset, 0);
  inode_unlock_shared (inode, range);
  return err;
}

/* The same where the block must end up allocated. */
static errcode_t
zero_edge_allocated (struct inode *inode, uint64_t count, uint64_t offset)
{
  enum fill_kind kind = inode->kind == MAPPED_BY_EXTENTS ? FILL_UNWRITTEN
    : FILL_ZEROS;
  spread_range *range;
  struct extent_at at;
  uint64_t done;
  errcode_t err;

  range = inode_lock_shared (inode, offset, count);
  err = lookup (inode, offset, count, &at);
  if (!err && at.state == MAP_HOLE)
    err = fill (inode, kind, NULL, count, offset, &done);
  inode_unlock_shared (inode, range);
  return err ? err : zero_edge (inode, count, offset);
}

/* Write zeros to the written blocks at OFFSET: the last resort, when
 * there is no space for splitting extents.  *DONE in bytes.
 */
static errcode_t
zero_in_place (struct inode *inode, uint64_t count, uint64_t offset,
               uint64_t *done)
{
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  *done = 0;
  range = inode_lock_shared (inode, offset, count);
  err = lookup (inode, offset, count, &at);
  if (!err && at.state == MAP_WRITTEN)
    err = device_zero (inode->fs->dev, at.count, at.dev_offset, 0);
  if (!err && at.state != MAP_HOLE)
    *done = at.count;
  inode_unlock_shared (inode, range);
  return err;
}

/* Zero a piece at OFFSET, up to COUNT bytes, that stays allocated; *DONE
 * bytes of it.  *SLOWLY is not 0 if that many are written, and neither the
 * device is quick about zeros nor anything has been done.
 */
static errcode_t
zero_quickly (struct inode *inode, uint64_t count, uint64_t offset,
              uint64_t *done, uint64_t *slowly)
{
  const bool extents = inode->kind == MAPPED_BY_EXTENTS;
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  *done = *slowly = 0;
  range = inode_lock_shared (inode, offset, count);
  err = lookup (inode, offset, count, &at);
  if (err)
    ;
  else if (at.state == MAP_HOLE)
    err = fill (inode, extents ? FILL_UNWRITTEN : FILL_ZEROS, NULL, at.count,
                offset, done);
  else if (at.state == MAP_UNWRITTEN)
    *done = at.count;
  else {
    /* In place where the device is quick about it, or where there is no
     * unwritten state.
     */
    err = device_zero (inode->fs->dev, at.count, at.dev_offset,
                       extents ? DEVICE_FAST : 0);
    if (!err)
      *done = at.count;
    else if (err == ENOTSUP && extents) {
      *slowly = at.count;
      err = 0;
    }
  }
  inode_unlock_shared (inode, range);
  return err;
}

/* Zero one piece of [START, END) (blocks) that stays allocated. */
static errcode_t
zero_piece_allocated (struct inode *inode, uint64_t start, uint64_t end,
                      uint64_t *next)
{
  const unsigned bits = inode->fs->block_bits;
  const uint64_t offset = start << bits;
  uint64_t done, slowly;
  errcode_t err;

  err = zero_quickly (inode, (end - start) << bits, offset, &done, &slowly);
  if (!err && slowly > 0) {
    err = unwrite (inode, start, slowly >> bits, &done);
    done <<= bits;
    if (err == EXT2_ET_BLOCK_ALLOC_FAIL)
      err = zero_in_place (inode, slowly, offset, &done);
  }
  *next = start + (done >> bits);
  return err;
}

static errcode_t
zero_blocks (struct inode *inode, uint64_t start, uint64_t end,
             unsigned flags)
{
  errcode_t err;
  uint64_t next;

  if (flags & FILE_MAY_TRIM) {
    err = unmap (inode, start, end, &start);
    if (err != EXT2_ET_BLOCK_ALLOC_FAIL)
      return err;
    /* No block to split a leaf with: what is left stays allocated. */
  }
  for (err = 0; start < end && !err; start = next)
    err = zero_piece_allocated (inode, start, end, &next);
  return err;
}

/* Whole blocks inside [OFFSET, OFFSET+COUNT); the last block of the file
 * counts as whole when the range goes to the end of the file.
 */
static void
whole_blocks (const struct inode *inode, uint64_t count, uint64_t offset,
              uint64_t *start, uint64_t *end)
{
  const unsigned bits = inode->fs->block_bits;
  const uint64_t mask = inode->fs->block_size - 1;

  *start = (offset + mask) >> bits;
  *end = (offset + count) >> bits;
  if (offset + count == inode->size)
    *end = (inode->size + mask) >> bits;
  if (*end < *start)
    *end = *start;
}

static errcode_t
zero_mapped (struct inode *inode, uint64_t count, uint64_t offset,
             unsigned flags)
{
  const unsigned bits = inode->fs->block_bits;
  errcode_t (*edge) (struct inode *, uint64_t, uint64_t)
    = flags & FILE_MAY_TRIM ? zero_edge : zero_edge_allocated;
  uint64_t start, end, head, tail;
  errcode_t err = 0;

  whole_blocks (inode, count, offset, &start, &end);
  head = (start << bits) - offset;
  if (head > count)
    head = count;               /* all within one block */
  if (head > 0)
    err = edge (inode, head, offset);
  if (!err && head < count) {
    err = zero_blocks (inode, start, end, flags);
    if (!err && offset + count > end << bits) {
      tail = offset + count - (end << bits);
      err = edge (inode, tail, end << bits);
    }
  }
  return err;
}

errcode_t
file_zero (struct inode *inode, uint64_t count, uint64_t offset,
           unsigned flags)
{
  struct shortage space = { 0 };
  errcode_t err;

  if ((err = check_range (inode, count, offset)) ||
      (err = may_change (inode)))
    return err;
  /* Without unwritten extents blocks that must stay are zeroed one by
   * one.  With them, or by unmapping, only edges are written.
   */
  if ((flags & FILE_FAST) && inode->kind == MAPPED_BY_BLOCKS &&
      !(flags & FILE_MAY_TRIM))
    return ENOTSUP;
  if (count == 0)
    return 0;
  if (inode->kind == INLINE_DATA)
    err = write_inline (inode, NULL, count, offset);
  else {
    do {
      filesystem_note_space (inode->fs, &space);
      err = zero_mapped (inode, count, offset, flags);
    } while (err == EXT2_ET_BLOCK_ALLOC_FAIL &&
             filesystem_reclaim (inode->fs, &space));
    note_times (inode);
  }
  if (!err && (flags & FILE_FUA)) {
    /* In-place zeros have not been flushed, metadata perhaps neither. */
    err = filesystem_flush (inode->fs);
    flags &= ~FILE_FUA;
  }
  return finish_change (inode, err, flags);
}

errcode_t
file_trim (struct inode *inode, uint64_t count, uint64_t offset,
           unsigned flags)
{
  uint64_t start, end;
  errcode_t err;

  if ((err = check_range (inode, count, offset)) ||
      (err = may_change (inode)))
    return err;
  if (inode->kind == INLINE_DATA)
    return 0;                   /* has no block of its own */
  whole_blocks (inode, count, offset, &start, &end);
  err = unmap (inode, start, end, &start);
  if (err == EXT2_ET_BLOCK_ALLOC_FAIL)
    err = 0;                    /* advice that cannot be taken now */
  return finish_change (inode, err, flags);
}

/* Block status and cache. */

errcode_t
file_status (struct inode *inode, uint64_t count, uint64_t offset,
             file_status_fn *fn, void *opaque)
{
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  err = check_range (inode, count, offset);
  if (err || count == 0)
    return err;
  if (inode->kind == INLINE_DATA) {
    fn (opaque, offset, count, MAP_WRITTEN);
    return 0;
  }
  range = inode_lock_shared (inode, offset, count);
  for (; count > 0; offset += at.count, count -= at.count) {
    err = lookup (inode, offset, count, &at);
    if (err || fn (opaque, offset, at.count, at.state) != 0)
      break;
  }
  inode_unlock_shared (inode, range);
  return err;
}

errcode_t
file_cache (struct inode *inode, uint64_t count, uint64_t offset)
{
  spread_range *range;
  struct extent_at at;
  errcode_t err;

  err = check_range (inode, count, offset);
  if (err || inode->kind == INLINE_DATA)
    return err;
  range = inode_lock_shared (inode, offset, count);
  for (; count > 0 && !err; offset += at.count, count -= at.count) {
    err = lookup (inode, offset, count, &at);
    if (err)
      break;
    if (at.state == MAP_WRITTEN)
      err = device_cache (inode->fs->dev, at.count, at.dev_offset);
  }
  inode_unlock_shared (inode, range);
  return err;
}

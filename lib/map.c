/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* From file offset to device offset: picks the kind of mapping. */

#include <config.h>

#include <errno.h>

#include "extent.h"
#include "indirect.h"
#include "map.h"

errcode_t
map_lookup (struct inode *inode, uint64_t lblk, uint64_t most,
            struct mapping *m)
{
  if (inode->kind == MAPPED_BY_EXTENTS)
    return extent_lookup (inode, lblk, m);
  return indirect_lookup (inode, lblk, most, m);
}

uint32_t
map_max_insert (struct inode *inode, uint64_t lblk)
{
  return inode->kind == MAPPED_BY_EXTENTS ? MAP_MAX_INSERT
    : indirect_table_left (inode->fs, lblk);
}

/* An edit can copy or split every node of the path, and lower the root;
 * others may make the tree deeper before it gets its turn.
 */
uint32_t
map_meta_needed (struct inode *inode)
{
  uint32_t n;

  if (inode->kind != MAPPED_BY_EXTENTS)
    return 3;
  n = 2 * extent_depth (inode) + 3;
  return n < MAP_MAX_META ? n : MAP_MAX_META;
}

errcode_t
map_new_block (struct inode *inode, struct reservation *r, struct mbuf **mbp)
{
  struct filesystem *fs = inode->fs;
  uint64_t blk;
  errcode_t err;

  err = alloc_take_meta (fs, r, inode->ino, map_limit (inode), &blk);
  if (err)
    return err;
  err = mcache_new_block (fs->mc, blk, mbp);
  if (err == EXT2_FILSYS_CORRUPTED) {
    /* The bitmap had it free, but it is in use: leave it allocated. */
    group_set_bad (fs, group_of (fs, blk), "a block in use is marked free");
    return err;
  }
  if (err)
    alloc_untake_meta (fs, r, blk);
  return err;
}

void
map_undo_new_block (struct inode *inode, struct reservation *r,
                    struct mbuf *mb)
{
  uint64_t blk = mb->blkno;

  mcache_unpin (inode->fs->mc, mb);
  alloc_untake_meta (inode->fs, r, blk);
}

errcode_t
map_insert (struct inode *inode, uint64_t lblk, uint32_t len, uint64_t pblk,
            enum map_state state, struct reservation *r, uint32_t *done)
{
  uint64_t next;
  errcode_t err;

  *done = 0;
  while (*done < len) {
    uint64_t at = lblk + *done;

    if (inode->kind == MAPPED_BY_EXTENTS) {
      err = extent_edit (inode, at, lblk + len, state, pblk + *done, false,
                         r, &next);
      if (err)
        return err;
      *done = next - lblk;
    }
    else {
      uint32_t n;

      err = indirect_insert (inode, at, len - *done, pblk + *done, r, &n);
      if (err)
        return err;
      *done += n;
    }
  }
  return 0;
}

errcode_t
map_convert (struct inode *inode, uint64_t lblk, uint32_t len,
             enum map_state state, struct reservation *r)
{
  struct mapping m;
  uint64_t next;
  errcode_t err;

  if (inode->kind != MAPPED_BY_EXTENTS)
    return EINVAL;
  if (state != MAP_WRITTEN)
    runs_forget (&inode->runs, lblk, len);
  /* One extent as a rule.  But since the caller looked, others may have
   * moved the boundary of two leaves to the middle of a longer run.
   */
  for (; len > 0; len -= next - lblk, lblk = next) {
    err = extent_lookup (inode, lblk, &m);
    if (err)
      return err;
    if (m.state == MAP_HOLE)
      return EINVAL;
    err = extent_edit (inode, lblk, lblk + (m.len < len ? m.len : len),
                       state, m.pblk, false, r, &next);
    if (err)
      return err;
  }
  return 0;
}

errcode_t
map_remove (struct inode *inode, uint64_t start, uint64_t end,
            struct reservation *r, uint64_t *next)
{
  errcode_t err;

  if (inode->kind == MAPPED_BY_EXTENTS)
    err = extent_edit (inode, start, end, MAP_HOLE, 0, true, r, next);
  else
    err = indirect_remove (inode, start, end, next);
  /* Not before, when it is not known how little of a large range it is. */
  runs_forget (&inode->runs, start,
               (err || *next > end ? end : *next) - start);
  return err;
}

uint64_t
map_limit (const struct inode *inode)
{
  /* A pointer has 32 bits. */
  return inode->kind == MAPPED_BY_EXTENTS ? 0 : UINT64_C (1) << 32;
}

bool
map_line (struct inode *inode, uint64_t lblk, uint32_t window,
          uint64_t *pblk)
{
  struct filesystem *fs = inode->fs;
  const uint64_t first = lblk & ~(uint64_t) (window - 1);
  bool found, inside;

  lock_assert_held (LOCK_FS);
  if (inode->kind == MAPPED_BY_EXTENTS)
    found = extent_goal (inode, lblk, first, window, pblk, &inside);
  else
    found = indirect_goal (inode, lblk, first, window, pblk, &inside);
  if (found)
    return inside;
  *pblk = alloc_inode_goal (fs, inode->ino) + window - 1;
  *pblk = (*pblk & ~(uint64_t) (window - 1)) + lblk;
  return false;
}

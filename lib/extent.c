/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* ext4 extent trees: looking up. */

#include <config.h>

#include <errno.h>

#include "extent.h"
#include "extent-node.h"

errcode_t
extent_check_root (struct inode *inode)
{
  struct ext3_extent_header *eh = node_root (inode);
  unsigned most = (sizeof inode->raw->i_block - sizeof *eh)
    / sizeof (struct ext3_extent);
  const char *why;

  if (node_depth (eh) > EXTENT_MAX_DEPTH)
    why = "too deep";
  else
    why = node_check (inode, eh, most, node_depth (eh), 0, EXTENT_MAX_LBLK);
  return why ? node_corrupt (inode, 0, why) : 0;
}

unsigned
extent_depth (struct inode *inode)
{
  return node_depth (node_root (inode));
}

errcode_t
extent_lookup (struct inode *inode, uint64_t lblk, struct mapping *m)
{
  struct leaf leaf;
  struct entry e, next;
  unsigned i;
  errcode_t err;

  if (lblk >= EXTENT_MAX_LBLK)
    return EINVAL;
  err = leaf_find (inode, lblk, &leaf);
  if (err)
    return err;
  i = leaf_search (&leaf, lblk);

  m->lblk = lblk;
  m->state = MAP_HOLE;
  m->pblk = 0;
  m->before = 0;
  if (i > 0) {
    leaf_get (&leaf, i - 1, &e);
    if (lblk < e.lblk + e.len) {
      m->state = e.unwritten ? MAP_UNWRITTEN : MAP_WRITTEN;
      m->pblk = e.pblk + (lblk - e.lblk);
      m->before = lblk - e.lblk;
      m->len = e.lblk + e.len - lblk;
    }
  }
  if (m->state == MAP_HOLE) {
    if (i < leaf.count) {
      leaf_get (&leaf, i, &next);
      m->len = next.lblk - lblk;
    }
    else
      m->len = leaf.hi - lblk;
  }
  else {
    /* An extent holds 32768 blocks at most: go on while the next one
     * continues it.
     */
    for (; i < leaf.count; i++) {
      leaf_get (&leaf, i, &next);
      if (next.lblk != lblk + m->len || next.pblk != m->pblk + m->len ||
          next.unwritten != e.unwritten)
        break;
      m->len += next.len;
    }
  }
  if (leaf.mb)
    mcache_unpin (inode->fs->mc, leaf.mb);
  return m->len > 0 ? 0 : node_corrupt (inode, 0, "extents overlap");
}

bool
extent_goal (struct inode *inode, uint64_t lblk, uint64_t first,
             uint32_t window, uint64_t *goal, bool *inside)
{
  struct ext3_extent_header *eh;
  struct path p;
  struct entry e;
  unsigned i;
  bool found;

  *inside = false;
  if (path_find (inode, lblk, &p) != 0)
    return false;
  eh = p.node[p.depth].eh;
  i = node_search (eh, lblk);
  found = node_entries (eh) > 0;
  if (i > 0) {
    node_get (eh, i - 1, &e);
    *inside = e.lblk + e.len > first;
  }
  if (i < node_entries (eh) && !*inside) {
    struct entry next;

    node_get (eh, i, &next);
    *inside = next.lblk < first + window;
    if (i == 0 || *inside)
      e = next;
  }
  if (found) {
    found = lblk >= e.lblk || e.pblk > e.lblk - lblk;
    *goal = e.pblk + lblk - e.lblk;
  }
  path_release (inode, &p);
  return found;
}

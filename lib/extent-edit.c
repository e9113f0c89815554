/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* ext4 extent trees: changing.
 *
 * Notes on the design.  libext2fs has an extent handle for this; it is
 * not used because it ignores errors of its own writes, cannot be rolled
 * back when an allocation fails halfway, and rereads and linearly scans
 * every level.  Here one function, extent_edit, does every change, one
 * leaf at a time: it takes the leaf's entries apart, builds the new list
 * with neighbours merged, and puts it back.
 *
 * Without a journal an edit must reach the disk all or not at all, and
 * only single blocks do.  So a node that the disk can see is changed in
 * place only if that is the whole change.  If its parent must change too
 * (the node is split, or its first key moves), the new nodes go to new
 * blocks, and the parent's single write switches from the old to the
 * new; the old block is freed once that is durable.  This goes up until
 * a parent can take the change in place, at the latest the root, which
 * is in the inode.  Nodes that are new in the running set are changed in
 * place in any case: nothing on the disk points at them.
 *
 * "The whole change" includes what the running set has done before: when
 * a leaf's neighbour has given up its first blocks, what is put there goes
 * to the leaf, but on the disk the neighbour still has them, until the
 * parent is written.  So when an ancestor has changed in the running set, a
 * leaf is changed in place only within what it has covered, and an index
 * not at all.
 *
 * With a journal all blocks of an edit are in one transaction, so every
 * node is changed in place.
 *
 *   leaf, fits, same first key   -> IN_PLACE, done
 *   leaf, fits, other first key, -> MOVE, parent: its key and child
 *   or not the whole change
 *   leaf, does not fit           -> SHARE with the leaf to the left or
 *                                   right, parent: two for two
 *                                -> SPLIT otherwise, parent: two for one
 *   leaf, empty                  -> DROP, parent: none for one
 *   root, does not fit           -> LOWER: a new node takes the entries
 *   and the same (but for SHARE) for each parent.
 *
 * SHARE keeps leaves fuller than splitting alone would, which is memory:
 * a leaf takes a whole block of the cache.
 *
 * plan () decides all this and counts the blocks; then what can fail is
 * done (allocating, memory); then apply () changes the tree.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "extent.h"
#include "extent-node.h"

struct entry_list {
  struct entry *e;
  unsigned n;
};

static void
append (struct entry_list *l, const struct entry *e)
{
  struct entry *last = l->n > 0 ? &l->e[l->n - 1] : NULL;
  uint32_t most = e->unwritten ? EXT_UNINIT_MAX_LEN : EXT_INIT_MAX_LEN;

  if (e->len == 0)
    return;
  if (last && last->lblk + last->len == e->lblk &&
      last->pblk + last->len == e->pblk && last->unwritten == e->unwritten &&
      last->len + e->len <= most)
    last->len += e->len;
  else
    l->e[l->n++] = *e;
}

/* The leaf's entries with [START, END) replaced by NEW (NULL: by
 * nothing).  What is dropped goes to DROPPED.  OUT and DROPPED have room
 * for the leaf's entries and three more.  Returns the place of NEW.
 */
static unsigned
build_list (struct ext3_extent_header *eh, uint64_t start, uint64_t end,
            const struct entry *new, struct entry_list *out,
            struct entry_list *dropped)
{
  bool placed = new == NULL;
  unsigned i, place = 0;
  struct entry e, part;

  for (i = 0; i < node_entries (eh); i++) {
    uint64_t e_end, cut;

    node_get (eh, i, &e);
    e_end = e.lblk + e.len;
    if (e.lblk < start) {
      part = e;
      part.len = (e_end < start ? e_end : start) - e.lblk;
      append (out, &part);
    }
    cut = e.lblk > start ? e.lblk : start;
    if (cut < e_end && cut < end) {
      part = e;
      part.lblk = cut;
      part.pblk += cut - e.lblk;
      part.len = (e_end < end ? e_end : end) - cut;
      dropped->e[dropped->n++] = part;
    }
    if (!placed && e_end > start) {
      append (out, new);
      place = out->n;
      placed = true;
    }
    if (e_end > end) {
      cut = e.lblk > end ? e.lblk : end;
      part = e;
      part.lblk = cut;
      part.pblk += cut - e.lblk;
      part.len = e_end - cut;
      append (out, &part);
    }
  }
  if (!placed) {
    append (out, new);
    place = out->n;
  }
  return place;
}

enum how { IN_PLACE, MOVE, SHARE, SPLIT, DROP, LOWER };

/* What happens to the path's node at one level. */
struct step {
  enum how how;
  struct entry_list list;       /* the new entries; SHARE: of both nodes */
  unsigned left;                /* SPLIT, SHARE: so many go left */
  unsigned at, end;             /* parent's entries that are replaced */
};

struct edit {
  struct inode *inode;
  uint64_t end;                 /* of the range that it maps */
  struct path p;
  struct step step[EXTENT_MAX_DEPTH + 1];
  unsigned top;                 /* the last level that changes */
  struct entry_list dropped;    /* what is unmapped */
  struct node sibling;          /* SHARE: the other leaf, pinned */

  struct mbuf *new[MAP_MAX_META];
  unsigned need, taken, used;   /* new blocks */
  uint64_t freed[EXTENT_MAX_DEPTH * 2 + 2];
  unsigned nfreed;              /* old blocks */
};

/* May the node be changed although its parent changes as well? */
static bool
is_private (const struct edit *ed, const struct node *n)
{
  return ed->inode->fs->log || n->mb == NULL || mcache_is_fresh (n->mb);
}

/* The list of LEVEL: the node's entries with those that led to the child
 * (SHARE: and its sibling) replaced by what becomes of it.  Child block
 * numbers are filled in by apply ().
 */
static errcode_t
plan_parent (struct edit *ed, unsigned level)
{
  const struct node *n = &ed->p.node[level];
  const struct step *child = &ed->step[level + 1];
  struct entry_list *l = &ed->step[level].list;
  unsigned i, count = node_entries (n->eh);

  l->e = malloc ((count + 1) * sizeof *l->e);
  if (l->e == NULL)
    return ENOMEM;
  for (i = 0; i < count; i++) {
    if (i < child->at || i >= child->end)
      node_get (n->eh, i, &l->e[l->n++]);
    else if (i == child->at && child->how != DROP) {
      node_get (n->eh, i, &l->e[l->n]);
      l->e[l->n++].lblk = child->list.e[0].lblk;
      if (child->how == SPLIT || child->how == SHARE) {
        node_get (n->eh, n->at, &l->e[l->n]);
        l->e[l->n++].lblk = child->list.e[child->left].lblk;
      }
    }
  }
  return 0;
}

/* Where to split LIST, which does not fit into N.  Growing at the end is
 * the rule: leave the left node full then.
 */
static unsigned
split_at (const struct node *n, unsigned count, unsigned place)
{
  return place >= count ? node_capacity (n->eh) : count / 2;
}

/* The logical block before which all below entry AT of the node at LEVEL
 * ends.
 */
static uint64_t
end_of_child (const struct path *p, unsigned level, unsigned at)
{
  const struct node *n = &p->node[level];

  while (at + 1 == node_entries (n->eh)) {
    if (level == 0)
      return EXTENT_MAX_LBLK;
    n = &p->node[--level];
    at = n->at;
  }
  return node_key (n->eh, at + 1);
}

/* The parent's child AT into ed->sibling, fit to be changed.  False if it
 * is not as it ought to be, or has no room for its part of N entries more.
 */
static bool
read_sibling (struct edit *ed, unsigned at, unsigned n)
{
  const unsigned level = ed->p.depth - 1;
  const struct node *parent = &ed->p.node[level];
  const unsigned most = node_capacity (parent[1].eh);
  struct entry sib;

  node_get (parent->eh, at, &sib);
  if (node_read (ed->inode, sib.pblk, 0, sib.lblk,
                 end_of_child (&ed->p, level, at), &ed->sibling) != 0)
    return false;
  if (node_entries (ed->sibling.eh) > 0 &&
      node_key (ed->sibling.eh, 0) == sib.lblk &&
      node_capacity (ed->sibling.eh) == most &&
      node_entries (ed->sibling.eh) + n <= 2 * most - most / 8 &&
      alloc_check_tree_block (ed->inode->fs, ed->sibling.mb->blkno) == 0)
    return true;
  mcache_unpin (ed->inode->fs->mc, ed->sibling.mb);
  ed->sibling.mb = NULL;
  return false;
}

static void
append_node (struct entry_list *l, const struct node *n)
{
  unsigned i;

  for (i = 0; i < node_entries (n->eh); i++)
    node_get (n->eh, i, &l->e[l->n++]);
}

static void
append_list (struct entry_list *l, const struct entry_list *more)
{
  memcpy (l->e + l->n, more->e, more->n * sizeof *more->e);
  l->n += more->n;
}

/* Can the leaf to the left, or the one to the right, take enough?  Then
 * its entries join those of the list.  If anything is in the way, the leaf
 * is split.
 */
static bool
plan_share (struct edit *ed)
{
  const unsigned level = ed->p.depth;
  const struct node *n = &ed->p.node[level], *parent = n - 1;
  struct step *s = &ed->step[level];
  const bool left = parent->at > 0 &&
    read_sibling (ed, parent->at - 1, s->list.n);
  struct entry_list both = { 0 };

  if (!left && (parent->at + 1 == node_entries (parent->eh) ||
                !read_sibling (ed, parent->at + 1, s->list.n)))
    return false;
  both.e = calloc (node_entries (ed->sibling.eh) + s->list.n,
                   sizeof *both.e);
  if (both.e == NULL) {
    mcache_unpin (ed->inode->fs->mc, ed->sibling.mb);
    ed->sibling.mb = NULL;
    return false;
  }
  if (left)
    append_node (&both, &ed->sibling);
  append_list (&both, &s->list);
  if (!left)
    append_node (&both, &ed->sibling);
  free (s->list.e);
  s->list = both;
  s->left = both.n / 2;
  s->at = left ? parent->at - 1 : parent->at;
  s->end = s->at + 2;
  s->how = SHARE;
  ed->need += !is_private (ed, n) + !is_private (ed, &ed->sibling);
  return true;
}

/* Has a node above LEVEL changed in the running set? */
static bool
ancestor_changed (const struct edit *ed, unsigned level)
{
  while (--level > 0)
    if (mcache_is_dirty (ed->p.node[level].mb))
      return true;
  return ed->inode->root_tid == ed->inode->fs->running_tid;
}

/* May the node at LEVEL, whose first key stays, be changed in place? */
static bool
whole_change (const struct edit *ed, unsigned level)
{
  const struct node *n = &ed->p.node[level];
  struct entry last;

  if (is_private (ed, n) || !ancestor_changed (ed, level))
    return true;
  if (level < ed->p.depth)
    return false;
  node_get (n->eh, node_entries (n->eh) - 1, &last);
  return ed->end <= last.lblk + last.len;
}

/* PLACE is how many entries are up to and including what was added. */
static void
plan_step (struct edit *ed, unsigned level, unsigned place)
{
  const struct node *n = &ed->p.node[level];
  struct step *s = &ed->step[level];
  bool fits = s->list.n <= node_capacity (n->eh);

  if (level > 0) {
    s->at = ed->p.node[level - 1].at;
    s->end = s->at + 1;
  }
  if (level == 0) {
    s->how = fits ? IN_PLACE : LOWER;
    ed->need += !fits;
  }
  else if (s->list.n == 0)
    s->how = DROP;
  else if (!fits && level == ed->p.depth && place < s->list.n &&
           plan_share (ed))
    ;
  else if (!fits) {
    s->how = SPLIT;
    s->left = split_at (n, s->list.n, place);
    ed->need += is_private (ed, n) ? 1 : 2;
  }
  else if (s->list.e[0].lblk != node_key (n->eh, 0) ||
           !whole_change (ed, level)) {
    s->how = MOVE;
    ed->need += is_private (ed, n) ? 0 : 1;
  }
  else
    s->how = IN_PLACE;
}

static errcode_t
plan (struct edit *ed, unsigned place)
{
  unsigned level = ed->p.depth;
  errcode_t err;

  plan_step (ed, level, place);
  while (ed->step[level].how != IN_PLACE && level > 0) {
    level--;
    err = plan_parent (ed, level);
    if (err)
      return err;
    plan_step (ed, level, ed->p.node[level].at + 2);
  }
  ed->top = level;
  if (ed->step[0].how == LOWER && ed->top == 0 &&
      ed->p.depth == EXTENT_MAX_DEPTH)
    return EFBIG;
  return ed->need > MAP_MAX_META ? EFBIG : 0;
}

/* Whatever can fail. */

static errcode_t
dirty_path (struct edit *ed)
{
  unsigned level;
  errcode_t err;

  for (level = ed->p.depth; level > 0 && level >= ed->top; level--) {
    struct mbuf *mb = ed->p.node[level].mb;

    err = alloc_check_tree_block (ed->inode->fs, mb->blkno);
    if (!err)
      err = mcache_dirty (ed->inode->fs->mc, mb, MCLASS_TREE, false);
    if (err)
      return err;
  }
  if (ed->sibling.mb == NULL)
    return 0;
  return mcache_dirty (ed->inode->fs->mc, ed->sibling.mb, MCLASS_TREE,
                       false);
}

static errcode_t
take_block (struct edit *ed, struct reservation *r)
{
  errcode_t err = map_new_block (ed->inode, r, &ed->new[ed->taken]);

  if (!err)
    ed->taken++;
  return err;
}

static errcode_t
take_blocks (struct edit *ed, struct reservation *r)
{
  errcode_t err = 0;

  while (ed->taken < ed->need && !err)
    err = take_block (ed, r);
  while (err && ed->taken > 0) {
    ed->taken--;
    map_undo_new_block (ed->inode, r, ed->new[ed->taken]);
  }
  return err;
}

/* Changing. */

static struct node
new_node (struct edit *ed, unsigned depth)
{
  struct node n;

  node_init (ed->inode, &n, ed->new[ed->used++], depth);
  return n;
}

/* The node to put OLD's new entries into: OLD itself if nothing on the
 * disk sees it, else a new one in its stead.
 */
static struct node
node_for_change (struct edit *ed, const struct node *old)
{
  if (is_private (ed, old))
    return *old;
  ed->freed[ed->nfreed++] = old->mb->blkno;
  return new_node (ed, node_depth (old->eh));
}

/* Tell the parent's list where its child's parts are. */
static void
set_children (struct edit *ed, unsigned level, uint64_t left, uint64_t right)
{
  struct entry *e = ed->step[level - 1].list.e + ed->step[level].at;

  e[0].pblk = left;
  if (right)
    e[1].pblk = right;
}

static void
lower_root (struct edit *ed)
{
  struct ext3_extent_header *root = node_root (ed->inode);
  struct node child = new_node (ed, node_depth (root));
  const struct entry_list *l = &ed->step[0].list;
  struct entry only = { .lblk = l->e[0].lblk, .pblk = child.mb->blkno };

  node_write (&child, l->e, l->n);
  root->eh_depth = ext2fs_cpu_to_le16 (node_depth (root) + 1);
  node_write (&ed->p.node[0], &only, 1);
}

static void
apply_step (struct edit *ed, unsigned level)
{
  struct step *s = &ed->step[level];
  struct node left, right;

  switch (s->how) {
  case IN_PLACE:
    if (level == 0 && s->list.n == 0)
      node_root (ed->inode)->eh_depth = 0;
    node_write (&ed->p.node[level], s->list.e, s->list.n);
    break;
  case MOVE:
    left = node_for_change (ed, &ed->p.node[level]);
    node_write (&left, s->list.e, s->list.n);
    set_children (ed, level, left.mb->blkno, 0);
    break;
  case SHARE:
    /* Which block gets which half does not matter. */
    left = node_for_change (ed, &ed->sibling);
    right = node_for_change (ed, &ed->p.node[level]);
    node_write (&left, s->list.e, s->left);
    node_write (&right, s->list.e + s->left, s->list.n - s->left);
    set_children (ed, level, left.mb->blkno, right.mb->blkno);
    break;
  case SPLIT:
    left = node_for_change (ed, &ed->p.node[level]);
    right = new_node (ed, node_depth (left.eh));
    node_write (&left, s->list.e, s->left);
    node_write (&right, s->list.e + s->left, s->list.n - s->left);
    set_children (ed, level, left.mb->blkno, right.mb->blkno);
    break;
  case DROP:
    ed->freed[ed->nfreed++] = ed->p.node[level].mb->blkno;
    break;
  case LOWER:
    lower_root (ed);
    break;
  }
}

/* While the root has a single child whose entries fit into it, take
 * them in.  A child that cannot be read stays: this is tidiness.
 */
static void
collapse_root (struct edit *ed)
{
  struct ext3_extent_header *root = node_root (ed->inode);
  struct filesystem *fs = ed->inode->fs;
  struct node child;
  struct entry e[8];
  unsigned i, n;
  bool fits = true;

  while (fits && node_depth (root) > 0 && node_entries (root) == 1) {
    node_get (root, 0, &e[0]);
    if (node_read (ed->inode, e[0].pblk, node_depth (root) - 1, 0,
                   EXTENT_MAX_LBLK, &child) != 0)
      return;
    n = node_entries (child.eh);
    fits = n <= node_capacity (root) &&
      alloc_prepare_free (fs, child.mb->blkno, 1) == 0;
    if (fits) {
      for (i = 0; i < n; i++)
        node_get (child.eh, i, &e[i]);
      ed->freed[ed->nfreed++] = child.mb->blkno;
      root->eh_depth = child.eh->eh_depth;
      node_write (&ed->p.node[0], e, n);
      ed->inode->root_tid = fs->running_tid;
    }
    mcache_unpin (fs->mc, child.mb);
  }
}

/* Whatever the edit frees for certain or perhaps.  With a journal nodes
 * are changed in place, so only those that become empty are freed.
 */
static errcode_t
prepare_frees (struct edit *ed, bool free_old)
{
  struct filesystem *fs = ed->inode->fs;
  unsigned i;
  errcode_t err = 0;

  alloc_begin_free (fs);
  for (i = 0; free_old && i < ed->dropped.n && !err; i++)
    err = alloc_prepare_free (fs, ed->dropped.e[i].pblk,
                              ed->dropped.e[i].len);
  for (i = 1; i <= ed->p.depth && !err; i++)
    if (!fs->log || (i >= ed->top && ed->step[i].how == DROP))
      err = alloc_prepare_free (fs, ed->p.node[i].mb->blkno, 1);
  if (ed->sibling.mb && !fs->log && !err)
    err = alloc_prepare_free (fs, ed->sibling.mb->blkno, 1);
  return err;
}

static void
account (struct edit *ed, bool free_old)
{
  struct filesystem *fs = ed->inode->fs;
  struct ext2_inode *raw = (struct ext2_inode *) ed->inode->raw;
  unsigned i;

  assert (ed->used == ed->need);
  ext2fs_iblk_add_blocks (fs->e2, raw, ed->used);
  for (i = 0; i < ed->nfreed; i++) {
    ext2fs_iblk_sub_blocks (fs->e2, raw, 1);
    alloc_free_tree_block (fs, ed->freed[i]);
  }
  for (i = 0; free_old && i < ed->dropped.n; i++) {
    ext2fs_iblk_sub_blocks (fs->e2, raw, ed->dropped.e[i].len);
    alloc_free_later (fs, ed->dropped.e[i].pblk, ed->dropped.e[i].len);
  }
}

static void
apply (struct edit *ed, bool free_old)
{
  unsigned level;

  for (level = ed->p.depth + 1; level-- > ed->top; )
    apply_step (ed, level);
  if (ed->top == 0)
    ed->inode->root_tid = ed->inode->fs->running_tid;
  if (ed->need == 0)
    collapse_root (ed);
  account (ed, free_old);
}

#ifdef EXT2_DEBUG_CHECKS
static void
check_edit (struct inode *inode, uint64_t lblk)
{
  struct path p;
  unsigned i;

  assert (extent_check_root (inode) == 0);
  if (path_find (inode, lblk, &p) != 0)
    return;                     /* a damaged leaf that is not ours */
  for (i = 1; i <= p.depth; i++) {
    assert (node_check (inode, p.node[i].eh, node_block_capacity (inode->fs),
                        p.depth - i, 0, EXTENT_MAX_LBLK) == NULL);
  }
  path_release (inode, &p);
}
#endif

/* Does the edit leave the leaf as it is? */
static bool
same_entries (struct ext3_extent_header *eh, const struct entry_list *l)
{
  struct entry e;
  unsigned i;

  if (node_entries (eh) != l->n)
    return false;
  for (i = 0; i < l->n; i++) {
    node_get (eh, i, &e);
    if (e.lblk != l->e[i].lblk || e.len != l->e[i].len ||
        e.pblk != l->e[i].pblk || e.unwritten != l->e[i].unwritten)
      return false;
  }
  return true;
}

/* plan () relies on inv 2 along the path.  Looking up does not, so a tree
 * that breaks it can be read but not changed.
 */
static errcode_t
check_keys (struct inode *inode, const struct path *p)
{
  unsigned level;

  for (level = 1; level <= p->depth; level++) {
    const struct node *parent = &p->node[level - 1], *n = &p->node[level];

    if (node_entries (n->eh) == 0 ||
        node_key (n->eh, 0) != node_key (parent->eh, parent->at))
      return node_corrupt (inode, n->mb->blkno,
                           "it does not begin where its parent says");
  }
  return 0;
}

/* How far [START, END) can be unmapped at once. */
static uint64_t
end_of_removal (struct filesystem *fs, const struct ext3_extent_header *eh,
                uint64_t start, uint64_t end)
{
  unsigned groups = ALLOC_MAX_FREE_GROUPS, i;

  for (i = 0; i < node_entries (eh); i++) {
    uint64_t from, to, n;
    struct entry e;

    node_get (eh, i, &e);
    from = e.lblk > start ? e.lblk : start;
    to = e.lblk + e.len < end ? e.lblk + e.len : end;
    if (from >= to)
      continue;
    n = alloc_freeable (fs, e.pblk + (from - e.lblk), to - from, &groups);
    if (n < to - from)
      return from + n;
  }
  return end;
}

errcode_t
extent_edit (struct inode *inode, uint64_t start, uint64_t end,
             enum map_state state, uint64_t pblk, bool free_old,
             struct reservation *r, uint64_t *next)
{
  struct entry new = {
    .lblk = start, .pblk = pblk, .unwritten = state == MAP_UNWRITTEN,
  };
  struct edit ed = { .inode = inode };
  struct entry_list *out;
  struct ext3_extent_header *eh;
  unsigned place, level;
  errcode_t err;

  lock_assert_held (LOCK_MAP);
  lock_assert_held (LOCK_FS);
  err = path_find (inode, start, &ed.p);
  if (err)
    return err;
  err = check_keys (inode, &ed.p);
  if (err) {
    path_release (inode, &ed.p);
    return err;
  }
  if (end > ed.p.hi)
    end = ed.p.hi;
  eh = ed.p.node[ed.p.depth].eh;
  if (free_old)
    end = end_of_removal (inode->fs, eh, start, end);
  *next = end;
  new.len = end - start;
  assert (state == MAP_HOLE || end - start <= MAP_MAX_INSERT);

  out = &ed.step[ed.p.depth].list;
  out->e = malloc (((size_t) node_entries (eh) + 3) * sizeof *out->e);
  ed.dropped.e = malloc (((size_t) node_entries (eh) + 1)
                         * sizeof *ed.dropped.e);
  if (out->e == NULL || ed.dropped.e == NULL) {
    err = ENOMEM;
    goto out;
  }
  ed.end = state == MAP_HOLE ? start : end;     /* nothing new */
  place = build_list (eh, start, end, state == MAP_HOLE ? NULL : &new, out,
                      &ed.dropped);
  if (same_entries (eh, out))
    goto out;

  if ((err = plan (&ed, place)) ||
      (err = prepare_frees (&ed, free_old)) ||
      (err = dirty_path (&ed)) || (err = take_blocks (&ed, r)))
    goto out;
  apply (&ed, free_old);        /* cannot fail */

 out:
  path_release (inode, &ed.p);
  if (ed.sibling.mb)
    mcache_unpin (inode->fs->mc, ed.sibling.mb);
  while (ed.taken > 0)
    mcache_unpin (inode->fs->mc, ed.new[--ed.taken]);
  for (level = 0; level <= EXTENT_MAX_DEPTH; level++)
    free (ed.step[level].list.e);
  free (ed.dropped.e);
#ifdef EXT2_DEBUG_CHECKS
  if (!err)
    check_edit (inode, start);
#endif
  return err;
}

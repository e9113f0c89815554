/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* One name in one directory.
 *
 * Notes on the design: every block is searched from the first entry to
 * the last, also where there is a hash tree: its index blocks look like
 * blocks with one unused entry.  A name is looked up when a client
 * connects, so this is fast enough, and there is no index to trust.
 *
 * Directories are never changed here.  FS is held for one block at a
 * time all the same: a hostile image may use a block for a directory and
 * for a tree that is being edited.  Between blocks others get their turn,
 * however long the directory is.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dir.h"
#include "errors.h"
#include "inline.h"
#include "inode.h"
#include "map.h"

/* Inode number, length of the record, length of the name, file type. */
#define ENTRY_HEADER 8

/* Inline directories: the parent's number, then entries to the end of
 * i_block, then more of them in the attribute.
 */
#define INLINE_DOTDOT 4
#define INLINE_I_BLOCK 60

/* Linux makes no holes in directories, and e2fsck fills them. */
#define MOST_HOLES 1000

/* How much of a directory that has a block twice is searched, once that is
 * known.  Bytes, a multiple of every block size.
 */
#define SEARCH_OF_BAD (UINT64_C (1) << 20)

struct wanted {
  const char *name;
  size_t len;
};

static bool
is_dotdot (const struct wanted *want)
{
  return want->len == 2 && memcmp (want->name, "..", 2) == 0;
}

static errcode_t
corrupt (struct inode *inode, const char *what)
{
  log_error ("inode %u: the directory is damaged (%s): run e2fsck",
             (unsigned) inode->ino, what);
  return EXT2_ET_DIR_CORRUPTED;
}

/* Searches the entries that fill the LEN bytes at AREA.  Locks: FS. */
static errcode_t
search_entries (struct inode *inode, const uint8_t *area, size_t len,
                const struct wanted *want, ext2_ino_t *ino)
{
  struct ext2_dir_entry e;
  size_t at, name_len;
  unsigned rec_len;

  for (at = 0; at < len; at += rec_len) {
    if (len - at < ENTRY_HEADER)
      return corrupt (inode, "the last entry is cut off");
    memcpy (&e, area + at, ENTRY_HEADER);
    e.rec_len = ext2fs_le16_to_cpu (e.rec_len);
    e.name_len = ext2fs_le16_to_cpu (e.name_len);
    /* Lengths of 64 KiB are written in a way of their own. */
    if (ext2fs_get_rec_len (inode->fs->e2, &e, &rec_len) != 0)
      return corrupt (inode, "length of an entry");
    name_len = ext2fs_dirent_name_len (&e);
    if (rec_len % 4 != 0 || rec_len > len - at ||
        rec_len < ENTRY_HEADER + name_len)
      return corrupt (inode, "length of an entry");
    if (e.inode != 0 && name_len == want->len &&
        memcmp (area + at + ENTRY_HEADER, want->name, name_len) == 0) {
      *ino = ext2fs_le32_to_cpu (e.inode);
      return 0;
    }
  }
  return EXT2_ET_FILE_NOT_FOUND;
}

static errcode_t
search_block (struct inode *inode, uint64_t pblk, const struct wanted *want,
              ext2_ino_t *ino)
{
  struct filesystem *fs = inode->fs;
  struct mbuf *mb;
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = mcache_read (fs->mc, pblk, &mb);
  if (err)
    return err;
  /* Knows both kinds of blocks, and filesystems without checksums. */
  if (!ext2fs_dir_block_csum_verify (fs->e2, inode->ino,
                                     (void *) mb->data))
    err = EXT2_ET_DIR_CSUM_INVALID;
  else
    err = search_entries (inode, mb->data, fs->block_size, want, ino);
  mcache_unpin (fs->mc, mb);
  return err;
}

static errcode_t
lookup_block (struct inode *inode, uint64_t lblk, struct mapping *m)
{
  LOCK_FOR_SCOPE (&inode->fs->lock);
  return map_lookup (inode, lblk, UINT64_MAX, m);
}

/* A search through a directory's blocks. */
struct search {
  struct inode *inode;
  const struct wanted *want;
  uint64_t *budget;             /* as for dir_lookup */
  ext2_ino_t *ino;

  struct syszone seen;          /* the blocks so far */
  uint64_t count;               /* how many */
  uint64_t next_look;           /* at so many, look at them again */
  unsigned holes;
};

static errcode_t
spend (struct search *s)
{
  const uint32_t n = s->inode->fs->block_size;

  if (*s->budget < n)
    return EFBIG;
  *s->budget -= n;
  return 0;
}

/* Is it known to have a block twice? */
static bool
is_bad (struct inode *dir)
{
  const struct filesystem *fs = dir->fs;
  unsigned i;

  LOCK_FOR_SCOPE (&dir->fs->lock);
  for (i = 0; i < BAD_DIRS; i++)
    if (fs->bad_dirs[i] == dir->ino)
      return true;
  return false;
}

static errcode_t
set_bad (struct inode *dir)
{
  struct filesystem *fs = dir->fs;

  if (!is_bad (dir)) {
    LOCK_FOR_SCOPE (&fs->lock);
    fs->bad_dirs[fs->next_bad_dir] = dir->ino;
    fs->next_bad_dir = (fs->next_bad_dir + 1) % BAD_DIRS;
  }
  return corrupt (dir, "a block is in it twice");
}

/* The blocks of M are the next ones.  A tree may lead to the same ones again
 * and again, and be small however long that makes the directory.  So they
 * are noted before they are searched, and looked at whenever there are twice
 * as many: no more is searched than twice what there is.  Sorting them so
 * often costs less than searching them.
 */
static errcode_t
note_blocks (struct search *s, const struct mapping *m)
{
  errcode_t err = syszone_add (&s->seen, m->pblk, m->len);

  if (err)
    return err;
  s->count += m->len;
  if (s->count < s->next_look)
    return 0;
  s->next_look = 2 * s->count;
  return syszone_finish (&s->seen) ? 0 : set_bad (s->inode);
}

static errcode_t
search_piece (struct search *s, const struct mapping *m)
{
  errcode_t err;
  uint64_t i;

  if (m->state == MAP_UNWRITTEN)
    return corrupt (s->inode, "blocks that were never written");
  if (m->state == MAP_HOLE) {
    if (++s->holes > MOST_HOLES)
      return corrupt (s->inode, "it has too many holes");
    err = spend (s);
    return err ? err : EXT2_ET_FILE_NOT_FOUND;
  }
  err = note_blocks (s, m);
  if (err)
    return err;
  for (i = 0; i < m->len; i++) {
    err = spend (s);
    if (!err)
      err = search_block (s->inode, m->pblk + i, s->want, s->ino);
    if (err != EXT2_ET_FILE_NOT_FOUND)
      return err;
  }
  return EXT2_ET_FILE_NOT_FOUND;
}

/* BLOCKS from the first one on. */
static errcode_t
search_pieces (struct search *s, uint64_t blocks)
{
  struct mapping m;
  uint64_t lblk;
  errcode_t err;

  for (lblk = 0; lblk < blocks; lblk += m.len) {
    err = lookup_block (s->inode, lblk, &m);
    if (err)
      return err;
    if (m.len > blocks - lblk)
      m.len = blocks - lblk;
    err = search_piece (s, &m);
    if (err != EXT2_ET_FILE_NOT_FOUND)
      return err;
  }
  return EXT2_ET_FILE_NOT_FOUND;
}

/* Every client that connects can make us search.  So it costs little from
 * the second time on if the directory is damaged; what was found before,
 * near its start, still is.
 */
static errcode_t
search_blocks (struct inode *inode, const struct wanted *want,
               uint64_t *budget, ext2_ino_t *ino)
{
  struct filesystem *fs = inode->fs;
  const uint64_t all = inode->size >> fs->block_bits;
  const uint64_t few = SEARCH_OF_BAD >> fs->block_bits;
  const bool cut = all > few && is_bad (inode);
  struct search s = {
    .inode = inode, .want = want, .budget = budget, .ino = ino,
    .next_look = 2,
  };
  errcode_t err;

  if (all > fs->blocks)
    return corrupt (inode, "larger than the filesystem");
  err = search_pieces (&s, cut ? few : all);
  syszone_free (&s.seen);
  if (err == EXT2_ET_FILE_NOT_FOUND && cut)
    return corrupt (inode, "a block is in it twice");
  return err;
}

/* Locks: FS. */
static errcode_t
search_inline_data (struct inode *inode, const uint8_t *data,
                    const struct wanted *want, ext2_ino_t *ino)
{
  errcode_t err;
  uint32_t parent;

  if (is_dotdot (want)) {
    memcpy (&parent, data, sizeof parent);
    *ino = ext2fs_le32_to_cpu (parent);
    return 0;
  }
  err = search_entries (inode, data + INLINE_DOTDOT,
                        INLINE_I_BLOCK - INLINE_DOTDOT, want, ino);
  if (err == EXT2_ET_FILE_NOT_FOUND)
    err = search_entries (inode, data + INLINE_I_BLOCK,
                          inode->size - INLINE_I_BLOCK, want, ino);
  return err;
}

static errcode_t
search_inline (struct inode *inode, const struct wanted *want,
               ext2_ino_t *ino)
{
  uint8_t *data;
  errcode_t err;

  /* What is stored fits into an inode. */
  if (inode->size < INLINE_I_BLOCK || inode->size > inode->inline_bytes)
    return corrupt (inode, "its size is not that of its entries");
  data = malloc (inode->size);
  if (data == NULL)
    return ENOMEM;
  lock_acquire (&inode->fs->lock);
  err = inline_read (inode, data, inode->size, 0);
  if (!err)
    err = search_inline_data (inode, data, want, ino);
  lock_release (&inode->fs->lock);
  free (data);
  return err;
}

static errcode_t
load (struct filesystem *fs, ext2_ino_t dir, struct inode **ip)
{
  LOCK_FOR_SCOPE (&fs->lock);
  return inode_load (fs, dir, ip);
}

errcode_t
dir_lookup (struct filesystem *fs, ext2_ino_t dir, const char *name,
            size_t len, uint64_t *budget, ext2_ino_t *ino)
{
  const struct wanted want = { name, len };
  struct inode *inode;
  errcode_t err;

  err = load (fs, dir, &inode);
  if (err)
    return err;
  if (!LINUX_S_ISDIR (inode->raw->i_mode))
    err = EXT2_ET_NO_DIRECTORY;
  /* All names are encrypted, but not "..". */
  else if ((inode->raw->i_flags & EXT4_ENCRYPT_FL) && !is_dotdot (&want))
    err = ENOKEY;
  else if (inode->kind == INLINE_DATA)
    err = search_inline (inode, &want, ino);
  else
    err = search_blocks (inode, &want, budget, ino);
  inode_free (inode);
  return err;
}

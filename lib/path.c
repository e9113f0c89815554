/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Names to inodes, inside the image.
 *
 * Notes on the design: the path is walked one name at a time, and the
 * text of a symbolic link is put before what is left of it.  There is no
 * recursion, and each of the limits below is for the whole walk: links to
 * links to links cost no more than one after the other.
 *
 * libext2fs's walk is not used: in 1.47.0 hostile symbolic links make it
 * write and read outside its buffers or keep it busy for years.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "dir.h"
#include "errors.h"
#include "inline.h"
#include "map.h"
#include "path.h"

#define MAX_LINKS 40            /* followed; as in Linux */
#define MAX_NAMES 4096          /* looked up */
#define MAX_TEXT 65536          /* bytes of the path at any time */
#define MAX_TARGET 4095         /* bytes in one link; as in Linux */

/* Bytes of directories read: twice what one can have without large_dir. */
#define MAX_SEARCH (UINT64_C (4) << 30)

/* Longest part of a path that is put into a message. */
#define SHOWN ".500"

struct walk {
  struct filesystem *fs;
  ext2_ino_t dir;               /* got as far as this directory */
  unsigned links, names;
  uint64_t budget;              /* what is left of MAX_SEARCH */
  bool folds;                   /* it ended in a directory where Linux does
                                   not look at case */
  size_t at;                    /* text[at] to the end is to be walked */
  char text[MAX_TEXT];
};

static void
say_why (const char *path, errcode_t err, bool folds)
{
  char why[128];

  switch (err) {
  case EXT2_ET_FILE_NOT_FOUND:
    if (folds)
      log_error ("%" SHOWN "s: no such file inside the image: a name in a "
                 "case-insensitive directory must be written here exactly as "
                 "debugfs -R 'ls -l DIRECTORY' shows it", path);
    else
      log_error ("%" SHOWN "s: no such file inside the image: debugfs -R "
                 "'ls -l /' lists what there is", path);
    break;
  case EXT2_ET_SYMLINK_LOOP:
    log_error ("%" SHOWN "s: too many levels of symbolic links inside the "
               "image: name the file itself", path);
    break;
  case EXT2_ET_NO_DIRECTORY:
    log_error ("%" SHOWN "s: no such file inside the image: part of the "
               "path is not a directory", path);
    break;
  case ENOKEY:
    log_error ("%" SHOWN "s: no such file can be found inside the image: "
               "part of the path is encrypted: copy the file out with its "
               "key on Linux", path);
    break;
  case ENAMETOOLONG:
    log_error ("%" SHOWN "s: the path is too long, with its symbolic "
               "links: name the file itself", path);
    break;
  case EFBIG:
    log_error ("%" SHOWN "s: the path leads through directories too large "
               "to be searched: link or move the file to a small one",
               path);
    break;
  default:
    log_error ("%" SHOWN "s: cannot be looked up inside the image: %s: run "
               "e2fsck", path, errcode_text (err, why, sizeof why));
  }
}

/* Symbolic links. */

static errcode_t
corrupt_link (ext2_ino_t ino, const char *what)
{
  log_error ("inode %u: the symbolic link is damaged (%s): run e2fsck",
             (unsigned) ino, what);
  return EXT2_FILSYS_CORRUPTED;
}

/* The block that holds the text; or 0, and the text itself. */
static errcode_t
find_target (struct filesystem *fs, ext2_ino_t ino, char *buf, size_t len,
             uint64_t *pblk)
{
  struct inode *inode;
  struct mapping m;
  errcode_t err;

  LOCK_FOR_SCOPE (&fs->lock);
  err = inode_load (fs, ino, &inode);
  if (err)
    return err;
  *pblk = 0;
  if (len > (inode->kind == INLINE_DATA ? inode->inline_bytes
             : fs->block_size - 1))
    err = corrupt_link (ino, "longer than its text");
  else if (inode->kind == INLINE_DATA)
    err = inline_read (inode, buf, len, 0);
  else {
    err = map_lookup (inode, 0, 1, &m);
    if (!err && m.state != MAP_WRITTEN)
      err = corrupt_link (ino, "it has no text");
    if (!err)
      *pblk = m.pblk;
  }
  inode_free (inode);
  return err;
}

/* A block of text is data, so it is read without locks and not cached. */
static errcode_t
read_target (struct filesystem *fs, ext2_ino_t ino, struct ext2_inode *raw,
             char *buf, size_t *len)
{
  const uint64_t size = EXT2_I_SIZE (raw);
  uint64_t pblk = 0;
  errcode_t err = 0;

  if (raw->i_flags & EXT4_ENCRYPT_FL)
    return ENOKEY;
  if (size == 0 || size > MAX_TARGET)
    return corrupt_link (ino, "impossible length");
  if (ext2fs_is_fast_symlink (raw))
    memcpy (buf, raw->i_block, size);
  else {
    err = find_target (fs, ino, buf, size, &pblk);
    if (!err && pblk != 0)      /* block 0 is never data */
      err = device_pread (fs->dev, buf, size, pblk << fs->block_bits);
  }
  if (err)
    return err;
  if (memchr (buf, 0, size))
    return corrupt_link (ino, "a zero in its text");
  *len = size;
  return 0;
}

/* The walk. */

static errcode_t
prepend (struct walk *w, const char *s, size_t len)
{
  if (len > w->at)
    return ENAMETOOLONG;
  w->at -= len;
  memcpy (w->text + w->at, s, len);
  return 0;
}

/* Takes the next name off the path: *LEN is 0 at its end.  The path then
 * is empty or starts with a slash.
 */
static const char *
next_name (struct walk *w, size_t *len)
{
  size_t start;

  while (w->at < MAX_TEXT && w->text[w->at] == '/')
    w->at++;
  start = w->at;
  while (w->at < MAX_TEXT && w->text[w->at] != '/')
    w->at++;
  *len = w->at - start;
  return w->text + start;
}

static errcode_t
follow (struct walk *w, ext2_ino_t ino, struct ext2_inode *raw)
{
  char target[MAX_TARGET];
  size_t len;
  errcode_t err;

  if (++w->links > MAX_LINKS)
    return EXT2_ET_SYMLINK_LOOP;
  err = read_target (w->fs, ino, raw, target, &len);
  if (err)
    return err;
  if (target[0] == '/')
    w->dir = EXT2_ROOT_INO;
  return prepend (w, target, len);
}

static errcode_t
read_inode (struct filesystem *fs, ext2_ino_t ino, struct ext2_inode *raw)
{
  LOCK_FOR_SCOPE (&fs->lock);
  return ext2fs_read_inode (fs->e2, ino, raw);
}

static bool
folds_case (struct filesystem *fs, ext2_ino_t dir)
{
  struct ext2_inode raw;

  return read_inode (fs, dir, &raw) == 0 && (raw.i_flags & EXT4_CASEFOLD_FL);
}

/* Goes on to NAME; *INO is it if that is where the path ends, unless a
 * directory, and else 0.
 */
static errcode_t
step (struct walk *w, const char *name, size_t len, ext2_ino_t *ino)
{
  struct ext2_inode raw;
  ext2_ino_t next;
  errcode_t err;

  *ino = 0;
  if (++w->names > MAX_NAMES)
    return ENAMETOOLONG;
  err = dir_lookup (w->fs, w->dir, name, len, &w->budget, &next);
  if (err == EXT2_ET_FILE_NOT_FOUND)
    w->folds = folds_case (w->fs, w->dir);
  if (!err)
    err = read_inode (w->fs, next, &raw);
  if (err)
    return err;
  if (LINUX_S_ISLNK (raw.i_mode))
    return follow (w, next, &raw);
  if (LINUX_S_ISDIR (raw.i_mode))
    w->dir = next;
  else if (w->at < MAX_TEXT)    /* at the least a slash */
    return EXT2_ET_NO_DIRECTORY;
  else
    *ino = next;
  return 0;
}

/* Names that need no lookup: ".." leads nowhere from the root. */
static bool
stays (const struct walk *w, const char *name, size_t len)
{
  if (len == 1)
    return name[0] == '.';
  return len == 2 && memcmp (name, "..", 2) == 0 && w->dir == EXT2_ROOT_INO;
}

static errcode_t
walk_path (struct walk *w, ext2_ino_t *ino)
{
  const char *name;
  size_t len;
  errcode_t err;

  for (;;) {
    name = next_name (w, &len);
    if (len == 0) {
      *ino = w->dir;
      return 0;
    }
    if (stays (w, name, len))
      continue;
    err = step (w, name, len, ino);
    if (err || *ino != 0)
      return err;
  }
}

errcode_t
path_resolve (struct filesystem *fs, const char *path, ext2_ino_t *ino)
{
  struct walk *w = malloc (sizeof *w);
  errcode_t err = ENOMEM;
  bool folds = false;

  if (w) {
    w->fs = fs;
    w->dir = EXT2_ROOT_INO;
    w->links = w->names = 0;
    w->folds = false;
    w->budget = MAX_SEARCH;
    w->at = MAX_TEXT;
    err = prepend (w, path, strlen (path));
  }
  if (!err)
    err = walk_path (w, ino);
  if (w)
    folds = w->folds;
  free (w);
  if (err)
    say_why (path, err, folds);
  return err;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Names to inodes, inside the image. */

#include <config.h>

#include <errno.h>

#include "errors.h"
#include "path.h"

static void
say_why (const char *path, errcode_t err)
{
  char why[128];

  switch (err) {
  case EXT2_ET_FILE_NOT_FOUND:
    log_error ("%s: no such file inside the image: debugfs -R 'ls -l /' "
               "lists what there is", path);
    break;
  case EXT2_ET_SYMLINK_LOOP:
    log_error ("%s: too many levels of symbolic links inside the image: "
               "name the file itself", path);
    break;
  case EXT2_ET_NO_DIRECTORY:
    log_error ("%s: no such file inside the image: part of the path is not "
               "a directory", path);
    break;
  default:
    log_error ("%s: cannot be looked up inside the image: %s: run e2fsck",
               path, errcode_text (err, why, sizeof why));
  }
}

errcode_t
path_resolve (struct filesystem *fs, const char *path, ext2_ino_t *ino)
{
  errcode_t err;

  lock_acquire (&fs->lock);
  err = ext2fs_namei_follow (fs->e2, EXT2_ROOT_INO, EXT2_ROOT_INO, path, ino);
  lock_release (&fs->lock);
  if (err)
    say_why (path, err);
  return err;
}

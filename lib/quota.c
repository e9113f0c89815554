/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Quotas that go stale. */

#include <config.h>

#include <string.h>

#include "dir.h"
#include "errors.h"
#include "quota.h"

/* The names that quotacheck(8) gives them. */
static const char *const names[] = {
  "aquota.user", "aquota.group", "quota.user", "quota.group",
};

/* Bytes of the root directory that are searched for all of them. */
#define MOST_SEARCH (UINT64_C (1) << 20)

void
quota_warn (struct filesystem *fs)
{
  uint64_t budget = MOST_SEARCH;
  ext2_ino_t ino;
  errcode_t err = EXT2_ET_FILE_NOT_FOUND;
  size_t i;

  /* Damage to the directory is for those to say who look for a file. */
  for (i = 0; fs->writable && i < sizeof names / sizeof *names &&
         err == EXT2_ET_FILE_NOT_FOUND; i++) {
    err = dir_lookup (fs, EXT2_ROOT_INO, names[i], strlen (names[i]),
                      &budget, &ino);
    if (!err)
      log_warning ("quotas are kept in the file %s inside the image, which "
                   "goes stale when other files are written here: run "
                   "quotacheck -ugm on the mounted filesystem before quotas "
                   "are turned on again", names[i]);
  }
}

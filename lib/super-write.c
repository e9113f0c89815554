/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writing the superblock.
 *
 * Notes on the design.  All superblock writes come through here, one at
 * a time: an error that has been noted is in every later write, so a
 * commit under way cannot write an older superblock over it.
 *
 * Like Linux, we write the primary superblock only.  The backups are for
 * finding the groups again, and keep what mke2fs and resize2fs put there.
 * e2fsck compares them with the primary one only in what does not change
 * while a filesystem is in use (sizes, features but for needs_recovery
 * and orphan_present, the UUID), so counts, times, states and errors may
 * differ.
 *
 * A filesystem that nobody writes to is not written at all: counting it
 * as mounted waits for the first change.
 */

#include <config.h>

#include <errno.h>
#include <string.h>
#include <time.h>

#include "errors.h"
#include "fs.h"
#include "super-seal.h"
#include "super-write.h"

#define SUPER_OFFSET 1024
#define SUPER_SIZE 1024

/* In place of the directory that Linux would name: no path, so nobody
 * takes it for one.
 */
#define LAST_MOUNTED "nbdkit-ext2"

/* The superblock in memory is what was read, in host order. */
static void
remember_rest (struct super_writer *sw, const struct ext2_super_block *sb)
{
  struct ext2_super_block le = *sb;

#ifdef WORDS_BIGENDIAN
  ext2fs_swap_super (&le);
#endif
  super_get_rest (&le, sw->rest);
}

void
super_writer_init (struct filesystem *fs)
{
  memset (&fs->sw, 0, sizeof fs->sw);
  lock_init (&fs->sw.lock, LOCK_SUPER);
  fs->sw.kbytes = fs->e2->super->s_kbytes_written;
  fs->sw.written = device_written (fs->dev);
  remember_rest (&fs->sw, fs->e2->super);
}

void
super_writer_fini (struct filesystem *fs)
{
  lock_destroy (&fs->sw.lock);
}

/* 40 bits of seconds. */
static void
set_time (uint32_t *lo, uint8_t *hi, uint64_t t)
{
  *lo = (uint32_t) t;
  *hi = (uint8_t) (t >> 32);
}

void
super_begin_changes (struct filesystem *fs)
{
  struct ext2_super_block *sb = fs->e2->super;

  lock_assert_held (LOCK_FS);
  sb->s_mnt_count++;
  set_time (&sb->s_mtime, &sb->s_mtime_hi, (uint64_t) time (NULL));
  memset (sb->s_last_mounted, 0, sizeof sb->s_last_mounted);
  memcpy (sb->s_last_mounted, LAST_MOUNTED, strlen (LAST_MOUNTED));
}

/* Errors. */

/* Linux's names for kinds of errors, on disk.  Source: the kernel's ext4
 * documentation and fs/ext4/ext4.h; no installed header has them.
 */
enum {
  ERR_UNKNOWN = 1, ERR_EIO = 2, ERR_ENOMEM = 3, ERR_EFSCORRUPTED = 5,
  ERR_ENOSPC = 6, ERR_EROFS = 8,
};

static uint8_t
error_code (errcode_t err)
{
  if (err == EXT2_FILSYS_CORRUPTED)
    return ERR_EFSCORRUPTED;
  switch (errcode_to_errno (err)) {
  case EIO: return ERR_EIO;
  case ENOMEM: return ERR_ENOMEM;
  case ENOSPC: return ERR_ENOSPC;
  case EROFS: return ERR_EROFS;
  default: return ERR_UNKNOWN;
  }
}

void
super_note_error (struct filesystem *fs, const char *func, unsigned line,
                  uint64_t block, errcode_t err)
{
  struct super_writer *sw = &fs->sw;
  struct super_error *e = &sw->last;
  const size_t len = strlen (func);

  LOCK_FOR_SCOPE (&sw->lock);
  memset (e, 0, sizeof *e);
  e->time = (uint64_t) time (NULL);
  e->block = block;
  memcpy (e->func, func, len < sizeof e->func ? len : sizeof e->func);
  e->line = line;
  e->code = error_code (err);
  if (sw->errors++ == 0)
    sw->first = *e;
}

/* The two numbers of lines are in memory as they are on disk:
 * ext2fs_swap_super (1.47) turns round all but them.  Locks: SUPER.
 */
static void
record_errors (const struct super_writer *sw, struct ext2_super_block *sb)
{
  const struct super_error *first = &sw->first, *last = &sw->last;

  if (sw->errors == 0)
    return;
  sb->s_state |= EXT2_ERROR_FS;
  sb->s_error_count += sw->errors;
  if (sb->s_first_error_time == 0 && sb->s_first_error_time_hi == 0) {
    set_time (&sb->s_first_error_time, &sb->s_first_error_time_hi,
              first->time);
    sb->s_first_error_ino = 0;
    sb->s_first_error_block = first->block;
    memcpy (sb->s_first_error_func, first->func, sizeof first->func);
    sb->s_first_error_line = ext2fs_cpu_to_le32 (first->line);
    sb->s_first_error_errcode = first->code;
  }
  set_time (&sb->s_last_error_time, &sb->s_last_error_time_hi, last->time);
  sb->s_last_error_ino = 0;
  sb->s_last_error_block = last->block;
  memcpy (sb->s_last_error_func, last->func, sizeof last->func);
  sb->s_last_error_line = ext2fs_cpu_to_le32 (last->line);
  sb->s_last_error_errcode = last->code;
}

/* Writing. */

errcode_t
super_write (struct filesystem *fs, const struct ext2_super_block *sb,
             uint16_t state)
{
  struct super_writer *sw = &fs->sw;
  union {
    struct ext2_super_block sb;
    uint8_t bytes[SUPER_SIZE];
  } u;

  _Static_assert (sizeof u.sb == SUPER_SIZE, "superblock is 1024 bytes");
  LOCK_FOR_SCOPE (&sw->lock);
  u.sb = *sb;
  u.sb.s_state = state;
  set_time (&u.sb.s_wtime, &u.sb.s_wtime_hi, (uint64_t) time (NULL));
  u.sb.s_kbytes_written =
    sw->kbytes + ((device_written (fs->dev) - sw->written) >> 10);
  record_errors (sw, &u.sb);
#ifdef WORDS_BIGENDIAN
  ext2fs_swap_super (&u.sb);
#endif
  super_seal (&u.sb, sw->rest);
  return device_pwrite (fs->dev, u.bytes, SUPER_SIZE, SUPER_OFFSET, 0);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What the superblock says of us afterwards. */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ondisk.h"
#include "image.h"

#define SIZE (UINT64_C (300) << 10)
#define OLD 946684800u

static const struct image_file files[] = {
  { "hole", SIZE, false }, { "full", SIZE, true }, { NULL },
};

static const char *const kinds[] = {
  "-t ext4 -b 1024 -O ^has_journal -N 32", "-t ext2 -b 1024 -N 32",
  "-t ext4 -b 1024 -N 32",
};
#define KINDS (sizeof kinds / sizeof *kinds)

static struct memdev *
make (const char *args)
{
  struct memdev *md = image_make (args, UINT64_C (16) << 20, files);

  image_debugfs (md, "set_super_value mtime 20000101000000");
  image_debugfs (md, "set_super_value mnt_count 7");
  image_debugfs (md, "set_super_value kbytes_written 1000");
  /* debugfs itself writes it. */
  if (!ext2fs_has_feature_metadata_csum (image_super (md)))
    image_super (md)->s_wtime = OLD;
  return md;
}

static void
fill (struct filesystem *fs, uint64_t count)
{
  struct inode *inode = image_iget (fs, "hole");
  uint8_t *buf = malloc (count);

  assert_non_null (buf);
  memset (buf, 0x5a, count);
  assert_ok (file_write (inode, buf, count, 0, 0));
  free (buf);
  iput (inode);
}

static void
assert_now (uint32_t t)
{
  assert_in_range (t, (uint32_t) time (NULL) - 600, (uint32_t) time (NULL));
}

static void
test_written (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < KINDS; i++) {
    struct memdev *md = make (kinds[i]);
    const struct ext2_super_block *sb = image_super (md);
    struct filesystem *fs = image_open (md);

    fill (fs, 200 << 10);
    assert_int_equal (sb->s_mnt_count, 7);
    assert_ok (filesystem_flush (fs));
    /* From the first commit on. */
    assert_int_equal (sb->s_mnt_count, 8);
    assert_now (sb->s_mtime);
    assert_now (sb->s_wtime);
    assert_string_equal ((const char *) sb->s_last_mounted, "nbdkit-ext2");
    /* Once only. */
    fill (fs, 100 << 10);
    image_close (fs, NULL);
    assert_int_equal (sb->s_mnt_count, 8);
    assert_int_equal (sb->s_error_count, 0);
    assert_int_equal (sb->s_first_error_time, 0);
    assert_int_equal (sb->s_last_error_time, 0);
    assert_int_equal (sb->s_wtime_hi | sb->s_mtime_hi, 0);
    /* Data, and some metadata, those perhaps twice. */
    assert_in_range (sb->s_kbytes_written, 1300, 1380);
    /* Which compares it with the backup in the second group, too. */
    image_assert_clean (md);

    fs = image_open (md);
    fill (fs, 10 << 10);
    image_close (fs, NULL);
    assert_int_equal (sb->s_mnt_count, 9);
    assert_in_range (sb->s_kbytes_written, 1311, 1440);
    memdev_free (md);
  }
}

static void
test_not_written (void **state)
{
  struct memdev *md = make (kinds[0]), *before = memdev_copy (md);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "full");
  uint8_t byte;

  (void) state;
  assert_ok (file_read (inode, &byte, 1, 0));
  assert_ok (filesystem_flush (fs));
  image_close (fs, inode);
  assert_memory_equal (md->mem, before->mem, md->dev.size);
  memdev_free (before);
  memdev_free (md);
}

/* What dumpe2fs says contains TEXT. */
static void
assert_dumpe2fs (struct memdev *md, const char *text)
{
  char path[64], command[256], line[256];
  bool found = false;
  FILE *p;

  snprintf (command, sizeof command, "dumpe2fs -h %s 2>&1",
            memdev_path (md, path, sizeof path));
  p = popen (command, "r");
  assert_non_null (p);
  while (fgets (line, sizeof line, p))
    if (strstr (line, text))
      found = true;
  pclose (p);
  if (!found)
    fail_msg ("dumpe2fs does not say \"%s\"", text);
}

/* An abort in the middle of use, and later the last word of a commit. */
static void
test_aborted (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < KINDS; i++) {
    struct memdev *md = make (kinds[i]);
    const struct ext2_super_block *sb = image_super (md);
    struct filesystem *fs = image_open (md);

    fill (fs, 50 << 10);
    assert_ok (filesystem_flush (fs));
    syncer_drain (fs);
    lock_acquire (&fs->lock);
    filesystem_abort (fs, "test", EIO);
    filesystem_abort (fs, "once is enough", ENOMEM);
    lock_release (&fs->lock);
    assert_int_not_equal (filesystem_close (fs), 0);

    assert_true (sb->s_state & EXT2_ERROR_FS);
    assert_false (sb->s_state & EXT2_VALID_FS);
    assert_int_equal (sb->s_error_count, 1);
    assert_now (sb->s_first_error_time);
    assert_now (sb->s_last_error_time);
    assert_string_equal ((const char *) sb->s_first_error_func,
                         "test_aborted");
    assert_string_equal ((const char *) sb->s_last_error_func,
                         "test_aborted");
    assert_true (sb->s_last_error_line > 0);
    assert_dumpe2fs (md, "clean with errors");
    assert_dumpe2fs (md, "FS Error count:           1");
    assert_dumpe2fs (md, "First error function:     test_aborted");
    assert_dumpe2fs (md, "Last error err:           EIO");
    /* e2fsck sees to it, and forgets it. */
    assert_int_equal (image_fsck (md, "-fp", 1), 1);
    assert_int_equal (sb->s_error_count, 0);
    assert_int_equal (sb->s_state, EXT2_VALID_FS);
    image_assert_clean (md);
    memdev_free (md);
  }
}

/* A write of the superblock that began before the error was found does not
 * hide it: the record is part of whatever is written later.
 */
static void
test_older_super (void **state)
{
  struct memdev *md = make (kinds[0]);
  const struct ext2_super_block *sb = image_super (md);
  struct filesystem *fs = image_open (md);
  const struct ext2_super_block older = *fs->e2->super;

  (void) state;
  super_note_error (fs, "a_function_whose_name_is_longer_than_its_field", 1,
                    77, EXT2_FILSYS_CORRUPTED);
  super_note_error (fs, "b", 2, 78, ENOMEM);
  assert_ok (super_write (fs, &older, EXT2_VALID_FS));
  assert_ok (super_write (fs, &older, EXT2_VALID_FS));
  assert_int_equal (sb->s_state, EXT2_VALID_FS | EXT2_ERROR_FS);
  assert_int_equal (sb->s_error_count, 2);
  assert_memory_equal (sb->s_first_error_func,
                       "a_function_whose_name_is_longer_", 32);
  assert_int_equal (sb->s_first_error_block, 77);
  assert_int_equal (sb->s_first_error_line, 1);
  assert_string_equal ((const char *) sb->s_last_error_func, "b");
  assert_int_equal (sb->s_last_error_block, 78);
  assert_dumpe2fs (md, "First error err:          EFSCORRUPTED");
  assert_dumpe2fs (md, "Last error err:           ENOMEM");
  image_close (fs, NULL);
  memdev_free (md);
}

/* A write that fails once goes on record nowhere: it is repeated.  After a
 * flush that has failed nobody knows what is there, so the error gets on
 * record if the superblock can be written at all.
 */
static void
test_failed_commit (void **state)
{
  struct memdev *md = make (kinds[0]);
  const struct ext2_super_block *sb = image_super (md);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "hole");
  uint8_t block[1024] = { 1 };

  (void) state;
  fill (fs, 50 << 10);
  assert_ok (filesystem_flush (fs));
  syncer_drain (fs);
  assert_ok (file_write (inode, block, sizeof block, 100 << 10, 0));
  memdev_fail (md, MEMDEV_MASK (MEMDEV_WRITE), 1, 1, EIO);
  assert_int_not_equal (filesystem_flush (fs), 0);
  memdev_heal (md);
  assert_ok (filesystem_flush (fs));
  assert_int_equal (sb->s_error_count, 0);
  syncer_drain (fs);
  assert_ok (file_write (inode, block, sizeof block, 200 << 10, 0));
  memdev_fail (md, MEMDEV_MASK (MEMDEV_FLUSH), 1, 1, EIO);
  assert_int_not_equal (filesystem_flush (fs), 0);
  memdev_heal (md);
  iput (inode);
  assert_int_not_equal (filesystem_close (fs), 0);
  assert_int_equal (sb->s_error_count, 1);
  assert_dumpe2fs (md, "First error err:          EIO");
  assert_int_equal (image_fsck (md, "-fp", 1), 1);
  image_assert_clean (md);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_written),
    cmocka_unit_test (test_not_written),
    cmocka_unit_test (test_aborted),
    cmocka_unit_test (test_older_super),
    cmocka_unit_test (test_failed_commit),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

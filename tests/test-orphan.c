/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Filesystems with orphan inodes are written without touching those, and
 * e2fsck finishes them afterwards.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define SIZE (UINT64_C (300) << 10)
#define CUT 100000u             /* what "cut" is being truncated to */
#define IMAGE (UINT64_C (8) << 20)

static const struct image_file files[] = {
  { "f", SIZE, true }, { "gone", SIZE, true }, { "cut", SIZE, true },
  { "hole", IMAGE, false }, { NULL },
};

static ext2_ino_t gone, cut;

static void __attribute__ ((__format__ (__printf__, 2, 3)))
debug (struct memdev *md, const char *fmt, ...)
{
  char command[256];
  va_list ap;

  va_start (ap, fmt);
  vsnprintf (command, sizeof command, fmt, ap);
  va_end (ap);
  image_debugfs (md, command);
}

/* An image in which "gone" has been deleted and "cut" been cut, without
 * their blocks being freed.
 */
static struct memdev *
make (const char *args)
{
  struct memdev *md = image_make (args, IMAGE, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "gone");

  gone = inode->ino;
  iput (inode);
  inode = image_iget (fs, "cut");
  cut = inode->ino;
  image_close (fs, inode);
  debug (md, "unlink gone");
  debug (md, "set_inode_field <%u> links_count 0", gone);
  debug (md, "set_inode_field <%u> size %u", cut, CUT);
  return md;
}

static void
chain (struct memdev *md, ext2_ino_t head, ext2_ino_t ino, ext2_ino_t next)
{
  debug (md, "set_super_value last_orphan %u", head);
  debug (md, "set_inode_field <%u> dtime @%u", ino, next);
}

/* Edits block 0 of the orphan file. */
static void
orphan_block (struct memdev *md, void (*edit) (char *buf, size_t size),
              bool checksum)
{
  char path[64], *buf;
  ext2_filsys e2;
  blk64_t blk;

  assert_ok (ext2fs_open (memdev_path (md, path, sizeof path), EXT2_FLAG_RW |
                          EXT2_FLAG_64BITS, 0, 0, unix_io_manager, &e2));
  ext2fs_set_feature_orphan_present (e2->super);
  ext2fs_mark_super_dirty (e2);
  assert_ok (ext2fs_bmap2 (e2, e2->super->s_orphan_file_inum, NULL, NULL, 0,
                           0, NULL, &blk));
  buf = malloc (e2->blocksize);
  assert_non_null (buf);
  assert_ok (io_channel_read_blk64 (e2->io, blk, 1, buf));
  edit (buf, e2->blocksize);
  if (checksum)
    assert_ok (ext2fs_orphan_file_block_csum_set
               (e2, e2->super->s_orphan_file_inum, blk, buf));
  assert_ok (io_channel_write_blk64 (e2->io, blk, 1, buf));
  free (buf);
  assert_ok (ext2fs_close (e2));
}

static void
two_entries (char *buf, size_t size)
{
  uint32_t *p = (uint32_t *) (void *) buf;

  p[3] = ext2fs_cpu_to_le32 (gone);
  p[size / 4 - 3] = ext2fs_cpu_to_le32 (cut);
}

static void
low_entry (char *buf, size_t size)
{
  (void) size;
  *(uint32_t *) (void *) buf = ext2fs_cpu_to_le32 (2);
}

static void
bad_tail (char *buf, size_t size)
{
  buf[size - 8] ^= 1;
}

static void
dump_inode (struct memdev *md, ext2_ino_t ino, const char *name,
            uint64_t size)
{
  uint8_t *expect = malloc (size);
  char file[32];

  assert_non_null (expect);
  image_content (name, expect, size);
  snprintf (file, sizeof file, "<%u>", (unsigned) ino);
  image_assert_dump (md, file, expect, size);
  free (expect);
}

/* Writes all that fits, so that a block taken from an orphan would show;
 * *WRITTEN is how much of "hole" that was.
 */
static void
fill_up (struct filesystem *fs, uint64_t *written)
{
  struct inode *inode = image_iget (fs, "hole");
  uint8_t buf[4096];

  memset (buf, 0xa5, sizeof buf);
  for (*written = 0; *written < inode->size; *written += sizeof buf)
    if (file_write (inode, buf, sizeof buf, *written, 0) != 0)
      break;
  assert_in_range (*written, UINT64_C (1) << 20, inode->size - 1);
  iput (inode);
}

static void
assert_served (struct memdev *md)
{
  const struct ext2_super_block before = *image_super (md);
  struct filesystem *fs = image_open (md);
  const uint32_t block_size = fs->block_size;
  struct inode *inode;
  uint8_t expect[SIZE], buf[SIZE], byte = 1;
  uint64_t written, free_before;

  assert_true (fs->writable);
  assert_true (orphan_is (fs, gone));
  assert_true (orphan_is (fs, cut));
  assert_false (orphan_is (fs, 2));

  /* The one with a name can be read. */
  inode = image_iget (fs, "cut");
  assert_int_equal (inode->size, CUT);
  assert_false (inode->writable);
  image_content ("cut", expect, SIZE);
  assert_ok (file_read (inode, buf, CUT, 0));
  assert_memory_equal (buf, expect, CUT);
  assert_int_equal (file_write (inode, &byte, 1, 0, 0), EROFS);
  assert_int_equal (file_trim (inode, CUT, 0, 0), EROFS);
  iput (inode);

  image_content ("f", expect, SIZE);
  memset (expect + 5000, 0x11, 3000);
  memset (expect + 65536, 0, 65536);
  inode = image_iget (fs, "f");
  assert_true (inode->writable);
  assert_ok (file_write (inode, expect + 5000, 3000, 5000, 0));
  assert_ok (file_trim (inode, 65536, 65536, 0));
  assert_ok (filesystem_flush (fs));
  syncer_drain (fs);
  iput (inode);
  fill_up (fs, &written);
  image_close (fs, NULL);

  assert_int_equal (image_super (md)->s_last_orphan, before.s_last_orphan);
  assert_int_equal (image_super (md)->s_feature_ro_compat,
                    before.s_feature_ro_compat);
  assert_int_equal (image_super (md)->s_state, before.s_state);
  dump_inode (md, gone, "gone", SIZE);
  dump_inode (md, cut, "cut", CUT);

  /* e2fsck finishes both, finds nothing else, and has more space then. */
  free_before = image_free_blocks (md);
  assert_in_range (image_fsck (md, "-fy", 1), 0, 1);
  image_assert_clean (md);
  assert_int_equal (image_super (md)->s_last_orphan, 0);
  assert_false (image_super (md)->s_feature_ro_compat &
                ext2fs_cpu_to_le32 (EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT));
  assert_true (image_free_blocks (md) - free_before >=
               (SIZE + SIZE - CUT) / block_size - 2);
  image_assert_dump (md, "f", expect, SIZE);
  dump_inode (md, cut, "cut", CUT);

  /* And "cut" can be written now. */
  fs = image_open (md);
  inode = image_iget (fs, "cut");
  assert_ok (file_write (inode, &byte, 1, 0, 0));
  image_close (fs, inode);
  image_assert_clean (md);
}

static void
test_chain (void **state)
{
  static const char *const args[] = {
    "-t ext4 -b 1024 -N 32", "-t ext4 -b 1024 -N 32 -O ^metadata_csum",
    "-t ext2 -b 1024 -N 32", "-t ext4 -b 4096 -N 32",
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof args / sizeof *args; i++) {
    struct memdev *md = make (args[i]);

    chain (md, gone, gone, cut);
    assert_served (md);
    memdev_free (md);
  }
}

static void
test_orphan_file (void **state)
{
  static const char *const args[] = {
    "-t ext4 -b 1024 -N 32 -O orphan_file",
    "-t ext4 -b 1024 -N 32 -O orphan_file,^metadata_csum",
    "-t ext4 -b 4096 -N 32 -O orphan_file",
  };
  size_t i;

  (void) state;
  for (i = 0; i < sizeof args / sizeof *args; i++) {
    struct memdev *md = make (args[i]);

    orphan_block (md, two_entries, true);
    assert_served (md);
    memdev_free (md);
  }
}

/* Some in each place, which Linux does when the file is full. */
static void
test_both (void **state)
{
  struct memdev *md = make ("-t ext4 -b 1024 -N 32 -O orphan_file");
  const ext2_ino_t second = cut;

  (void) state;
  chain (md, cut, cut, 0);
  cut = 0;                      /* a free place */
  orphan_block (md, two_entries, true);
  cut = second;
  assert_served (md);
  memdev_free (md);
}

/* Damaged lists: nothing is written. */

static void
assert_readonly (struct memdev *md)
{
  struct memdev *before = memdev_copy (md);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  uint8_t byte = 1;

  assert_false (fs->writable);
  assert_int_equal (file_write (inode, &byte, 1, 0, 0), EROFS);
  assert_ok (file_read (inode, &byte, 1, 0));
  image_close (fs, inode);
  assert_memory_equal (md->mem, before->mem, md->dev.size);
  memdev_free (before);
}

static void
test_damaged_chain (void **state)
{
  struct memdev *md = make ("-t ext4 -b 1024 -N 32");

  (void) state;
  chain (md, 8, gone, 0);
  assert_readonly (md);
  chain (md, 33, gone, 0);
  assert_readonly (md);
  chain (md, gone, gone, 3);
  assert_readonly (md);
  chain (md, gone, gone, 0x7fffffff);
  assert_readonly (md);
  chain (md, gone, gone, gone);
  assert_readonly (md);
  chain (md, gone, gone, cut);
  debug (md, "set_inode_field <%u> dtime @%u", cut, gone);
  assert_readonly (md);
  memdev_free (md);
}

static void
test_damaged_file (void **state)
{
  struct memdev *good = make ("-t ext4 -b 1024 -N 32 -O orphan_file"), *md;

  (void) state;
  md = memdev_copy (good);
  orphan_block (md, bad_tail, false);
  assert_readonly (md);
  memdev_free (md);

  md = memdev_copy (good);
  orphan_block (md, two_entries, false);
  assert_readonly (md);
  memdev_free (md);

  md = memdev_copy (good);
  orphan_block (md, low_entry, true);
  assert_readonly (md);
  memdev_free (md);

  md = memdev_copy (good);
  debug (md, "set_super_value orphan_file_inum 2");
  orphan_block (good, two_entries, true);
  debug (md, "feature orphan_present");
  assert_readonly (md);
  memdev_free (md);

  /* In the file and in the chain, and without a file. */
  chain (good, cut, cut, 0);
  assert_readonly (good);
  chain (good, 0, cut, 0);
  debug (good, "feature ^orphan_file");
  assert_readonly (good);
  memdev_free (good);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_chain),
    cmocka_unit_test (test_orphan_file),
    cmocka_unit_test (test_both),
    cmocka_unit_test (test_damaged_chain),
    cmocka_unit_test (test_damaged_file),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

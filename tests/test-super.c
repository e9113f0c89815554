/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Superblocks that must be refused, or only be read, or must not make
 * anything go wrong later; and not a byte written in any of the cases.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ondisk.h"
#include "errors.h"
#include "image.h"
#include "path.h"

typedef void change_fn (struct ext2_super_block *sb);

enum verdict { REFUSED, READONLY, SERVED };

#define SIZE UINT64_C (60000)

static struct memdev *image;    /* made once; without checksums */

/* Opens and uses what it gets; the device must not have been changed
 * unless it was to be served for writing.
 */
static enum verdict
try (change_fn *change, bool readonly)
{
  const struct filesystem_options opts = { .readonly = readonly };
  struct memdev *md = memdev_copy (image);
  struct filesystem *fs = NULL;
  struct inode *inode;
  enum verdict v = REFUSED;
  ext2_ino_t ino;
  uint8_t *buf = malloc (SIZE), *expect = malloc (SIZE);

  assert_non_null (buf);
  assert_non_null (expect);
  image_content ("f", expect, SIZE);
  change (image_super (md));
  if (filesystem_open (&md->dev, &opts, &fs) == 0) {
    v = fs->writable ? SERVED : READONLY;
    if (path_resolve (fs, "/f", &ino) == 0 &&
        iget (fs, ino, "f", &inode) == 0) {
      if (file_read (inode, buf, SIZE, 0) == 0)
        assert_memory_equal (buf, expect, SIZE);
      if (v == SERVED) {        /* frees and allocates */
        file_zero (inode, SIZE, 0, FILE_MAY_TRIM);
        filesystem_flush (fs);
        file_write (inode, expect, SIZE, 0, 0);
      }
      else
        assert_int_equal (file_write (inode, buf, 1, 0, 0), EROFS);
      iput (inode);
    }
    filesystem_close (fs);
  }
  if (v != SERVED)
    assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);
  memdev_free (md);
  free (buf);
  free (expect);
  return v;
}

#define CHANGE(name, code)                                              \
  static void                                                           \
  name (struct ext2_super_block *sb)                                    \
  {                                                                     \
    code;                                                               \
  }

CHANGE (nothing, (void) sb)
CHANGE (bad_magic, sb->s_magic = 0x1234)
CHANGE (huge_blocks, sb->s_log_block_size = 7)
CHANGE (absurd_blocks, sb->s_log_block_size = 0xffffffff)
CHANGE (too_large, sb->s_blocks_count *= 2)
CHANGE (too_large_64, sb->s_feature_incompat |= EXT4_FEATURE_INCOMPAT_64BIT;
        sb->s_blocks_count_hi = 1)
CHANGE (compression, sb->s_feature_incompat |=
        EXT2_FEATURE_INCOMPAT_COMPRESSION)
CHANGE (dirdata, sb->s_feature_incompat |= EXT4_FEATURE_INCOMPAT_DIRDATA)
CHANGE (unknown_incompat, sb->s_feature_incompat |= 0x80000000)
CHANGE (journal_dev, sb->s_feature_incompat |=
        EXT3_FEATURE_INCOMPAT_JOURNAL_DEV)
CHANGE (recover, sb->s_feature_incompat |= EXT3_FEATURE_INCOMPAT_RECOVER)
CHANGE (external_journal,
        sb->s_feature_compat |= EXT3_FEATURE_COMPAT_HAS_JOURNAL;
        sb->s_journal_inum = 0; memset (sb->s_journal_uuid, 7, 16))
CHANGE (external_device,
        sb->s_feature_compat |= EXT3_FEATURE_COMPAT_HAS_JOURNAL;
        sb->s_journal_inum = 0; sb->s_journal_dev = 0x0801)
CHANGE (two_journals,
        sb->s_feature_compat |= EXT3_FEATURE_COMPAT_HAS_JOURNAL;
        sb->s_journal_inum = 8; sb->s_journal_dev = 0x0801)
CHANGE (no_journal_inode,
        sb->s_feature_compat |= EXT3_FEATURE_COMPAT_HAS_JOURNAL;
        sb->s_journal_inum = 0)
CHANGE (no_inodes_per_group, sb->s_inodes_per_group = 0)
CHANGE (no_blocks_per_group, sb->s_blocks_per_group = 0)
CHANGE (inode_size_0, sb->s_inode_size = 0)
CHANGE (inode_size_odd, sb->s_inode_size = 129)
CHANGE (first_data_block, sb->s_first_data_block = 0xfffffff0)

CHANGE (bigalloc, sb->s_feature_ro_compat |=
        EXT4_FEATURE_RO_COMPAT_BIGALLOC; sb->s_log_cluster_size = 4;
        sb->s_clusters_per_group = sb->s_blocks_per_group / 16)
CHANGE (quota, sb->s_feature_ro_compat |= EXT4_FEATURE_RO_COMPAT_QUOTA)
CHANGE (project, sb->s_feature_ro_compat |= EXT4_FEATURE_RO_COMPAT_PROJECT)
CHANGE (quota_project, quota (sb); project (sb))
CHANGE (read_only, sb->s_feature_ro_compat |=
        EXT4_FEATURE_RO_COMPAT_READONLY)
CHANGE (shared_blocks, sb->s_feature_ro_compat |=
        EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS)
CHANGE (unknown_ro, sb->s_feature_ro_compat |= 0x80000000)
CHANGE (bad_orphans, sb->s_last_orphan = 7)

CHANGE (errors, sb->s_state |= EXT2_ERROR_FS)
CHANGE (error_count, sb->s_error_count = 3)
CHANGE (errors_counted, errors (sb); error_count (sb))
CHANGE (not_valid, sb->s_state &= ~EXT2_VALID_FS)

/* Larger than a bitmap block has bits. */
CHANGE (many_blocks_per_group, sb->s_blocks_per_group = 65528;
        sb->s_clusters_per_group = 65528;
        sb->s_inodes_count = sb->s_inodes_per_group * 2;
        sb->s_free_inodes_count = 0)
CHANGE (many_inodes_per_group, sb->s_inodes_per_group = 65528;
        sb->s_inodes_count = 65528)
CHANGE (few_blocks_per_group, sb->s_blocks_per_group = 256;
        sb->s_clusters_per_group = 256;
        sb->s_inodes_count = sb->s_inodes_per_group * 320)
CHANGE (odd_blocks_per_group, sb->s_blocks_per_group -= 1;
        sb->s_clusters_per_group -= 1;
        sb->s_inodes_count += sb->s_inodes_per_group)
CHANGE (many_free, sb->s_free_blocks_count = 0xffffffff)
CHANGE (many_reserved, sb->s_r_blocks_count = 0xffffffff)
CHANGE (reserved_gdt, sb->s_reserved_gdt_blocks = 0xffff)
CHANGE (first_meta_bg, sb->s_feature_incompat |=
        EXT2_FEATURE_INCOMPAT_META_BG; sb->s_first_meta_bg = 0xffff)
CHANGE (desc_size, sb->s_feature_incompat |= EXT4_FEATURE_INCOMPAT_64BIT;
        sb->s_desc_size = 1024)

#define EACH(...)                                                       \
  static change_fn *const list[] = { __VA_ARGS__ };                     \
  size_t i;                                                             \
  (void) state;                                                         \
  for (i = 0; i < sizeof list / sizeof *list; i++)

static void
test_refused (void **state)
{
  EACH (bad_magic, huge_blocks, absurd_blocks, too_large, too_large_64,
        compression, dirdata, unknown_incompat, journal_dev, recover,
        external_journal, external_device, no_journal_inode, two_journals,
        no_inodes_per_group,
        no_blocks_per_group, inode_size_0, inode_size_odd, first_data_block) {
    if (try (list[i], false) != REFUSED || try (list[i], true) != REFUSED)
      fail_msg ("number %zu is not refused", i);
  }
}

static void
test_readonly (void **state)
{
  EACH (bigalloc, quota, quota_project, read_only, shared_blocks, unknown_ro,
        bad_orphans, error_count) {
    if (try (list[i], false) != READONLY || try (list[i], true) != READONLY)
      fail_msg ("number %zu is not read-only", i);
  }
}

/* Not to be written, but looking at it helps. */
static void
test_damaged (void **state)
{
  EACH (errors, errors_counted, not_valid) {
    if (try (list[i], false) != REFUSED || try (list[i], true) != READONLY)
      fail_msg ("number %zu", i);
  }
}

/* Any verdict, but no accident.  For AddressSanitizer. */
static void
test_hostile (void **state)
{
  EACH (many_blocks_per_group, many_inodes_per_group, few_blocks_per_group,
        odd_blocks_per_group, many_free, many_reserved, reserved_gdt,
        first_meta_bg, desc_size) {
    try (list[i], false);
    try (list[i], true);
  }
}

static void
test_served (void **state)
{
  (void) state;
  assert_int_equal (try (nothing, false), SERVED);
  assert_int_equal (try (nothing, true), READONLY);
  assert_int_equal (try (project, false), SERVED);
  assert_int_equal (try (project, true), READONLY);
}

static void
test_small_devices (void **state)
{
  static const uint64_t sizes[] = { 0, 512, 1024, 2047 };
  const struct filesystem_options opts = { .readonly = true };
  struct filesystem *fs;
  size_t i;

  (void) state;
  for (i = 0; i < 4; i++) {
    struct memdev *md = memdev_new (4096);

    md->dev.size = sizes[i];
    assert_int_equal (filesystem_open (&md->dev, &opts, &fs),
                      EXT2_ET_BAD_MAGIC);
    md->dev.size = 4096;
    memdev_free (md);
  }
}

int
main (void)
{
  static const struct image_file files[] = {
    { "f", SIZE, true }, { NULL },
  };
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_served),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_readonly),
    cmocka_unit_test (test_damaged),
    cmocka_unit_test (test_hostile),
    cmocka_unit_test (test_small_devices),
  };
  int failed;

  image_init ();
  /* Large enough for a group with more blocks than a bitmap has bits. */
  image = image_make ("-t ext2 -b 1024", UINT64_C (80) << 20, files);
  failed = cmocka_run_group_tests (tests, NULL, NULL);
  memdev_free (image);
  return failed;
}

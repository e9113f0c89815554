/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Directories that are large, or only claim to be: what an image with few
 * blocks can make us search is bounded by those few.  What is searched is
 * counted in dir_lookup's budget.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondisk.h"
#include "dir.h"
#include "image.h"

#define MIB (UINT64_C (1) << 20)
#define BS 1024u
#define PER_TABLE (BS / 4)

/* From here on all blocks are free. */
#define TABLES 4096u
#define DATA 8192u

/* What a search may cost at all, in blocks. */
#define BUDGET 100000u

struct large {
  struct memdev *md;
  ext2_ino_t ino;
  struct ext2_inode *raw;
  uint32_t next_table;
};

static uint8_t *
block_at (const struct large *d, uint32_t blk)
{
  return d->md->mem + (uint64_t) blk * BS;
}

static uint8_t *
map_of (const struct large *d)
{
  return (uint8_t *) d->raw + offsetof (struct ext2_inode, i_block);
}

static uint32_t
get32 (const uint8_t *p)
{
  uint32_t le;

  memcpy (&le, p, 4);
  return ext2fs_le32_to_cpu (le);
}

static void
put32 (uint8_t *p, uint32_t n)
{
  const uint32_t le = ext2fs_cpu_to_le32 (n);

  memcpy (p, &le, 4);
}

/* A block with one entry for NAME, or an unused one. */
static void
put_entry (const struct large *d, uint32_t blk, const char *name)
{
  struct ext2_dir_entry_2 e = {
    .inode = name ? EXT2_ROOT_INO : 0, .rec_len = BS,
    .name_len = name ? strlen (name) : 0,
  };

  memcpy (block_at (d, blk), &e, 8);
  if (name)
    memcpy (block_at (d, blk) + 8, name, strlen (name));
}

/* A filesystem of 65536 blocks with directory d, whose blocks are N unused
 * ones from DATA on, but the first one has "first".
 */
static void
setup (struct large *d, uint32_t n)
{
  static const struct image_file files[] = { { NULL } };
  struct filesystem *fs;
  uint32_t i;

  d->md = image_make ("-t ext2 -b 1024 -N 512 -O ^resize_inode,^sparse_super,"
                      "sparse_super2,flex_bg -E num_backup_sb=0,"
                      "packed_meta_blocks=1", 64 * MIB, files);
  image_debugfs (d->md, "mkdir d");
  fs = image_open (d->md);
  assert_ok (ext2fs_namei (fs->e2, EXT2_ROOT_INO, EXT2_ROOT_INO, "d",
                           &d->ino));
  d->raw = (void *) (block_at (d, ext2fs_inode_table_loc (fs->e2, 0))
                     + (d->ino - 1) * EXT2_INODE_SIZE (fs->e2->super));
  image_close (fs, NULL);
  d->next_table = TABLES;
  for (i = 0; i < n; i++)
    put_entry (d, DATA + i, i == 0 ? "first" : NULL);
}

/* The place of the pointer to block LBLK of the directory. */
static uint8_t *
pointer (struct large *d, uint32_t lblk)
{
  uint32_t slot[2];
  uint8_t *p;
  unsigned i, levels;

  if (lblk < 12)
    return map_of (d) + 4 * lblk;
  lblk -= 12;
  levels = lblk < PER_TABLE ? 1 : 2;
  if (levels == 2)
    lblk -= PER_TABLE;
  slot[0] = lblk / PER_TABLE;
  slot[1] = lblk % PER_TABLE;
  p = map_of (d) + 4 * (11 + levels);
  for (i = 2 - levels; i < 2; i++) {
    if (get32 (p) == 0)
      put32 (p, d->next_table++);
    p = block_at (d, get32 (p)) + 4 * slot[i];
  }
  return p;
}

/* BLOCKS long, of which number I is WHERE (I). */
static void
set_blocks (struct large *d, uint32_t blocks, uint32_t (*where) (uint32_t i))
{
  uint32_t i;

  for (i = TABLES; i < d->next_table; i++)
    memset (block_at (d, i), 0, BS);
  d->next_table = TABLES;
  memset (map_of (d), 0, sizeof d->raw->i_block);
  for (i = 0; i < blocks; i++)
    put32 (pointer (d, i), where (i));
  d->raw->i_size = blocks * BS;
}

/* Looks NAME up; returns how many blocks that cost. */
static uint64_t
lookup (struct filesystem *fs, const struct large *d, const char *name,
        errcode_t expect)
{
  uint64_t budget = (uint64_t) BUDGET * BS;
  ext2_ino_t ino;

  assert_int_equal (dir_lookup (fs, d->ino, name, strlen (name), &budget,
                                &ino), expect);
  return BUDGET - budget / BS;
}

static uint32_t
one_block (uint32_t i)
{
  (void) i;
  return DATA;
}

/* One block, again and again. */
static void
test_one_block (void **state)
{
  struct filesystem *fs;
  struct large d;

  (void) state;
  setup (&d, 1);
  set_blocks (&d, 60000, one_block);
  fs = image_open (d.md);
  assert_in_range (lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED), 1, 2);
  assert_in_range (lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED), 1, 2);
  assert_int_equal (lookup (fs, &d, "first", 0), 1);
  image_close (fs, NULL);
  memdev_free (d.md);
}

static uint32_t
two_rounds (uint32_t i)
{
  return DATA + i % 5000;
}

/* Several megabytes, then the same again: found before it ends, and
 * remembered until the filesystem is closed.
 */
static void
test_remembered (void **state)
{
  const uint64_t few = MIB / BS;
  struct filesystem *fs;
  struct large d;
  unsigned i;

  (void) state;
  setup (&d, 5000);
  set_blocks (&d, 60000, two_rounds);
  fs = image_open (d.md);
  assert_in_range (lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED), 5000,
                   10000);
  for (i = 0; i < 3; i++)
    assert_int_equal (lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED), few);
  assert_int_equal (lookup (fs, &d, "first", 0), 1);
  image_close (fs, NULL);

  /* Repaired, there is nothing to remember. */
  set_blocks (&d, 5000, two_rounds);
  fs = image_open (d.md);
  for (i = 0; i < 2; i++)
    assert_int_equal (lookup (fs, &d, "none", EXT2_ET_FILE_NOT_FOUND), 5000);
  image_close (fs, NULL);
  memdev_free (d.md);
}

/* One extent of the same 8192 blocks after the other.  */
static void
test_extents (void **state)
{
  struct ext3_extent_header h = {
    .eh_magic = ext2fs_cpu_to_le16 (EXT3_EXT_MAGIC),
    .eh_entries = ext2fs_cpu_to_le16 (4), .eh_max = ext2fs_cpu_to_le16 (4),
  };
  struct ext3_extent e = {
    .ee_len = ext2fs_cpu_to_le16 (8192), .ee_start = ext2fs_cpu_to_le32 (DATA),
  };
  struct filesystem *fs;
  struct large d;
  unsigned i;

  (void) state;
  setup (&d, 8192);
  memcpy (map_of (&d), &h, sizeof h);
  for (i = 0; i < 4; i++) {
    e.ee_block = ext2fs_cpu_to_le32 (i * 8192);
    memcpy (map_of (&d) + sizeof h + i * sizeof e, &e, sizeof e);
  }
  d.raw->i_flags = EXT4_EXTENTS_FL;
  d.raw->i_size = 4 * 8192 * BS;
  image_super (d.md)->s_feature_incompat |= EXT3_FEATURE_INCOMPAT_EXTENTS;
  fs = image_open (d.md);
  assert_int_equal (lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED), 8192);
  image_close (fs, NULL);
  memdev_free (d.md);
}

static uint32_t
backwards (uint32_t i)
{
  return DATA + (20000 - 1 - i);
}

static uint32_t
shuffled (uint32_t i)
{
  return DATA + (uint32_t) ((uint64_t) i * 7919 % 20000);
}

/* Honest ones, however their blocks lie, are searched to the end. */
static void
test_honest (void **state)
{
  struct filesystem *fs;
  struct large d;

  (void) state;
  setup (&d, 20000);
  set_blocks (&d, 20000, backwards);
  fs = image_open (d.md);
  assert_int_equal (lookup (fs, &d, "first", 0), 20000);
  assert_int_equal (lookup (fs, &d, "none", EXT2_ET_FILE_NOT_FOUND), 20000);
  image_close (fs, NULL);
  set_blocks (&d, 20000, shuffled);
  fs = image_open (d.md);
  assert_int_equal (lookup (fs, &d, "first", 0), 1);
  assert_int_equal (lookup (fs, &d, "none", EXT2_ET_FILE_NOT_FOUND), 20000);
  image_close (fs, NULL);
  memdev_free (d.md);
}

static uint32_t
every_other (uint32_t i)
{
  return i % 2 ? 0 : DATA + i;
}

/* A few holes are skipped. */
static void
test_holes (void **state)
{
  struct filesystem *fs;
  struct large d;

  (void) state;
  setup (&d, 10000);
  set_blocks (&d, 100, every_other);
  fs = image_open (d.md);
  assert_int_equal (lookup (fs, &d, "none", EXT2_ET_FILE_NOT_FOUND), 100);
  image_close (fs, NULL);
  set_blocks (&d, 10000, every_other);
  fs = image_open (d.md);
  assert_in_range (lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED), 1000,
                   3000);
  image_close (fs, NULL);
  memdev_free (d.md);
}

/* What the message says to run helps, and loses no name. */
static void
test_e2fsck (void **state)
{
  struct filesystem *fs;
  struct large d;

  (void) state;
  setup (&d, 0);
  put32 (pointer (&d, 1), get32 (pointer (&d, 0)));
  d.raw->i_size = 2 * BS;
  fs = image_open (d.md);
  lookup (fs, &d, "none", EXT2_ET_DIR_CORRUPTED);
  image_close (fs, NULL);
  assert_in_range (image_fsck (d.md, "-fy", 1), 1, 1);
  fs = image_open (d.md);
  lookup (fs, &d, "none", EXT2_ET_FILE_NOT_FOUND);
  image_close (fs, NULL);
  memdev_free (d.md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_one_block),
    cmocka_unit_test (test_remembered),
    cmocka_unit_test (test_extents),
    cmocka_unit_test (test_honest),
    cmocka_unit_test (test_holes),
    cmocka_unit_test (test_e2fsck),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

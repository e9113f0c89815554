/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A file of a size that its kind of mapping cannot have is refused, with a
 * word; one of the largest size is served.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ondisk.h"
#include "image.h"
#include "inode.h"
#include "path.h"

#define MIB (UINT64_C (1) << 20)

struct kind {
  const char *args;
  uint32_t block_size;
  uint64_t file;                /* bytes */
  enum mapping_kind mapping;
  uint64_t most;                /* blocks */
};

/* Twelve pointers, and one, two and three levels of tables of them. */
#define BLOCKS(n) \
  (12 + (n) + (uint64_t) (n) * (n) + (uint64_t) (n) * (n) * (n))
#define INLINED "-O inline_data,^metadata_csum,^has_journal -N 64 "

static const struct kind kinds[] = {
  { "-t ext2 -b 1024 -N 64", 1024, 5000, MAPPED_BY_BLOCKS, BLOCKS (256) },
  { "-t ext2 -b 4096 -N 64", 4096, 5000, MAPPED_BY_BLOCKS, BLOCKS (1024) },
  { "-t ext4 -b 1024 " INLINED, 1024, 5000, MAPPED_BY_EXTENTS, UINT32_MAX },
  { "-t ext4 -b 65536 " INLINED, 65536, 5000, MAPPED_BY_EXTENTS, UINT32_MAX },
  { "-t ext4 -b 1024 " INLINED, 1024, 50, INLINE_DATA, BLOCKS (256) },
  { "-t ext4 -b 4096 " INLINED, 4096, 50, INLINE_DATA, BLOCKS (1024) },
};

static struct ext2_inode *
inode_of (struct memdev *md, const char *name)
{
  struct filesystem *fs = image_open (md);
  uint64_t offset;
  ext2_ino_t ino;

  assert_ok (path_resolve (fs, name, &ino));
  assert_true (ino <= EXT2_INODES_PER_GROUP (fs->e2->super));
  offset = ext2fs_inode_table_loc (fs->e2, 0) * fs->block_size
    + (ino - 1) * EXT2_INODE_SIZE (fs->e2->super);
  image_close (fs, NULL);
  return (void *) (md->mem + offset);
}

static void
set_size (struct ext2_inode *raw, uint64_t size)
{
  raw->i_size = (uint32_t) size;
  raw->i_size_high = size >> 32;
}

static void
assert_served (struct memdev *md, const struct kind *k, uint64_t size)
{
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  char byte = 1;

  assert_int_equal (inode->kind, k->mapping);
  assert_int_equal (inode->size, size);
  assert_true (inode->size <= INT64_MAX);
  assert_ok (file_read (inode, &byte, 1, size - 1));
  assert_int_equal (byte, 0);
  image_close (fs, inode);
}

static void
assert_refused (struct memdev *md)
{
  struct filesystem *fs = image_open (md);
  const unsigned errors = image_errors ();
  struct inode *inode;
  ext2_ino_t ino;

  assert_ok (path_resolve (fs, "f", &ino));
  assert_int_equal (iget (fs, ino, "f", &inode), EXT2_FILSYS_CORRUPTED);
  assert_true (image_errors () > errors);
  image_close (fs, NULL);
}

static void
try (const struct kind *k)
{
  const struct image_file files[] = { { "f", k->file, true }, { NULL } };
  struct memdev *md = image_make (k->args, 16 * MIB, files);
  struct ext2_inode *raw = inode_of (md, "f");
  const uint64_t most = (k->most < UINT32_MAX ? k->most : UINT32_MAX)
    * k->block_size;
  const uint64_t absurd[] = {
    most + 1, most + k->block_size, UINT64_C (1) << 48 << 4,
    INT64_MAX, UINT64_C (1) << 63, UINT64_MAX - 1, UINT64_MAX,
  };
  size_t i;

  set_size (raw, most);
  assert_served (md, k, most);
  for (i = 0; i < sizeof absurd / sizeof *absurd; i++) {
    set_size (raw, absurd[i]);
    assert_refused (md);
  }
  memdev_free (md);
}

static void
test_sizes (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (getenv ("V"))
      fprintf (stderr, "# %s\n", kinds[i].args);
    try (&kinds[i]);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_sizes),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

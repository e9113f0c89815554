/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Damaged metadata, at random but the same each time: whatever is asked
 * of such an image, an answer comes, and nothing crashes, hangs or
 * reaches outside the device.  Which answer does not matter here.
 *
 * With EXT2_HOSTILE=N in the environment, N images of each kind; with
 * EXT2_HOSTILE_ONLY=N only the N-th of them.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "path.h"

#define BLOCK 1024
#define IMAGE (UINT64_C (4) << 20)
#define SIZE (UINT64_C (600) * BLOCK + 99)

static const struct image_file files[] = {
  { "deep", SIZE, true }, { "full", SIZE / 4, true }, { "tiny", 120, true },
  { NULL },
};

/* Metadata blocks by kind, so that each kind gets its share of damage. */
enum kind { SUPER, DESC, BITMAP, INODE, TREE, DIRECTORY, KINDS };

struct target {
  uint64_t at[256];             /* blocks */
  unsigned count;
};

struct victim {
  const char *args;
  struct memdev *md;
  struct target targets[KINDS];
};

static void
add (struct victim *v, enum kind kind, uint64_t blk)
{
  struct target *t = &v->targets[kind];

  if (t->count < sizeof t->at / sizeof *t->at)
    t->at[t->count++] = blk;
}

/* Blocks of inode INO that are not data. */
struct walk {
  struct victim *v;
  bool directory;
};

static int
note_block (ext2_filsys e2, blk64_t *blk, e2_blkcnt_t lblk, blk64_t ref,
            int ref_offset, void *opaque)
{
  struct walk *w = opaque;

  (void) e2;
  (void) ref;
  (void) ref_offset;
  if (lblk < 0)
    add (w->v, TREE, *blk);
  else if (w->directory)
    add (w->v, DIRECTORY, *blk);
  return 0;
}

static void
find_targets (struct victim *v)
{
  struct filesystem *fs = image_open (v->md);
  ext2_filsys e2 = fs->e2;
  dgrp_t g;
  ext2_ino_t ino;

  add (v, SUPER, 1);
  for (g = 0; g < e2->desc_blocks; g++)
    add (v, DESC, 2 + g);
  for (g = 0; g < e2->group_desc_count; g++) {
    add (v, BITMAP, ext2fs_block_bitmap_loc (e2, g));
    add (v, BITMAP, ext2fs_inode_bitmap_loc (e2, g));
  }
  /* The inodes in use are in the first blocks of the first table. */
  for (g = 0; g < 20 * EXT2_INODE_SIZE (e2->super) / BLOCK; g++)
    add (v, INODE, ext2fs_inode_table_loc (e2, 0) + g);
  for (ino = EXT2_ROOT_INO; ino < 20; ino++) {
    struct walk w = { v, ext2fs_check_directory (e2, ino) == 0 };
    struct ext2_inode inode;

    if (ext2fs_read_inode (e2, ino, &inode) == 0 &&
        ext2fs_inode_has_valid_blocks2 (e2, &inode))
      ext2fs_block_iterate3 (e2, ino, BLOCK_FLAG_READ_ONLY, NULL, note_block,
                             &w);
  }
  image_close (fs, NULL);
}

/* With a deep tree, a directory, a symbolic link and allocated blocks
 * that are not written.
 */
static void
victim_init (struct victim *v, const char *args)
{
  struct filesystem *fs;
  struct inode *inode;
  uint64_t at;

  memset (v, 0, sizeof *v);
  v->args = args;
  v->md = image_make (args, IMAGE, files);
  image_debugfs (v->md, "mkdir dir");
  image_debugfs (v->md, "symlink dir/link ../deep");
  fs = image_open (v->md);
  inode = image_iget (fs, "/dir/link");
  for (at = 0; at + BLOCK < SIZE; at += 2 * BLOCK)
    assert_ok (file_trim (inode, BLOCK, at, 0));
  assert_ok (file_zero (inode, 40 * BLOCK, 100 * BLOCK, 0));
  image_close (fs, inode);
  image_assert_clean (v->md);
  find_targets (v);
}

static void
damage (struct victim *v, struct memdev *md, struct rng *rng)
{
  unsigned n = 1 + rng_below (rng, 6), bytes;

  while (n-- > 0) {
    enum kind k = rng_below (rng, KINDS);
    const struct target *t = &v->targets[k];
    uint8_t *p;

    if (t->count == 0)
      continue;
    p = md->mem + t->at[rng_below (rng, t->count)] * BLOCK
      + rng_below (rng, k == SUPER ? 400 : BLOCK);
    switch (rng_below (rng, 4)) {
    case 0:
      *p ^= 1u << rng_below (rng, 8);
      break;
    case 1:
      *p = rng_next (rng);
      break;
    case 2:                     /* a small number, where one fits */
      *p = rng_below (rng, 4);
      break;
    case 3:                     /* a field or two */
      p = md->mem + ((p - md->mem) & ~7ul);
      bytes = 1 + rng_below (rng, 8);
      memset (p, rng_below (rng, 2) ? 0xff : 0, bytes);
      break;
    }
  }
}

static int
count_piece (void *opaque, uint64_t offset, uint64_t count,
             enum map_state state)
{
  unsigned *left = opaque;

  (void) offset;
  (void) state;
  assert_true (count > 0);
  return (*left)-- == 0;
}

/* A range somewhere in a file whose size may be anything. */
static void
some_range (const struct inode *inode, struct rng *rng, uint64_t *count,
            uint64_t *offset)
{
  uint64_t most = rng_below (rng, 2) ? 3000 : 200000;

  *offset = 0;
  *count = 0;
  if (inode->size == 0)
    return;
  *offset = rng_below (rng, inode->size);
  if (rng_below (rng, 4))
    *offset %= SIZE;
  if (*offset >= inode->size)
    *offset = inode->size - 1;
  *count = rng_below (rng, most);
  if (*count > inode->size - *offset)
    *count = inode->size - *offset;
}

static void
use_file (struct inode *inode, struct rng *rng)
{
  static uint8_t buf[1 << 20];
  uint64_t count, offset;
  unsigned i, left = 5000;

  file_read (inode, buf, inode->size < sizeof buf ? inode->size
             : sizeof buf, 0);
  file_status (inode, inode->size, 0, count_piece, &left);
  for (i = 0; i < 12; i++) {
    some_range (inode, rng, &count, &offset);
    switch (rng_below (rng, 8)) {
    case 0:
      file_read (inode, buf, count, offset);
      break;
    case 1: case 2: case 3:
      file_write (inode, buf, count, offset,
                  rng_below (rng, 5) ? 0 : FILE_FUA);
      break;
    case 4:
      file_zero (inode, count, offset, 0);
      break;
    case 5:
      file_zero (inode, count, offset, FILE_MAY_TRIM);
      break;
    case 6:
      file_trim (inode, count, offset, 0);
      break;
    case 7:
      filesystem_flush (inode->fs);
      break;
    }
  }
  if (rng_below (rng, 3) == 0)
    file_trim (inode, inode->size, 0, FILE_FUA);
}

static void
use_image (struct memdev *md, struct rng *rng)
{
  static const char *const paths[] = { "/dir/link", "full", "tiny" };
  const struct filesystem_options opts = {
    .readonly = rng_below (rng, 5) == 0,
  };
  struct filesystem *fs;
  struct inode *inode[3] = { NULL };
  ext2_ino_t ino;
  unsigned i;

  if (filesystem_open (&md->dev, &opts, &fs) != 0)
    return;
  for (i = 0; i < 3; i++)
    if (path_resolve (fs, paths[i], &ino) != 0 ||
        iget (fs, ino, paths[i], &inode[i]) != 0)
      inode[i] = NULL;
  for (i = 0; i < 3; i++)
    if (inode[i])
      use_file (inode[i], rng);
  for (i = 0; i < 3; i++)
    if (inode[i])
      iput (inode[i]);
  filesystem_close (fs);
}

static unsigned
number (const char *name, unsigned otherwise)
{
  const char *s = getenv (name);

  return s ? strtoul (s, NULL, 10) : otherwise;
}

static void
run (const char *args)
{
  const unsigned n = number ("EXT2_HOSTILE", image_scale (250));
  const unsigned only = number ("EXT2_HOSTILE_ONLY", UINT32_MAX);
  struct victim v;
  struct memdev *md;
  struct rng rng;
  unsigned i;

  victim_init (&v, args);
  for (i = only < n ? only : 0; i < (only < n ? only + 1 : n); i++) {
    if (getenv ("V"))
      fprintf (stderr, "# %s: %u\n", args, i);
    rng.state = i;
    md = memdev_copy (v.md);
    damage (&v, md, &rng);
    alarm (30);                 /* it hangs: end the program */
    use_image (md, &rng);
    alarm (0);
    memdev_free (md);
  }
  memdev_free (v.md);
}

/* Leaves that begin behind, or before, where their parents say. */
static void
test_leaf_keys (void **state)
{
  struct victim v;
  unsigned i;
  int by;

  (void) state;
  victim_init (&v, "-t ext4 -b 1024 -N 64 -O ^metadata_csum,^has_journal");
  for (i = 0; i < v.targets[TREE].count; i++) {
    for (by = -1; by <= 1; by += 2) {
      struct memdev *md = memdev_copy (v.md);
      uint8_t *p = md->mem + v.targets[TREE].at[i] * BLOCK;
      struct rng rng = { i };
      uint32_t key;

      /* The first entry of a leaf or an index starts with its key. */
      memcpy (&key, p + 12, sizeof key);
      key += by;
      memcpy (p + 12, &key, sizeof key);
      use_image (md, &rng);
      memdev_free (md);
    }
  }
  memdev_free (v.md);
}

#define TEST(name, args)                                                \
  static void                                                           \
  name (void **state)                                                   \
  {                                                                     \
    (void) state;                                                       \
    run (args);                                                         \
  }

TEST (test_ext2, "-t ext2 -b 1024 -N 64")
TEST (test_ext3, "-t ext3 -b 1024 -N 64 -J size=1")
TEST (test_ext4, "-t ext4 -b 1024 -N 64 -O ^metadata_csum,^has_journal")
TEST (test_ext4_inline, "-t ext4 -b 1024 -N 64 -I 256 "
      "-O inline_data,^metadata_csum,uninit_bg -J size=1")
TEST (test_ext4_csum, "-t ext4 -b 1024 -N 64 -O metadata_csum -J size=1")
TEST (test_ext4_csum_groups, "-t ext4 -b 1024 -g 512 -N 64 "
      "-O metadata_csum,inline_data,^has_journal")
TEST (test_ext4_64bit, "-t ext4 -b 1024 -N 64 "
      "-O metadata_csum,64bit,metadata_csum_seed,^has_journal")
TEST (test_ext2_csum, "-t ext2 -b 1024 -N 64 -O metadata_csum")

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_leaf_keys),
    cmocka_unit_test (test_ext2),
    cmocka_unit_test (test_ext3),
    cmocka_unit_test (test_ext4),
    cmocka_unit_test (test_ext4_inline),
    cmocka_unit_test (test_ext4_csum),
    cmocka_unit_test (test_ext4_csum_groups),
    cmocka_unit_test (test_ext4_64bit),
    cmocka_unit_test (test_ext2_csum),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

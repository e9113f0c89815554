/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Files mapped by indirect blocks, up to triple indirect ones: in 1 KiB
 * blocks, with 256 pointers a table.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "map.h"

#define BLOCK UINT64_C (1024)
#define PER_TABLE UINT64_C (256)

/* First logical block of each kind. */
#define IND UINT64_C (12)
#define DIND (IND + PER_TABLE)
#define TIND (DIND + PER_TABLE * PER_TABLE)

/* Into the second double indirect block of the triple indirect one, and
 * not to the end of a block.
 */
#define SIZE ((TIND + PER_TABLE * PER_TABLE + 3 * PER_TABLE) * BLOCK - 77)

static const struct image_file files[] = {
  { "f", SIZE, false }, { NULL },
};

static uint64_t
free_blocks (struct memdev *md, struct filesystem **fs, struct inode **inode)
{
  image_close (*fs, *inode);
  image_assert_clean (md);
  *fs = image_open (md);
  *inode = image_iget (*fs, "f");
  return image_free_blocks (md);
}

static void
assert_filled (struct inode *inode, uint64_t lblk, uint8_t with)
{
  uint8_t data[BLOCK];
  unsigned i;

  assert_ok (file_read (inode, data, BLOCK, lblk * BLOCK));
  for (i = 0; i < BLOCK; i++)
    assert_int_equal (data[i], with);
}

static void
write_block (struct inode *inode, uint64_t lblk, uint8_t with)
{
  uint8_t data[BLOCK];

  memset (data, with, sizeof data);
  assert_ok (file_write (inode, data, BLOCK, lblk * BLOCK, 0));
}

static void
trim_block (struct inode *inode, uint64_t lblk)
{
  assert_ok (file_trim (inode, BLOCK, lblk * BLOCK, 0));
}

/* Two blocks under the same tables, given up one by one: the first takes
 * nothing with it, the second the TABLES that only they used.
 */
static void
one_level (struct memdev *md, uint64_t lblk, unsigned tables)
{
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  const uint64_t none = image_free_blocks (md);
  const uint32_t sectors = inode->raw->i_blocks;

  write_block (inode, lblk, 1);
  write_block (inode, lblk + 1, 2);
  assert_int_equal (free_blocks (md, &fs, &inode), none - tables - 2);
  assert_int_equal (inode->raw->i_blocks, sectors + 2 * (tables + 2));
  trim_block (inode, lblk);
  assert_filled (inode, lblk, 0);
  assert_filled (inode, lblk + 1, 2);
  assert_int_equal (free_blocks (md, &fs, &inode), none - tables - 1);
  assert_filled (inode, lblk + 1, 2);
  trim_block (inode, lblk + 1);
  assert_filled (inode, lblk + 1, 0);
  assert_int_equal (free_blocks (md, &fs, &inode), none);
  assert_int_equal (inode->raw->i_blocks, sectors);
  image_close (fs, inode);
}

static void
each_level (const char *args)
{
  struct memdev *md = image_make (args, UINT64_C (8) << 20, files);

  one_level (md, 0, 0);
  one_level (md, IND - 2, 0);
  one_level (md, IND, 1);
  one_level (md, DIND - 2, 1);
  one_level (md, DIND, 2);
  one_level (md, DIND + 77 * PER_TABLE + 5, 2);
  one_level (md, TIND - 2, 2);
  one_level (md, TIND, 3);
  one_level (md, TIND + PER_TABLE * PER_TABLE + PER_TABLE + 9, 3);
  memdev_free (md);
}

static void
test_each_level_ext2 (void **state)
{
  (void) state;
  each_level ("-t ext2 -b 1024");
}

static void
test_each_level_ext3 (void **state)
{
  (void) state;
  each_level ("-t ext3 -b 1024");
}

/* Tables go only when the last block under them does. */
static void
test_shared_tables (void **state)
{
  static const uint64_t at[] = {
    TIND, TIND + PER_TABLE, TIND + PER_TABLE * PER_TABLE, DIND, IND, 0,
  };
  /* Blocks and tables that go with each, in that order. */
  static const unsigned gone[] = { 2, 3, 4, 3, 2, 1 };
  struct memdev *md = image_make ("-t ext2 -b 1024", UINT64_C (8) << 20,
                                  files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  uint64_t before = image_free_blocks (md), now;
  unsigned i, k;

  (void) state;
  for (i = 0; i < 6; i++)
    write_block (inode, at[i], i + 1);
  now = free_blocks (md, &fs, &inode);
  assert_int_equal (before - now, 15);
  for (i = 0; i < 6; i++) {
    trim_block (inode, at[i]);
    before = now;
    now = free_blocks (md, &fs, &inode);
    assert_int_equal (now - before, gone[i]);
    for (k = 0; k < 6; k++)
      assert_filled (inode, at[k], k <= i ? 0 : k + 1);
  }
  image_close (fs, inode);
  memdev_free (md);
}

/* Somewhere near a place where something changes. */
static uint64_t
somewhere (struct rng *rng)
{
  static const uint64_t near[] = {
    0, IND, IND + 30, DIND, DIND + PER_TABLE, DIND + 100 * PER_TABLE, TIND,
    TIND + PER_TABLE, TIND + PER_TABLE * PER_TABLE, SIZE / BLOCK,
  };
  uint64_t at = near[rng_below (rng, sizeof near / sizeof *near)] * BLOCK
    + rng_below (rng, 40 * BLOCK);

  at = at > 20 * BLOCK ? at - 20 * BLOCK : at;
  return at < SIZE ? at : SIZE - 1;
}

static void
one_request (struct filesystem *fs, struct inode *inode, struct shadow *s,
             struct rng *rng)
{
  uint64_t at = somewhere (rng), n = 1 + rng_below (rng, 30 * BLOCK);
  unsigned flags = 0;

  if (rng_below (rng, 3) == 0)  /* across tables */
    n += rng_below (rng, 3) * PER_TABLE * BLOCK;
  if (n > SIZE - at)
    n = SIZE - at;
  switch (rng_below (rng, 6)) {
  case 0: case 1: case 2:
    if (n > 60 * BLOCK)
      n = 60 * BLOCK;
    rng_fill (rng, s->data + at, n);
    assert_ok (file_write (inode, s->data + at, n, at, 0));
    break;
  case 3:
    assert_ok (file_trim (inode, n, at, 0));
    shadow_trim (fs, s, n, at);
    break;
  case 4:
    flags = FILE_MAY_TRIM;
    __attribute__ ((__fallthrough__));
  case 5:
    memset (s->data + at, 0, n);
    assert_ok (file_zero (inode, n, at, flags));
    break;
  }
}

static void
random_requests (const char *args)
{
  struct memdev *md = image_make (args, UINT64_C (16) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  const uint64_t none = image_free_blocks (md);
  struct rng rng = { 4 };
  struct shadow s;
  unsigned round, i;

  shadow_init (&s, SIZE);
  for (round = 0; round < 4; round++) {
    for (i = 0; i < image_scale (400); i++)
      one_request (fs, inode, &s, &rng);
    shadow_assert_same (&s, inode);
    free_blocks (md, &fs, &inode);
  }
  image_assert_dump (md, "f", s.data, SIZE);
  /* Nothing has been lost on the way. */
  assert_ok (file_trim (inode, SIZE, 0, 0));
  assert_int_equal (free_blocks (md, &fs, &inode), none);
  image_close (fs, inode);
  shadow_free (&s);
  memdev_free (md);
}

static void
test_random_ext2 (void **state)
{
  (void) state;
  random_requests ("-t ext2 -b 1024");
}

static void
test_random_ext3 (void **state)
{
  (void) state;
  random_requests ("-t ext3 -b 1024 -J size=2");
}

/* One request that needs more than a hundred new tables, where there is
 * space for them.
 */
static void
test_large_write (void **state)
{
  const uint64_t n = UINT64_C (32) << 20, at = (DIND + 3) * BLOCK;
  struct memdev *md = image_make ("-t ext2 -b 1024", UINT64_C (48) << 20,
                                  files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  const uint64_t none = image_free_blocks (md);
  uint8_t *buf = malloc (n), *back = malloc (n);
  struct rng rng = { 5 };

  (void) state;
  assert_non_null (buf);
  assert_non_null (back);
  rng_fill (&rng, buf, n);
  assert_ok (file_write (inode, buf, n, at, 0));
  /* 128 full tables, one that is shared at each end, and their parent. */
  assert_int_equal (none - free_blocks (md, &fs, &inode),
                    n / BLOCK + n / BLOCK / PER_TABLE + 1 + 1);
  assert_ok (file_read (inode, back, n, at));
  assert_memory_equal (buf, back, n);
  assert_ok (file_trim (inode, SIZE, 0, 0));
  assert_int_equal (free_blocks (md, &fs, &inode), none);
  /* The same by zeroing, a block at a time being too slow. */
  assert_ok (file_zero (inode, n, at, 0));
  assert_int_equal (none - free_blocks (md, &fs, &inode),
                    n / BLOCK + n / BLOCK / PER_TABLE + 1 + 1);
  image_close (fs, inode);
  memdev_free (md);
  free (buf);
  free (back);
}

/* A damaged image: two pointers lead to one table, and it is freed by way
 * of one of them.  It must not be changed by way of the other: it may be
 * somebody else's by the time that is written.
 */
static void
test_freed_table (void **state)
{
  struct memdev *md = image_make ("-t ext3 -b 1024 -J size=1 -m 0",
                                  UINT64_C (16) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  uint8_t data[BLOCK] = { 1 };
  uint64_t tables;

  (void) state;
  write_block (inode, DIND + 5, 'a');
  tables = inode->raw->i_block[EXT2_DIND_BLOCK] * BLOCK;
  image_close (fs, inode);
  memcpy (md->mem + tables + 4, md->mem + tables, 4);

  fs = image_open (md);
  inode = image_iget (fs, "f");
  assert_non_null (fs->log);
  assert_filled (inode, DIND + PER_TABLE + 5, 'a');
  image_close (fs, inode);      /* or it would be known as that one's */

  fs = image_open (md);
  inode = image_iget (fs, "f");
  assert_ok (file_trim (inode, BLOCK, (DIND + 5) * BLOCK, 0));
  assert_int_equal (file_write (inode, data, BLOCK,
                                (DIND + PER_TABLE + 7) * BLOCK, 0),
                    EXT2_FILSYS_CORRUPTED);
  assert_ok (filesystem_flush (fs));
  iput (inode);
  filesystem_close (fs);
  memdev_free (md);
}

/* A table of the largest blocks, in the smallest groups, points at one run
 * of blocks that lies in more groups than are freed at once.  (The bitmaps
 * have these blocks free: what counts here is that it gets on.)
 */
static void
test_many_groups (void **state)
{
  static const struct image_file one[] = {
    { "f", UINT64_C (16400) << 16, false }, { NULL },
  };
  const uint32_t n = 65536 / 4;
  struct memdev *md = image_make ("-t ext3 -F -b 65536 -g 256 -N 2048 -m 0 "
                                  "-J size=64 -G 128 -E num_backup_sb=0 "
                                  "-O flex_bg,sparse_super2,^resize_inode",
                                  UINT64_C (80) * 256 << 16, one);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  struct reservation none = { 0 };
  uint64_t first = fs->blocks - n - 300, next = IND;
  struct mbuf *mb;
  uint32_t i, v;

  (void) state;
  assert_non_null (fs->log);
  first -= first % 256 + 100;   /* not at the beginning of a group */
  assert_true (filesystem_valid_data (fs, first, n));
  assert_ok (file_write (inode, "x", 1, IND << 16, 0));

  inode_lock_exclusive (inode, 0, UINT64_MAX);
  inode_map_lock_exclusive (inode);
  lock_acquire (&fs->lock);
  assert_ok (mcache_read (fs->mc, inode->raw->i_block[EXT2_IND_BLOCK], &mb));
  for (i = 0; i < n; i++) {
    v = ext2fs_cpu_to_le32 (first + i);
    memcpy (mb->data + i * 4, &v, sizeof v);
  }
  mcache_unpin (fs->mc, mb);
  assert_ok (inode_begin_change (inode));
  assert_ok (map_remove (inode, IND, IND + n, &none, &next));
  assert_true (next > IND);
  assert_true (next < IND + n);
  assert_ok (inode_write (inode));
  lock_release (&fs->lock);
  inode_map_unlock_exclusive (inode);
  inode_unlock_exclusive (inode);

  iput (inode);
  filesystem_close (fs);
  memdev_free (md);
}

/* A damaged image where one table is at two places: what is taken away
 * at one would be lost at the other.  Block KNOWN is reached by way of it,
 * and OTHER would be.
 */
static void
assert_refused (struct memdev *md, uint64_t known, uint64_t other)
{
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  uint8_t data[BLOCK];
  unsigned errors;

  assert_filled (inode, known, 1);
  errors = image_errors ();
  assert_int_equal (file_read (inode, data, BLOCK, other * BLOCK),
                    EXT2_FILSYS_CORRUPTED);
  assert_int_equal (image_errors (), errors + 1);
  assert_int_equal (file_write (inode, data, BLOCK, other * BLOCK, 0),
                    EXT2_FILSYS_CORRUPTED);
  assert_int_equal (file_trim (inode, BLOCK, other * BLOCK, 0),
                    EXT2_FILSYS_CORRUPTED);
  assert_filled (inode, known, 1);
  iput (inode);
  filesystem_close (fs);
}

/* An image with a block at LBLK, and its inode's pointers. */
static struct memdev *
with_block (uint64_t lblk, uint32_t pointers[EXT2_N_BLOCKS])
{
  struct memdev *md = image_make ("-t ext2 -b 1024", UINT64_C (8) << 20,
                                  files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");

  write_block (inode, lblk, 1);
  memcpy (pointers, inode->raw->i_block, EXT2_N_BLOCKS * sizeof *pointers);
  image_close (fs, inode);
  return md;
}

static void
test_two_places (void **state)
{
  uint32_t pointers[EXT2_N_BLOCKS];
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md;
  uint8_t *table, data[BLOCK];
  char command[64];

  (void) state;
  /* A last table. */
  md = with_block (DIND, pointers);
  table = md->mem + pointers[EXT2_DIND_BLOCK] * BLOCK;
  memcpy (table + 4, table, 4);
  assert_refused (md, DIND, DIND + PER_TABLE);
  memdev_free (md);

  /* A table of tables. */
  md = with_block (TIND, pointers);
  table = md->mem + pointers[EXT2_TIND_BLOCK] * BLOCK;
  memcpy (table + 4, table, 4);
  assert_refused (md, TIND, TIND + PER_TABLE * PER_TABLE);
  memdev_free (md);

  /* A table of tables as a last one. */
  md = with_block (DIND, pointers);
  snprintf (command, sizeof command, "sif f block[IND] %u",
            pointers[EXT2_DIND_BLOCK]);
  image_debugfs (md, command);
  assert_refused (md, DIND, IND);
  memdev_free (md);

  /* The triple indirect one as a double one, for the same first block. */
  md = with_block (TIND + PER_TABLE * PER_TABLE, pointers);
  table = md->mem + pointers[EXT2_TIND_BLOCK] * BLOCK;
  memcpy (table, &pointers[EXT2_TIND_BLOCK], 4);
  fs = image_open (md);
  inode = image_iget (fs, "f");
  assert_int_equal (file_read (inode, data, BLOCK,
                               (TIND + PER_TABLE) * BLOCK),
                    EXT2_FILSYS_CORRUPTED);
  iput (inode);
  filesystem_close (fs);
  memdev_free (md);
}

/* The last pointer that there is, then a hole: not one run, and not the
 * end of a filesystem that has more blocks.
 */
static void
test_last_pointer (void **state)
{
  struct memdev *md = image_make ("-t ext2 -b 1024", UINT64_C (8) << 20,
                                  files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  const uint64_t blocks = fs->blocks;
  struct mapping m;
  unsigned i;

  (void) state;
  inode_map_lock_exclusive (inode);
  inode->raw->i_block[2] = 0xfffffffe;
  inode->raw->i_block[3] = 0xffffffff;
  for (i = 32; i <= 33; i++) {
    fs->blocks = UINT64_C (1) << i;
    assert_ok (map_lookup (inode, 2, 10, &m));
    assert_int_equal (m.state, MAP_WRITTEN);
    assert_int_equal (m.pblk, 0xfffffffe);
    assert_int_equal (m.len, 2);
    /* No more than asked for. */
    assert_ok (map_lookup (inode, 2, 1, &m));
    assert_int_equal (m.len, 1);
  }
  fs->blocks = blocks;
  inode->raw->i_block[2] = inode->raw->i_block[3] = 0;
  inode_map_unlock_exclusive (inode);
  image_close (fs, inode);
  memdev_free (md);
}

/* A device that says something else when it is asked again: the N-th time
 * that the table is read, the pointer on the way is gone.
 */
static struct {
  uint64_t blkno;
  unsigned reads, n;
  uint8_t pointer[4];
} changing;

extern errcode_t __real_mcache_read (struct mcache *mc, uint64_t blkno,
                                     struct mbuf **mbp);
extern errcode_t __wrap_mcache_read (struct mcache *mc, uint64_t blkno,
                                     struct mbuf **mbp);

errcode_t
__wrap_mcache_read (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  errcode_t err = __real_mcache_read (mc, blkno, mbp);

  if (!err && changing.blkno && blkno == changing.blkno) {
    if (++changing.reads == changing.n)
      memset ((*mbp)->data, 0, sizeof changing.pointer);
    else
      memcpy ((*mbp)->data, changing.pointer, sizeof changing.pointer);
  }
  return err;
}

static void
test_changing (void **state)
{
  struct memdev *md = image_make ("-t ext2 -b 1024", UINT64_C (8) << 20,
                                  files);
  unsigned n, failed = 0;
  bool reached = true;

  (void) state;
  for (n = 1; reached; n++) {
    struct filesystem *fs = image_open (md);
    struct inode *inode = image_iget (fs, "f");

    write_block (inode, DIND, 1);
    assert_ok (filesystem_flush (fs));
    image_close (fs, inode);
    fs = image_open (md);
    inode = image_iget (fs, "f");
    memcpy (changing.pointer, md->mem + inode->raw->i_block[13] * BLOCK, 4);
    changing.reads = 0;
    changing.n = n;
    changing.blkno = inode->raw->i_block[13];
    failed += file_trim (inode, BLOCK, DIND * BLOCK, 0) != 0;
    reached = changing.reads >= n;
    changing.blkno = 0;
    image_close (fs, inode);
  }
  assert_true (n > 2);
  assert_true (failed > 0);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_each_level_ext2),
    cmocka_unit_test (test_each_level_ext3),
    cmocka_unit_test (test_shared_tables),
    cmocka_unit_test (test_random_ext2),
    cmocka_unit_test (test_random_ext3),
    cmocka_unit_test (test_large_write),
    cmocka_unit_test (test_freed_table),
    cmocka_unit_test (test_many_groups),
    cmocka_unit_test (test_two_places),
    cmocka_unit_test (test_last_pointer),
    cmocka_unit_test (test_changing),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

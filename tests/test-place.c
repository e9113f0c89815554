/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Where the blocks of files come to lie: alloc-find.c's windows.  In most
 * images there is something in the way: without flex_bg each group of 8
 * MiB begins with its metadata, and somewhere is the journal.
 */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "map.h"

#define MIB (UINT64_C (1) << 20)
#define PIECE ((uint64_t) 64 << 10)
#define SIZE (64 * MIB)
#define PIECES (SIZE / PIECE)

static const uint8_t data[PIECE] = { 1, 2, 3 };

static const struct image_file two_files[] = {
  { "f", SIZE, false }, { "g", SIZE, false }, { NULL },
};

struct layout {
  unsigned runs;                /* contiguous pieces of the file */
  unsigned crooked;             /* of them, not aligned as the file is */
};

static struct layout
layout_of (struct inode *inode)
{
  const uint64_t blocks = inode->size >> inode->fs->block_bits;
  const uint64_t align = PIECE >> inode->fs->block_bits;
  struct layout l = { 0, 0 };
  struct mapping m;
  uint64_t at, follows = 0;

  for (at = 0; at < blocks; at += m.len) {
    inode_map_lock_shared (inode);
    assert_ok (map_lookup (inode, at, UINT64_MAX, &m));
    inode_map_unlock_shared (inode);
    if (m.state == MAP_HOLE)
      continue;
    if (m.pblk != follows) {
      l.runs++;
      l.crooked += (m.pblk - at) % align != 0;
    }
    follows = m.pblk + m.len;
  }
  return l;
}

static void
assert_layout (struct inode *inode, unsigned most)
{
  struct layout l = layout_of (inode);

  if (getenv ("V") || l.runs > most || l.crooked > 0)
    fprintf (stderr, "%u runs, %u of them not aligned; at most %u\n", l.runs,
             l.crooked, most);
  assert_true (l.runs <= most);
  assert_int_equal (l.crooked, 0);
}

static void
finish (struct memdev *md, struct filesystem *fs, struct inode *f)
{
  image_close (fs, f);
  image_assert_clean (md);
  memdev_free (md);
}

/* Several threads in each of several parts of a file. */

#define PARTS 4u
#define THREADS (3 * PARTS)

struct writer {
  pthread_t thread;
  struct inode *inode;
  uint64_t at, end, step;
  errcode_t err;
};

static void *
write_part (void *opaque)
{
  struct writer *w = opaque;

  for (; w->at < w->end && !w->err; w->at += w->step)
    w->err = file_write (w->inode, data, PIECE, w->at, 0);
  return NULL;
}

static void
write_in_parts (struct inode *inode)
{
  const uint64_t part = SIZE / PARTS;
  struct writer w[THREADS];
  unsigned i;

  memset (w, 0, sizeof w);
  for (i = 0; i < THREADS; i++) {
    w[i].inode = inode;
    w[i].at = i % PARTS * part + i / PARTS * PIECE;
    w[i].end = (i % PARTS + 1) * part;
    w[i].step = THREADS / PARTS * PIECE;
    assert_int_equal (pthread_create (&w[i].thread, NULL, write_part, &w[i]),
                      0);
  }
  for (i = 0; i < THREADS; i++) {
    pthread_join (w[i].thread, NULL);
    assert_ok (w[i].err);
  }
}

static void
several_writers (const char *args, uint64_t size, unsigned most)
{
  struct memdev *md = image_make (args, size, two_files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f");

  md->delay_us = 100;
  write_in_parts (f);
  md->delay_us = 0;
  assert_layout (f, most);
  finish (md, fs, f);
}

static void
test_several_writers (void **state)
{
  (void) state;
  several_writers ("-t ext4 -b 4096 -m 0 -J size=8", 84 * MIB, 12);
  several_writers ("-t ext4 -b 1024 -O ^flex_bg,^resize_inode -J size=4",
                   108 * MIB, 96);
}

/* Tables of pointers lie in between. */
static void
test_several_writers_indirect (void **state)
{
  (void) state;
  several_writers ("-t ext2 -b 1024 -O ^resize_inode", 108 * MIB, 96);
}

/* All pieces, in an order that visits everywhere from the start. */
static uint64_t
scattered (uint64_t i)
{
  return i * 617 % PIECES * PIECE;
}

static void
test_scattered (void **state)
{
  static const char *const kinds[] = {
    "-t ext4 -b 1024 -O ^flex_bg,^resize_inode -J size=4",
    "-t ext2 -b 1024 -O ^resize_inode",
  };
  unsigned k;
  uint64_t i;

  (void) state;
  for (k = 0; k < 2; k++) {
    struct memdev *md = image_make (kinds[k], 108 * MIB, two_files);
    struct filesystem *fs = image_open (md);
    struct inode *f = image_iget (fs, "f");

    for (i = 0; i < PIECES; i++)
      assert_ok (file_write (f, data, PIECE, scattered (i), 0));
    assert_layout (f, 48);
    finish (md, fs, f);
  }
}

/* One block after the other, which is neighbours at last.  A prime that
 * divides no size here.
 */
static uint64_t
scattered_block (uint64_t i, uint64_t blocks)
{
  return i * 7919 % blocks;
}

static void
test_scattered_blocks (void **state)
{
  static const char *const kinds[] = {
    "-t ext4 -b 4096 -J size=4", "-t ext2 -b 4096", "-t ext2 -b 1024",
  };
  const uint64_t most = SIZE / 2;       /* of the file */
  unsigned k;
  uint64_t i;

  (void) state;
  for (k = 0; k < 3; k++) {
    struct memdev *md = image_make (kinds[k], 108 * MIB, two_files);
    struct filesystem *fs = image_open (md);
    struct inode *f = image_iget (fs, "f");
    const uint64_t bs = fs->block_size;

    for (i = 0; i < most / bs; i++)
      assert_ok (file_write (f, data, bs,
                             scattered_block (i, most / bs) * bs, 0));
    /* Blocks of the tree, too, have come to lie in its way. */
    assert_layout (f, 64);
    finish (md, fs, f);
  }
}

/* With no window free, the pieces there are. */
static void
test_fragmented (void **state)
{
  static const struct { unsigned every, most; } cases[] = {
    { 1024, 600 }, { 256, 900 }, { 64, 1600 },
  };
  const uint64_t blocks = SIZE / 4 / 1024;
  unsigned k;
  uint64_t i;

  (void) state;
  for (k = 0; k < 3; k++) {
    struct memdev *md = image_make ("-t ext4 -b 1024 -m 0 -J size=4",
                                    78 * MIB, two_files);
    struct filesystem *fs = image_open (md);
    struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
    const uint64_t step = cases[k].every * 1024;
    struct layout l;

    for (i = 0; i < SIZE; i += PIECE)
      assert_ok (file_write (g, data, PIECE, i, 0));
    for (i = 0; i < SIZE; i += step)
      assert_ok (file_trim (g, step - 1024, i, 0));
    assert_ok (filesystem_flush (fs));
    syncer_drain (fs);
    for (i = 0; i < blocks; i++)
      assert_ok (file_write (f, data, 1024,
                             scattered_block (i, blocks) * 1024, 0));
    l = layout_of (f);
    if (getenv ("V") || l.runs > cases[k].most)
      fprintf (stderr, "every %u: %u runs\n", cases[k].every, l.runs);
    assert_true (l.runs <= cases[k].most);
    iput (g);
    finish (md, fs, f);
  }
}

/* Files that grow at the same time do not alternate. */
static void
test_two_files (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 4096 -J size=8", 160 * MIB,
                                  two_files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
  uint64_t at;

  (void) state;
  for (at = 0; at < SIZE; at += PIECE) {
    assert_ok (file_write (f, data, PIECE, at, 0));
    assert_ok (file_write (g, data, PIECE, at, 0));
  }
  assert_layout (f, 12);
  assert_layout (g, 12);
  iput (g);
  finish (md, fs, f);
}

/* What is trimmed and written again goes where it was. */
static void
test_trimmed (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 4096 -J size=8", 160 * MIB,
                                  two_files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f");
  struct layout before;
  unsigned i;

  (void) state;
  for (i = 0; i < PIECES; i++)
    assert_ok (file_write (f, data, PIECE, i * PIECE, 0));
  before = layout_of (f);
  assert_ok (file_trim (f, 5 * MIB, 20 * MIB, 0));
  assert_ok (file_trim (f, PIECE, 40 * MIB + PIECE, 0));
  assert_true (layout_of (f).runs > before.runs);
  /* Until then the old blocks are not to be had. */
  assert_ok (filesystem_flush (fs));
  syncer_drain (fs);
  for (i = 0; i < 5 * MIB / PIECE; i++)
    assert_ok (file_write (f, data, PIECE, 20 * MIB + i * PIECE, 0));
  assert_ok (file_write (f, data, PIECE, 40 * MIB + PIECE, 0));
  assert_int_equal (layout_of (f).runs, before.runs);
  finish (md, fs, f);
}

/* A window that has room left is no loss when there are no others. */
static void
test_full (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 4096 -m 0 -J size=4", 48 * MIB,
                                  two_files);
  struct filesystem *fs = image_open (md);
  struct inode *f = image_iget (fs, "f"), *g = image_iget (fs, "g");
  errcode_t err = 0;
  uint64_t i;

  (void) state;
  /* One block each to all windows, then all. */
  for (i = 0; i < SIZE && !err; i += 2 * MIB)
    err = file_write (g, data, 4096, i, 0);
  assert_ok (err);
  for (i = 0; i < PIECES && !err; i++)
    err = file_write (f, data, PIECE, scattered (i), 0);
  assert_int_equal (err, EXT2_ET_BLOCK_ALLOC_FAIL);
  iput (g);
  image_close (fs, f);
  assert_true (image_free_blocks (md) <= MAP_MAX_META);
  image_assert_clean (md);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_several_writers),
    cmocka_unit_test (test_several_writers_indirect),
    cmocka_unit_test (test_scattered),
    cmocka_unit_test (test_scattered_blocks),
    cmocka_unit_test (test_fragmented),
    cmocka_unit_test (test_two_files),
    cmocka_unit_test (test_trimmed),
    cmocka_unit_test (test_full),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

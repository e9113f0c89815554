/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A device that does not answer one call: what does not need that answer
 * is done meanwhile.  Nothing here measures time: what must not wait is
 * done while the call is held, and if it waited it would wait for ever.
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "jbd2.h"
#include "map.h"

#define BLOCK 1024
#define SIZE (UINT64_C (400) * BLOCK)

/* Ended by this: nothing takes that long.  Seconds. */
#define HANG 300

static const char *const kinds[] = {
  "-t ext4 -b 1024 -J size=1 -N 32", "-t ext4 -b 1024 -O ^has_journal -N 32",
  "-t ext3 -b 1024 -J size=1 -N 32", "-t ext2 -b 1024 -N 32",
};
#define KINDS (sizeof kinds / sizeof kinds[0])

static const struct image_file files[] = {
  { "one", SIZE, true }, { "two", SIZE, true }, { "hole", SIZE, false },
  { NULL, 0, false },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *one, *two, *hole;
};

static void
setup_init (struct setup *s, const char *args)
{
  s->md = image_make (args, UINT64_C (4) << 20, files);
  s->fs = image_open (s->md);
  s->one = image_iget (s->fs, "one");
  s->two = image_iget (s->fs, "two");
  s->hole = image_iget (s->fs, "hole");
  alarm (HANG);
}

static void
setup_end (struct setup *s)
{
  iput (s->one);
  iput (s->two);
  image_close (s->fs, s->hole);
  image_assert_clean (s->md);
  memdev_free (s->md);
  alarm (0);
}

/* A request in a thread of its own, which is to wait. */
struct waiting {
  pthread_t thread;
  struct filesystem *fs;
  struct inode *inode;          /* NULL: a flush */
  bool write;
  uint64_t offset;
  atomic_bool done;
};

static void *
wait_for_it (void *opaque)
{
  struct waiting *w = opaque;
  uint8_t buf[BLOCK];

  memset (buf, 'w', sizeof buf);
  if (w->inode == NULL)
    must (filesystem_flush (w->fs) == 0);
  else if (w->write)
    must (file_write (w->inode, buf, sizeof buf, w->offset, 0) == 0);
  else
    must (file_read (w->inode, buf, sizeof buf, w->offset) == 0);
  atomic_store (&w->done, true);
  return NULL;
}

static void
start (struct waiting *w, struct setup *s)
{
  w->fs = s->fs;
  must (pthread_create (&w->thread, NULL, wait_for_it, w) == 0);
}

static void
finish (struct waiting *w)
{
  pthread_join (w->thread, NULL);
  must (atomic_load (&w->done));
}

static uint64_t
place_of (struct inode *inode, uint64_t lblk)
{
  struct mapping m;

  inode_map_lock_shared (inode);
  assert_ok (map_lookup (inode, lblk, 1, &m));
  inode_map_unlock_shared (inode);
  assert_int_equal (m.state, MAP_WRITTEN);
  return m.pblk * BLOCK;
}

/* All that there is but flushes, in all files, at different places for
 * each TURN: in other units of the file's lock than the first.
 */
static void
everything (struct setup *s, unsigned turn)
{
  const uint64_t at = (UINT64_C (1) << SPREAD_UNIT_BITS) + 20 * turn * BLOCK;
  struct inode *const inodes[] = { s->one, s->two, s->hole };
  uint8_t buf[3000], back[3000];
  unsigned i;

  memset (buf, 'a' + turn, sizeof buf);
  for (i = 0; i < 3; i++) {
    assert_ok (file_read (inodes[i], back, sizeof back, at));
    assert_ok (file_write (inodes[i], buf, sizeof buf, at + 7, 0));
    assert_ok (file_read (inodes[i], back, sizeof back, at + 7));
    assert_memory_equal (buf, back, sizeof buf);
    assert_ok (file_trim (inodes[i], 2 * BLOCK, at + 4 * BLOCK, 0));
    assert_ok (file_zero (inodes[i], 2 * BLOCK, at + 8 * BLOCK, 0));
    assert_ok (file_zero (inodes[i], 2 * BLOCK, at + 12 * BLOCK,
                          FILE_MAY_TRIM));
  }
}

/* A flush of the device takes long: only other flushes wait. */
static void
slow_flush (const char *args)
{
  struct setup s;
  struct waiting first = { .inode = NULL }, second = { .inode = NULL };

  setup_init (&s, args);
  everything (&s, 0);
  memdev_hold_flush (s.md, true);
  start (&first, &s);
  memdev_wait_held (s.md);
  everything (&s, 1);
  start (&second, &s);
  everything (&s, 2);
  assert_false (atomic_load (&first.done));
  assert_false (atomic_load (&second.done));
  memdev_hold_flush (s.md, false);
  finish (&first);
  finish (&second);
  everything (&s, 3);
  setup_end (&s);
}

/* What a commit writes does not end: into the journal a block that starts
 * with the magic number, or in place the block of the inodes.
 */
static void
hold_commit (struct setup *s, bool hold)
{
  ext2_filsys e2 = s->fs->e2;
  const uint64_t blk = ext2fs_inode_table_loc (e2, 0) +
    (s->one->ino - 1) * EXT2_INODE_SIZE (e2->super) / BLOCK;

  if (s->fs->journal)
    memdev_hold_byte (s->md, hold ? JBD2_MAGIC >> 24 : 0);
  else
    memdev_hold (s->md, hold ? blk * BLOCK : 0);
}

/* A write of a commit takes long: so does the flush that waits for it, and
 * nothing else.
 */
static void
slow_commit (const char *args)
{
  struct waiting flush = { .inode = NULL };
  struct setup s;

  setup_init (&s, args);
  everything (&s, 0);
  hold_commit (&s, true);
  start (&flush, &s);
  memdev_wait_held (s.md);
  everything (&s, 1);
  everything (&s, 2);
  assert_false (atomic_load (&flush.done));
  hold_commit (&s, false);
  finish (&flush);
  everything (&s, 3);
  setup_end (&s);
}

/* A read of data, and an overwrite, take long: neither other requests nor
 * flushes wait.
 */
static void
slow_data (const char *args)
{
  struct waiting reader = { .write = false, .offset = 5 * BLOCK };
  struct waiting writer = { .write = true, .offset = 5 * BLOCK };
  struct setup s;

  setup_init (&s, args);
  reader.inode = s.one;
  writer.inode = s.two;
  memdev_hold (s.md, place_of (s.one, 5));
  start (&reader, &s);
  memdev_wait_held (s.md);
  everything (&s, 0);
  assert_ok (filesystem_flush (s.fs));
  assert_false (atomic_load (&reader.done));
  memdev_hold (s.md, 0);
  finish (&reader);

  memdev_hold (s.md, place_of (s.two, 5));
  start (&writer, &s);
  memdev_wait_held (s.md);
  everything (&s, 1);
  assert_ok (filesystem_flush (s.fs));
  assert_false (atomic_load (&writer.done));
  memdev_hold (s.md, 0);
  finish (&writer);
  setup_end (&s);
}

/* The data of a write into a hole take long, whose blocks are reserved
 * only: other fills of the same file go on, and what is flushed is
 * consistent.
 */
static void
slow_fill (const char *args)
{
  struct waiting writer = { .write = true, .offset = 5 * BLOCK };
  struct memdev *then;
  struct setup s;

  setup_init (&s, args);
  writer.inode = s.hole;
  memdev_hold_byte (s.md, 'w');
  start (&writer, &s);
  memdev_wait_held (s.md);
  everything (&s, 0);
  everything (&s, 1);
  assert_ok (filesystem_flush (s.fs));
  assert_false (atomic_load (&writer.done));
  syncer_drain (s.fs);          /* no other write is under way */
  then = memdev_copy (s.md);
  memdev_hold_byte (s.md, 0);
  finish (&writer);
  assert_in_range (image_fsck (then, "-fp", 1), 0, 1);
  memdev_free (then);
  setup_end (&s);
}

/* The device is slow with a block of a file's tree: the other files are
 * served.
 */
static void
slow_tree (const char *args)
{
  struct waiting reader = { .write = false };
  uint8_t buf[BLOCK];
  struct setup s;
  uint64_t leaf, at;

  /* Blocks apart, so that there is a tree, whose last block is the one
   * that was allocated before the last data.
   */
  setup_init (&s, args);
  memset (buf, 'x', sizeof buf);
  for (at = 0; at < SIZE; at += 2 * BLOCK)
    assert_ok (file_write (s.hole, buf, sizeof buf, at, 0));
  leaf = s.hole->kind == MAPPED_BY_BLOCKS
    ? s.hole->raw->i_block[12] * UINT64_C (1024)
    : ((struct ext3_extent_idx *) (s.hole->raw->i_block + 3))->ei_leaf *
    UINT64_C (1024);
  assert_int_not_equal (leaf, 0);
  iput (s.hole);
  iput (s.one);
  iput (s.two);
  assert_ok (filesystem_close (s.fs));

  s.fs = image_open (s.md);
  s.one = image_iget (s.fs, "one");
  s.two = image_iget (s.fs, "two");
  s.hole = image_iget (s.fs, "hole");
  reader.inode = s.hole;
  reader.offset = 20 * BLOCK;
  memdev_hold (s.md, leaf);
  start (&reader, &s);
  memdev_wait_held (s.md);
  for (at = 0; at < SIZE; at += BLOCK) {
    assert_ok (file_read (s.one, buf, sizeof buf, at));
    assert_ok (file_write (s.two, buf, sizeof buf, at, 0));
  }
  assert_ok (file_trim (s.one, 20 * BLOCK, 20 * BLOCK, 0));
  assert_ok (file_write (s.one, buf, sizeof buf, 30 * BLOCK, 0));
  assert_ok (filesystem_flush (s.fs));
  assert_false (atomic_load (&reader.done));
  memdev_hold (s.md, 0);
  finish (&reader);
  setup_end (&s);
}

static void
each (void (*test) (const char *))
{
  size_t i;

  for (i = 0; i < KINDS; i++)
    test (kinds[i]);
}

#define TEST(name)                              \
  static void                                   \
  test_##name (void **state)                    \
  {                                             \
    (void) state;                               \
    each (name);                                \
  }

TEST (slow_flush)
TEST (slow_commit)
TEST (slow_data)
TEST (slow_fill)
TEST (slow_tree)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_slow_flush),
    cmocka_unit_test (test_slow_commit),
    cmocka_unit_test (test_slow_data),
    cmocka_unit_test (test_slow_fill),
    cmocka_unit_test (test_slow_tree),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A request that the device does not answer holds up trims and zeros of
 * its range, and not those of the rest of the file; and what these change
 * there does not harm it.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "map.h"

#define UNIT (UINT64_C (1) << SPREAD_UNIT_BITS)
#define BYTE 0xa5               /* what is written here */

struct request {
  pthread_t thread;
  struct inode *inode;
  enum { READ, WRITE, TRIM, ZERO } what;
  uint64_t offset, count;
  atomic_bool done;
};

static void *
make_request (void *opaque)
{
  struct request *r = opaque;
  uint8_t *buf = malloc (r->count);

  must (buf != NULL);
  memset (buf, BYTE, r->count);
  switch (r->what) {
  case READ:
    must (file_read (r->inode, buf, r->count, r->offset) == 0);
    break;
  case WRITE:
    must (file_write (r->inode, buf, r->count, r->offset, 0) == 0);
    break;
  case TRIM:
    must (file_trim (r->inode, r->count, r->offset, 0) == 0);
    break;
  case ZERO:
    must (file_zero (r->inode, r->count, r->offset, 0) == 0);
    break;
  }
  atomic_store (&r->done, true);
  free (buf);
  return NULL;
}

static void
start_request (struct request *r, struct inode *inode)
{
  r->inode = inode;
  must (pthread_create (&r->thread, NULL, make_request, r) == 0);
}

static uint64_t
place_of (struct inode *inode, uint64_t offset)
{
  const unsigned bits = inode->fs->block_bits;
  struct mapping m;

  inode_map_lock_shared (inode);
  assert_ok (map_lookup (inode, offset >> bits, 1, &m));
  inode_map_unlock_shared (inode);
  assert_int_equal (m.state, MAP_WRITTEN);
  return (m.pblk << bits) + (offset & ((1u << bits) - 1));
}

#define EXT4 "-t ext4 -b 1024"

static struct memdev *
one_file (const char *args, uint64_t size, bool filled,
          struct filesystem **fs, struct inode **inode)
{
  const struct image_file list[] = { { "file", size, filled }, { NULL } };
  struct memdev *md = image_make (args, size + (12 << 20), list);

  *fs = image_open (md);
  *inode = image_iget (*fs, "file");
  return md;
}

static void
test_elsewhere (void **state)
{
  static const uint8_t zeros[512];
  uint8_t buf[512];
  struct request reader = {
    .what = READ, .offset = 3 * UNIT - 512, .count = 512,
  };
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md = one_file (EXT4, 8 * UNIT, true, &fs, &inode);

  (void) state;
  memdev_hold (md, place_of (inode, 3 * UNIT - 1));
  start_request (&reader, inode);
  memdev_wait_held (md);
  assert_ok (file_trim (inode, 2 * UNIT, 0, 0));
  assert_ok (file_trim (inode, UNIT, 3 * UNIT, 0));
  assert_ok (file_zero (inode, UNIT, 4 * UNIT, 0));
  assert_ok (file_zero (inode, UNIT, 5 * UNIT, FILE_MAY_TRIM));
  assert_ok (filesystem_flush (fs));
  memset (buf, 0x5a, sizeof buf);
  assert_ok (file_write (inode, buf, sizeof buf, UNIT, 0));
  assert_ok (file_read (inode, buf, sizeof buf, 3 * UNIT));
  assert_memory_equal (buf, zeros, sizeof buf);
  assert_ok (file_read (inode, buf, sizeof buf, 3 * UNIT - 1024));
  assert_memory_not_equal (buf, zeros, sizeof buf);
  assert_false (atomic_load (&reader.done));
  memdev_hold (md, 0);
  pthread_join (reader.thread, NULL);
  image_close (fs, inode);
  image_assert_clean (md);
  memdev_free (md);
}

static void
test_overlapping (void **state)
{
  /* The first covers the end of unit 2, unit 3, and some of 4, and stays
   * in its first block.
   */
  static const struct request first[] = {
    { .what = READ, .offset = 3 * UNIT - 512, .count = UNIT + 4096 },
    { .what = WRITE, .offset = 3 * UNIT - 512, .count = UNIT + 4096 },
    { .what = ZERO, .offset = 3 * UNIT - 1024, .count = UNIT + 4096 },
  };
  static const struct request second[] = {
    { .what = TRIM, .offset = 4 * UNIT + 1024, .count = 1024 },
    { .what = TRIM, .offset = 0, .count = 2 * UNIT + 1024 },
    { .what = ZERO, .offset = 4 * UNIT + 1024, .count = 1024 },
    { .what = ZERO, .offset = 0, .count = 2 * UNIT + 1024 },
  };
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md = one_file (EXT4, 8 * UNIT, true, &fs, &inode);
  unsigned i, j;

  (void) state;
  for (i = 0; i < 12; i++) {
    struct request whole = { .what = WRITE, .count = 8 * UNIT };
    struct request a = first[i / 4], b = second[i % 4];

    /* Zeros are unwritten extents, or in place where the device is fast;
     * two of those need not wait for each other.
     */
    md->dev.can_fast_zero = a.what == ZERO;
    if (a.what == ZERO && b.what == ZERO)
      continue;
    whole.inode = inode;
    make_request (&whole);
    memdev_hold (md, place_of (inode, 3 * UNIT - 1));
    start_request (&a, inode);
    memdev_wait_held (md);
    start_request (&b, inode);
    /* Most close the lock and wait; time for the others. */
    for (j = 0; j < 200 && !atomic_load (&b.done) &&
           atomic_load (&inode->io_lock.closed) == 0; j++)
      usleep (500);
    usleep (1000);
    assert_false (atomic_load (&b.done));
    assert_false (atomic_load (&a.done));
    memdev_hold (md, 0);
    pthread_join (a.thread, NULL);
    pthread_join (b.thread, NULL);
  }
  image_close (fs, inode);
  image_assert_clean (md);
  memdev_free (md);
}

/* What a reader remembers of a long run is never older than a trim of
 * another part of it.
 */

#define PART (UINT64_C (1) << 20)       /* of runs.c, in this file */

struct rereader {
  pthread_t thread;
  struct inode *inode;
  atomic_uint part;
  atomic_bool stop;
};

static void *
read_again (void *opaque)
{
  struct rereader *r = opaque;
  uint8_t byte;

  while (!atomic_load (&r->stop))
    must (file_read (r->inode, &byte, 1, atomic_load (&r->part) * PART) == 0);
  return NULL;
}

static void
test_runs (void **state)
{
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md = one_file (EXT4, 8 * PART, true, &fs, &inode);
  struct rereader r = { .inode = inode };
  static const uint8_t zeros[2048];
  uint8_t buf[2048];
  uint64_t part, at;

  (void) state;
  must (pthread_create (&r.thread, NULL, read_again, &r) == 0);
  for (part = 0; part < 8; part++) {
    atomic_store (&r.part, part);
    /* From the end, so that a run of half the part is left.  After the
     * first trim the reader looks the run up, while the second is made.
     */
    for (at = part * PART + PART - 2048; at > part * PART + PART * 5 / 8;
         at -= 2048) {
      assert_ok (file_read (inode, buf, sizeof buf, at));
      assert_memory_not_equal (buf, zeros, sizeof buf);
      assert_ok (file_trim (inode, 1024, at + 1024, 0));
      assert_ok (file_trim (inode, 1024, at, 0));
      usleep (50);
      assert_ok (file_read (inode, buf, sizeof buf, at));
      assert_memory_equal (buf, zeros, sizeof buf);
    }
  }
  atomic_store (&r.stop, true);
  pthread_join (r.thread, NULL);
  image_close (fs, inode);
  image_assert_clean (md);
  memdev_free (md);
}

/* A fill that the device does not answer, and trims elsewhere. */

static void
start_fill (struct memdev *md, struct request *r, struct inode *inode,
            uint64_t offset)
{
  *r = (struct request) { .what = WRITE, .offset = offset, .count = 4096 };
  memdev_hold_byte (md, BYTE);
  start_request (r, inode);
  memdev_wait_held (md);
}

static void
end_fill (struct memdev *md, struct request *r)
{
  uint8_t buf[4096];
  size_t i;

  assert_false (atomic_load (&r->done));
  memdev_hold_byte (md, 0);
  pthread_join (r->thread, NULL);
  assert_ok (file_read (r->inode, buf, sizeof buf, r->offset));
  for (i = 0; i < sizeof buf; i++)
    assert_int_equal (buf[i], BYTE);
}

static void
write_here (struct inode *inode, uint64_t offset, uint64_t count)
{
  uint8_t *buf = malloc (count);

  assert_non_null (buf);
  memset (buf, 0x11, count);
  assert_ok (file_write (inode, buf, count, offset, 0));
  free (buf);
}

/* A table of pointers, or a leaf, of 1 KiB covers more than what is written
 * here; the trim empties it, the commit frees it, and the fill comes back.
 */
static void
emptied_under_fill (const char *args)
{
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md = one_file (args, 64 * UNIT, false, &fs, &inode);
  struct request fill;
  uint64_t at;
  unsigned i;

  for (i = 0; i < 4; i++) {
    const uint64_t base = (8 + 12 * i) * UNIT;

    /* Every other block, so that a leaf is full of them. */
    for (at = 0; at < 6 * UNIT; at += 2048)
      if (at < 2 * UNIT || at >= 3 * UNIT)
        write_here (inode, base + at, 1024);
    assert_ok (filesystem_flush (fs));
    start_fill (md, &fill, inode, base + 2 * UNIT + 8192);
    assert_ok (file_trim (inode, 2 * UNIT, base, 0));
    if (i & 1)
      assert_ok (filesystem_flush (fs));
    assert_ok (file_trim (inode, 3 * UNIT, base + 3 * UNIT, 0));
    if (i & 2) {
      assert_ok (filesystem_flush (fs));
      syncer_drain (fs);
      write_here (inode, base + 4 * UNIT, UNIT);
    }
    end_fill (md, &fill);
    assert_ok (filesystem_flush (fs));
  }
  image_close (fs, inode);
  image_assert_clean (md);
  memdev_free (md);
}

static void
test_emptied_leaf (void **state)
{
  (void) state;
  emptied_under_fill (EXT4);
}

static void
test_emptied_leaf_nojournal (void **state)
{
  (void) state;
  emptied_under_fill (EXT4 " -O ^has_journal");
}

static void
test_emptied_table (void **state)
{
  (void) state;
  emptied_under_fill ("-t ext2 -b 1024");
}

/* A fill places its window before the tree knows; a trim elsewhere does
 * not make that forgotten.
 */
static void
test_window (void **state)
{
  const uint64_t window = UINT64_C (4) << 20, block = 4096;
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md = one_file ("-t ext4 -b 4096", 4 * window, false, &fs,
                                &inode);
  struct request fill;
  uint64_t first;

  (void) state;
  write_here (inode, 0, block);
  start_fill (md, &fill, inode, window + 5 * block);
  assert_ok (file_trim (inode, block, 0, 0));
  write_here (inode, window + 300 * block, block);
  end_fill (md, &fill);
  first = place_of (inode, window + 5 * block);
  assert_int_equal (place_of (inode, window + 300 * block),
                    first + 295 * block);
  image_close (fs, inode);
  image_assert_clean (md);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_elsewhere),
    cmocka_unit_test (test_overlapping),
    cmocka_unit_test (test_runs),
    cmocka_unit_test (test_emptied_leaf),
    cmocka_unit_test (test_emptied_leaf_nojournal),
    cmocka_unit_test (test_emptied_table),
    cmocka_unit_test (test_window),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

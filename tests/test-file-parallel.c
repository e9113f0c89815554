/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Many threads read, write, zero, trim and flush the same files.  Every
 * byte belongs to one thread, in pieces that share blocks with other
 * threads' pieces; each thread knows what its bytes must be.
 */

#include <config.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "map.h"

#define THREADS 6

struct job {
  const char *args;             /* of mke2fs */
  bool fast_zero;               /* of the device */
  uint64_t size;                /* of the files */
};

struct file {
  struct inode *inode;
  struct shadow shadow;
  uint64_t piece;               /* bytes: piece I is thread I % THREADS's */
};

#define FILES 2

struct worker {
  pthread_t thread;
  unsigned id;
  struct filesystem *fs;
  struct file *files;
  struct rng rng;
  unsigned ops;
};

/* cmocka's assertions are for the main thread. */
#define must(cond)                                                      \
  do {                                                                  \
    if (!(cond)) {                                                      \
      fprintf (stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);       \
      abort ();                                                         \
    }                                                                   \
  } while (0)

static void
one_request (struct worker *w)
{
  struct file *f = &w->files[rng_below (&w->rng, FILES)];
  uint64_t pieces = f->shadow.size / f->piece;
  uint64_t i = rng_below (&w->rng, pieces / THREADS) * THREADS + w->id;
  uint64_t in = rng_next (&w->rng) % 3 ? 0 : rng_below (&w->rng, f->piece);
  uint64_t offset = i * f->piece + in;
  uint64_t count = f->piece - in;
  unsigned flags = rng_below (&w->rng, 16) == 0 ? FILE_FUA : 0;
  uint8_t *expect = f->shadow.data + offset;
  uint8_t buf[8192];
  errcode_t err;

  if (rng_next (&w->rng) % 3 == 0)
    count = rng_below (&w->rng, count) + 1;
  switch (rng_below (&w->rng, 12)) {
  case 0: case 1: case 2:
    must (file_read (f->inode, buf, count, offset) == 0);
    must (memcmp (buf, expect, count) == 0);
    break;
  case 3: case 4: case 5: case 6: case 7:
    rng_fill (&w->rng, expect, count);
    must (file_write (f->inode, expect, count, offset, flags) == 0);
    break;
  case 8:
    must (file_trim (f->inode, count, offset, flags) == 0);
    shadow_trim (w->fs, &f->shadow, count, offset);
    break;
  case 9:
    flags |= rng_next (&w->rng) & (FILE_MAY_TRIM | FILE_FAST);
    err = file_zero (f->inode, count, offset, flags);
    must (err == 0 || (err == ENOTSUP && (flags & FILE_FAST)));
    if (!err)
      memset (expect, 0, count);
    break;
  case 10:
    must (file_zero (f->inode, count, offset, flags | FILE_MAY_TRIM) == 0);
    memset (expect, 0, count);
    break;
  case 11:
    if (rng_below (&w->rng, 4) == 0)
      must (filesystem_flush (w->fs) == 0);
    break;
  }
}

static void *
work (void *opaque)
{
  struct worker *w = opaque;

  while (w->ops-- > 0)
    one_request (w);
  return NULL;
}

static void
run_threads (struct filesystem *fs, struct file *files, unsigned seed,
             unsigned ops)
{
  struct worker w[THREADS];
  unsigned i;

  for (i = 0; i < THREADS; i++) {
    w[i] = (struct worker) {
      .id = i, .fs = fs, .files = files, .ops = ops,
      .rng = { seed * 1000 + i },
    };
    must (pthread_create (&w[i].thread, NULL, work, &w[i]) == 0);
  }
  for (i = 0; i < THREADS; i++)
    pthread_join (w[i].thread, NULL);
}

static void
run_job (const struct job *job)
{
  const struct image_file list[] = {
    { "small", job->size, true }, { "large", job->size, false }, { NULL },
  };
  /* About a block, so that pieces share blocks; and several. */
  struct file files[FILES] = { { .piece = 700 }, { .piece = 7000 } };
  struct memdev *md = image_make (job->args, UINT64_C (24) << 20, list);
  struct filesystem *fs;
  unsigned round, i;

  md->dev.can_fast_zero = job->fast_zero;
  md->delay_us = 60;
  for (i = 0; i < FILES; i++) {
    shadow_init (&files[i].shadow, job->size);
    if (list[i].filled)
      image_content (list[i].name, files[i].shadow.data, job->size);
  }
  for (round = 0; round < 2; round++) {
    fs = image_open (md);
    for (i = 0; i < FILES; i++)
      files[i].inode = image_iget (fs, list[i].name);
    run_threads (fs, files, round + 1, image_scale (4000));
    for (i = 0; i < FILES; i++) {
      shadow_assert_same (&files[i].shadow, files[i].inode);
      iput (files[i].inode);
    }
    image_close (fs, NULL);
    image_assert_clean (md);
  }
  for (i = 0; i < FILES; i++) {
    image_assert_dump (md, list[i].name, files[i].shadow.data, job->size);
    shadow_free (&files[i].shadow);
  }
  memdev_free (md);
}

static void
test_extents_1k (void **state)
{
  const struct job job = { "-t ext4 -b 1024 -O ^has_journal", true, 1000321 };

  (void) state;
  run_job (&job);
}

static void
test_extents_4k (void **state)
{
  const struct job job = { "-t ext4 -b 4096", false, 2000321 };

  (void) state;
  run_job (&job);
}

static void
test_indirect_1k (void **state)
{
  const struct job job = { "-t ext2 -b 1024", true, 1000321 };

  (void) state;
  run_job (&job);
}

static void
test_indirect_4k (void **state)
{
  const struct job job = { "-t ext3 -b 4096", false, 2000321 };

  (void) state;
  run_job (&job);
}

/* Threads that open, use and put one file over and over share it. */

static void *
open_and_put (void *opaque)
{
  struct worker *w = opaque;

  while (w->ops-- > 0) {
    struct inode *inode = image_iget (w->fs, "small");
    uint8_t out[64], in[64];

    rng_fill (&w->rng, out, sizeof out);
    must (file_write (inode, out, sizeof out, w->id * 64, 0) == 0);
    must (file_read (inode, in, sizeof in, w->id * 64) == 0);
    must (memcmp (in, out, sizeof in) == 0);
    iput (inode);
  }
  return NULL;
}

static void
test_open_and_put (void **state)
{
  static const struct image_file list[] = { { "small", 5000, false }, { NULL } };
  struct memdev *md = image_make ("-t ext4 -b 1024", UINT64_C (8) << 20,
                                  list);
  struct filesystem *fs = image_open (md);
  struct worker w[THREADS];
  unsigned i;

  (void) state;
  for (i = 0; i < THREADS; i++) {
    w[i] = (struct worker) {
      .id = i, .fs = fs, .ops = image_scale (400), .rng = { i },
    };
    must (pthread_create (&w[i].thread, NULL, open_and_put, &w[i]) == 0);
  }
  for (i = 0; i < THREADS; i++)
    pthread_join (w[i].thread, NULL);
  image_close (fs, NULL);
  image_assert_clean (md);
  memdev_free (md);
}

/* A request that the device does not answer holds up trims and zeros of
 * its range, and of no other.
 */

#define UNIT (UINT64_C (128) << 10)     /* of spread-lock.c */

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
  uint8_t *buf = calloc (1, r->count);

  must (buf != NULL);
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
  assert_ok (map_lookup (inode, offset >> bits, &m));
  inode_map_unlock_shared (inode);
  assert_int_equal (m.state, MAP_WRITTEN);
  return (m.pblk << bits) + (offset & ((1u << bits) - 1));
}

static struct memdev *
one_file (uint64_t size, struct filesystem **fs, struct inode **inode)
{
  const struct image_file list[] = { { "file", size, true }, { NULL } };
  struct memdev *md = image_make ("-t ext4 -b 1024", size + (4 << 20), list);

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
  struct memdev *md = one_file (8 * UNIT, &fs, &inode);

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
  };
  static const struct request second[] = {
    { .what = TRIM, .offset = 4 * UNIT + 1024, .count = 1024 },
    { .what = TRIM, .offset = 0, .count = 3 * UNIT },
    { .what = ZERO, .offset = 4 * UNIT + 1024, .count = 1024 },
    { .what = ZERO, .offset = 0, .count = 3 * UNIT },
  };
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *md = one_file (8 * UNIT, &fs, &inode);
  unsigned i;

  (void) state;
  md->dev.can_fast_zero = false;        /* zeros are unwritten extents */
  for (i = 0; i < 8; i++) {
    struct request whole = { .what = WRITE, .count = 8 * UNIT };
    struct request a = first[i / 4], b = second[i % 4];

    whole.inode = inode;
    make_request (&whole);
    memdev_hold (md, place_of (inode, 3 * UNIT - 1));
    start_request (&a, inode);
    memdev_wait_held (md);
    start_request (&b, inode);
    usleep (10000);
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
  struct memdev *md = one_file (8 * PART, &fs, &inode);
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

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_extents_1k),
    cmocka_unit_test (test_extents_4k),
    cmocka_unit_test (test_indirect_1k),
    cmocka_unit_test (test_indirect_4k),
    cmocka_unit_test (test_open_and_put),
    cmocka_unit_test (test_elsewhere),
    cmocka_unit_test (test_overlapping),
    cmocka_unit_test (test_runs),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

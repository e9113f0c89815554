/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Many threads read, write, zero, trim and flush the same files.  Every
 * byte belongs to one thread, in pieces that share blocks with other
 * threads' pieces; each thread knows what its bytes must be.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"

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

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_extents_1k),
    cmocka_unit_test (test_extents_4k),
    cmocka_unit_test (test_indirect_1k),
    cmocka_unit_test (test_indirect_4k),
    cmocka_unit_test (test_open_and_put),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

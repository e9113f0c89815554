/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Clients that do not keep out of each other's way: reads, writes, zeros
 * and trims of the same blocks of a file, while another file takes what
 * the first gives up.  Which of two overlapping requests wins is open,
 * but a file only ever has its own bytes and zeros: nothing of the other
 * file, and nothing that was lying about in free space.
 *
 * The clients' data race here on purpose, in the test device's memory,
 * so this is not for ThreadSanitizer.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "image.h"

#define THREADS 3               /* a file */
#define SIZE (UINT64_C (1100) << 10)

/* Little room for two of SIZE, so that blocks change hands. */
#define IMAGE (UINT64_C (1800) << 10)

#define FREE 0xee

struct worker {
  pthread_t thread;
  struct inode *inode;
  uint8_t byte;
  struct rng rng;
  unsigned ops;
};

static void
check (const struct worker *w, const uint8_t *buf, uint64_t count,
       uint64_t offset)
{
  uint64_t i;

  for (i = 0; i < count; i++) {
    if (buf[i] == 0 || buf[i] == w->byte)
      continue;
    fprintf (stderr, "byte %llu of file 0x%02x is 0x%02x\n",
             (unsigned long long) (offset + i), w->byte, buf[i]);
    abort ();
  }
}

static void
expect (errcode_t err, errcode_t also)
{
  char why[128];

  if (err == 0 || err == also)
    return;
  fprintf (stderr, "unexpected: %s\n", errcode_text (err, why, sizeof why));
  abort ();
}

static void
one_request (struct worker *w)
{
  /* Most requests meet in the first 64 KiB. */
  uint64_t within = rng_below (&w->rng, 4) ? 65536 : SIZE;
  uint64_t offset = rng_below (&w->rng, within);
  uint64_t count = rng_below (&w->rng, 20000);
  unsigned flags;
  uint8_t buf[20000];

  if (rng_below (&w->rng, 2)) {
    offset &= ~UINT64_C (1023);
    count &= ~UINT64_C (1023);
  }
  if (count > SIZE - offset)
    count = SIZE - offset;
  switch (rng_below (&w->rng, 12)) {
  case 0: case 1: case 2: case 3:
    expect (file_read (w->inode, buf, count, offset), 0);
    check (w, buf, count, offset);
    break;
  case 4: case 5: case 6: case 7:
    memset (buf, w->byte, count);
    expect (file_write (w->inode, buf, count, offset, 0),
            EXT2_ET_BLOCK_ALLOC_FAIL);
    break;
  case 8: case 9:
    expect (file_trim (w->inode, count * 2 < SIZE - offset ? count * 2
                       : count, offset, 0), 0);
    break;
  case 10:
    flags = rng_next (&w->rng) & FILE_MAY_TRIM;
    expect (file_zero (w->inode, count, offset, flags),
            EXT2_ET_BLOCK_ALLOC_FAIL);
    break;
  case 11:
    if (rng_below (&w->rng, 4) == 0)
      expect (filesystem_flush (w->inode->fs), 0);
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

/* Free space as it is after years. */
static void
soil_free_space (struct memdev *md, struct filesystem *fs)
{
  uint32_t i;
  dgrp_t g;

  LOCK_FOR_SCOPE (&fs->lock);
  for (g = 0; g < fs->e2->group_desc_count; g++) {
    uint8_t *start = md->mem + group_first (fs, g) * fs->block_size;
    struct mbuf *mb;

    assert_ok (group_bitmap (fs, g, &mb));
    for (i = 0; i < group_blocks (fs, g); i++)
      if (!bit_test (mb->data, i))
        memset (start + (size_t) i * fs->block_size, FREE, fs->block_size);
    mcache_unpin (fs->mc, mb);
  }
}

static void
check_whole (struct worker *w)
{
  uint8_t *buf = malloc (SIZE);

  assert_non_null (buf);
  assert_ok (file_read (w->inode, buf, SIZE, 0));
  check (w, buf, SIZE, 0);
  free (buf);
}

static void
run_job (const char *args, bool fast_zero)
{
  static const struct image_file files[] = {
    { "a", SIZE, false }, { "b", SIZE, false }, { NULL },
  };
  struct memdev *md = image_make (args, IMAGE, files);
  struct filesystem *fs = image_open (md);
  struct worker w[2 * THREADS];
  unsigned i;

  soil_free_space (md, fs);
  md->dev.can_fast_zero = fast_zero;
  md->delay_us = 60;
  for (i = 0; i < 2 * THREADS; i++) {
    w[i] = (struct worker) {
      .inode = image_iget (fs, files[i % 2].name), .byte = 0xa0 + i % 2,
      .rng = { i }, .ops = image_scale (5000),
    };
    assert_int_equal (pthread_create (&w[i].thread, NULL, work, &w[i]), 0);
  }
  for (i = 0; i < 2 * THREADS; i++)
    pthread_join (w[i].thread, NULL);
  md->delay_us = 0;
  for (i = 0; i < 2 * THREADS; i++) {
    check_whole (&w[i]);
    iput (w[i].inode);
  }
  image_close (fs, NULL);
  image_assert_clean (md);
  memdev_free (md);
}

static void
test_extents (void **state)
{
  (void) state;
  run_job ("-t ext4 -b 1024 -m 0 -N 16 -O ^has_journal", true);
}

static void
test_unwritten (void **state)
{
  (void) state;
  run_job ("-t ext4 -b 1024 -m 0 -N 16 -O ^has_journal", false);
}

static void
test_blocks (void **state)
{
  (void) state;
  run_job ("-t ext2 -b 1024 -m 0 -N 16", true);
}

static void
test_large_blocks (void **state)
{
  (void) state;
  run_job ("-t ext4 -b 4096 -m 0 -N 16 -O ^has_journal", false);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_extents),
    cmocka_unit_test (test_unwritten),
    cmocka_unit_test (test_blocks),
    cmocka_unit_test (test_large_blocks),
  };
  const char *s = getenv ("EXT2_SANITIZER");

  if (s && strcmp (s, "tsan") == 0) {
    puts ("its data races are the clients' own");
    return 77;
  }
  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Faults that pass: one call of the device fails, or one allocation, and a
 * client who is told repeats its request, as a virtual machine does that was
 * stopped by the error.  Then all is as if nothing had happened: every
 * request succeeds in the end, every byte is right, the filesystem closes
 * clean, no block is lost, no error is on record, and what was flushed would
 * have been there after a crash.  For each third call
 * and allocation of the same requests in turn (a sanitizer sees fewer).
 *
 * (Not for flushes: a flush that has failed is not mended by another one.)
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "errors.h"
#include "failmalloc.h"
#include "image.h"
#include "path.h"

#define SIZE (UINT64_C (300) * 1024 + 123)
#define REQUESTS 40
#define HANG 240                /* seconds for one run */

struct fault {
  const char *name;
  unsigned mask;                /* calls of the device; 0: allocations */
  errcode_t error;
  unsigned count;               /* how many in a row */
};

static const struct fault faults[] = {
  { "a read", MEMDEV_MASK (MEMDEV_READ), EIO, 1 },
  { "a write", MEMDEV_MASK (MEMDEV_WRITE), EIO, 1 },
  { "no room for a write", MEMDEV_MASK (MEMDEV_WRITE), ENOSPC, 1 },
  { "no room for long", MEMDEV_MASK (MEMDEV_WRITE) | MEMDEV_MASK (MEMDEV_ZERO),
    ENOSPC, 5 },
  { "a zero", MEMDEV_MASK (MEMDEV_ZERO), EIO, 1 },
  { "no memory", 0, ENOMEM, 1 },
  { "no memory for long", 0, ENOMEM, 7 },
};
#define FAULTS (sizeof faults / sizeof faults[0])

static const char *const images[][2] = {
  { "extents", "-t ext4 -b 1024 -O ^has_journal -N 32" },
  { "blocks", "-t ext2 -b 1024 -N 32" },
  { "extents, journal", "-t ext4 -b 1024 -J size=1 -N 32" },
  { "blocks, journal", "-t ext3 -b 1024 -J size=1 -N 32" },
};
#define IMAGES (sizeof images / sizeof images[0])

struct run {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *inode;
  struct rng rng;
  struct shadow shadow;
};

static void
begin (struct run *r, const struct fault *f, uint64_t n)
{
  /* A write that fails with FUA and not without counts as a flush. */
  r->md->dev.can_fua = false;
  if (f->mask)
    memdev_fail (r->md, f->mask, n, f->count, f->error);
  else
    failmalloc_start (n, f->count);
}

/* No more faults; how many calls or allocations there have been. */
static uint64_t
end (struct run *r, const struct fault *f)
{
  uint64_t n;

  if (!f->mask)
    return failmalloc_stop ();
  n = atomic_load (&r->md->fail_seen);
  memdev_heal (r->md);
  return n;
}

/* A request that fails is sent again, as often as there can be faults. */
#define REPEATED(f, call)                                       \
  do {                                                          \
    unsigned tries_ = 0;                                        \
    errcode_t err_;                                             \
                                                                \
    while ((err_ = (call)) != 0 && tries_++ <= (f)->count)      \
      ;                                                         \
    assert_ok (err_);                                           \
  } while (0)

static void
one_request (struct run *r, const struct fault *f)
{
  static uint8_t data[20000];
  uint64_t offset = rng_below (&r->rng, SIZE), count;
  unsigned flags = rng_below (&r->rng, 6) ? 0 : FILE_FUA;

  count = 1 + rng_below (&r->rng, rng_below (&r->rng, 3) ? 1500
                         : sizeof data);
  if (count > SIZE - offset)
    count = SIZE - offset;
  switch (rng_below (&r->rng, 10)) {
  case 0: case 1: case 2: case 3: case 4:
    rng_fill (&r->rng, data, count);
    REPEATED (f, file_write (r->inode, data, count, offset, flags));
    memcpy (r->shadow.data + offset, data, count);
    break;
  case 5: case 6:
    REPEATED (f, file_trim (r->inode, count, offset, flags));
    shadow_trim (r->fs, &r->shadow, count, offset);
    break;
  case 7:
    flags |= FILE_MAY_TRIM;
    __attribute__ ((__fallthrough__));
  case 8:
    REPEATED (f, file_zero (r->inode, count, offset, flags));
    memset (r->shadow.data + offset, 0, count);
    break;
  case 9:
    REPEATED (f, filesystem_flush (r->fs));
    break;
  }
  /* So that the device is at rest, and its n-th call always the same. */
  syncer_drain (r->fs);
}

static void
run_start (struct run *r, struct memdev *image)
{
  r->md = memdev_copy (image);
  r->fs = image_open (r->md);
  r->inode = image_iget (r->fs, "f");
  r->rng.state = 77;
  shadow_init (&r->shadow, SIZE);
}

static void
run_requests (struct run *r, const struct fault *f)
{
  unsigned i;

  for (i = 0; i < REQUESTS; i++)
    one_request (r, f);
  REPEATED (f, filesystem_flush (r->fs));
}

/* What was flushed is there after a crash, too.  No write is under way: a
 * copy made meanwhile could have the later of two and not the earlier.
 */
static void
crash (struct run *r)
{
  struct memdev *cut;

  syncer_drain (r->fs);
  cut = memdev_copy (r->md);
  assert_in_set (image_fsck (cut, "-fp", 1), ((LargestIntegralType[]) { 0, 1 }),
                 2);
  image_assert_dump (cut, "f", r->shadow.data, SIZE);
  memdev_free (cut);
}

static void
run_end (struct run *r)
{
  shadow_assert_same (&r->shadow, r->inode);
  image_close (r->fs, r->inode);
  image_assert_clean (r->md);
  assert_int_equal (image_super (r->md)->s_error_count, 0);
  image_assert_dump (r->md, "f", r->shadow.data, SIZE);
  shadow_free (&r->shadow);
  memdev_free (r->md);
}

static void
fail_each (const char *args, const struct fault *f)
{
  const struct image_file list[] = { { "f", SIZE, false }, { NULL } };
  const uint64_t stride = 2 * image_stride () - 1;
  struct memdev *image = image_make (args, UINT64_C (4) << 20, list);
  uint64_t n, calls = 1;
  struct run r;

  for (n = 1; n <= calls; n += stride) {
    alarm (HANG);
    run_start (&r, image);
    begin (&r, f, n);
    run_requests (&r, f);
    calls = end (&r, f);
    if (n == 1)
      assert_true (calls > 0);
    crash (&r);
    run_end (&r);
  }
  alarm (0);
  memdev_free (image);
}

static void
test_transient (void **state)
{
  const size_t i = (size_t) (uintptr_t) *state;

  fail_each (images[i % IMAGES][1], &faults[i / IMAGES]);
}

/* Opening a filesystem, finding a file and putting it back. */
static errcode_t
open_and_find (struct memdev *md)
{
  const struct filesystem_options opts = { .cache_size = 0 };
  struct filesystem *fs;
  struct inode *inode;
  ext2_ino_t ino;
  errcode_t err, err2;

  err = filesystem_open (&md->dev, &opts, &fs);
  if (err)
    return err;
  err = path_resolve (fs, "/f", &ino);
  if (!err && (err = iget (fs, ino, "f", &inode)) == 0)
    iput (inode);
  err2 = filesystem_close (fs);
  return err ? err : err2;
}

/* The N-th allocation fails: an error, and nothing is written. */
static void
test_open (void **state)
{
  const struct image_file list[] = { { "f", SIZE, true }, { NULL } };
  const char *args = images[(size_t) (uintptr_t) *state][1];
  struct memdev *image = image_make (args, UINT64_C (4) << 20, list);
  const uint64_t changes = memdev_count (image, MEMDEV_CHANGES);
  uint64_t n = 0, failed = 0;
  bool reached = true;
  errcode_t err;

  while (reached) {
    failmalloc_start (++n, 1);
    err = open_and_find (image);
    reached = failmalloc_stop () >= n;
    failed += err != 0;
    assert_true (err == 0 || errcode_to_errno (err) == ENOMEM);
    assert_int_equal (memdev_count (image, MEMDEV_CHANGES), changes);
  }
  assert_true (failed > 10);
  assert_ok (open_and_find (image));
  image_assert_clean (image);
  memdev_free (image);
}

int
main (void)
{
  struct CMUnitTest tests[FAULTS * IMAGES + IMAGES];
  static char names[FAULTS * IMAGES + IMAGES][80];
  size_t i;

  image_init ();
  for (i = 0; i < FAULTS * IMAGES; i++) {
    snprintf (names[i], sizeof names[i], "%s: %s", images[i % IMAGES][0],
              faults[i / IMAGES].name);
    tests[i] = (struct CMUnitTest) {
      .name = names[i], .test_func = test_transient,
      .initial_state = (void *) (uintptr_t) i,
    };
  }
  for (; i < FAULTS * IMAGES + IMAGES; i++) {
    snprintf (names[i], sizeof names[i], "%s: opening without memory",
              images[i % IMAGES][0]);
    tests[i] = (struct CMUnitTest) {
      .name = names[i], .test_func = test_open,
      .initial_state = (void *) (uintptr_t) (i % IMAGES),
    };
  }
  return cmocka_run_group_tests (tests, NULL, NULL);
}

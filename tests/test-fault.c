/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The same requests again and again, each time with another call of the
 * device failing, or the power going off after it.  Whatever fails,
 * somebody is told; what can be read is right; and after e2fsck -p
 * everything flushed before is there.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "crash.h"
#include "image.h"

#define SIZE (UINT64_C (400) * 1024 + 123)

/* Two views of the file's bytes: what a read must return now, and what
 * must be there after a crash or failure (safe).  A byte is unknown in a
 * view when a request on it has failed, in the safe view also when it
 * has been changed since the last flush.
 */
struct view {
  uint8_t *data, *unknown;
};

struct run {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *inode;
  struct rng rng;
  struct view now, safe;
  bool told;                    /* some request has failed */
};

static void
view_init (struct view *v)
{
  v->data = calloc (1, SIZE);
  v->unknown = calloc (1, SIZE);
  assert_non_null (v->data);
  assert_non_null (v->unknown);
}

static void
view_free (struct view *v)
{
  free (v->data);
  free (v->unknown);
}

/* With MAY_FAIL what cannot be read is not looked at. */
static void
view_check (const struct view *v, struct inode *inode, bool may_fail,
            const char *what)
{
  uint8_t buf[4096];
  uint64_t at, n, i;
  errcode_t err;

  for (at = 0; at < SIZE; at += n) {
    n = SIZE - at < sizeof buf ? SIZE - at : sizeof buf;
    err = file_read (inode, buf, n, at);
    if (err && may_fail)
      continue;
    assert_ok (err);
    for (i = 0; i < n; i++)
      if (!v->unknown[at + i] && buf[i] != v->data[at + i])
        fail_msg ("%s: byte %llu is 0x%02x, not 0x%02x", what,
                  (unsigned long long) (at + i), buf[i], v->data[at + i]);
  }
}

/* A request on the range has made it DATA, or failed. */
static void
note (struct run *r, errcode_t err, const uint8_t *data, uint64_t count,
      uint64_t offset, unsigned flags)
{
  if (err) {
    r->told = true;
    memset (r->now.unknown + offset, 1, count);
    memset (r->safe.unknown + offset, 1, count);
    return;
  }
  memcpy (r->now.data + offset, data, count);
  memset (r->now.unknown + offset, 0, count);
  if (flags & FILE_FUA)
    memcpy (r->safe.data + offset, data, count);
  memset (r->safe.unknown + offset, !(flags & FILE_FUA), count);
}

static void
flush (struct run *r)
{
  errcode_t err = filesystem_flush (r->fs);

  syncer_drain (r->fs);
  if (err) {
    r->told = true;
    return;
  }
  memcpy (r->safe.data, r->now.data, SIZE);
  memcpy (r->safe.unknown, r->now.unknown, SIZE);
}

static void
one_request (struct run *r)
{
  static const uint8_t zeros[20000];
  uint8_t data[20000];
  uint64_t offset = rng_below (&r->rng, SIZE), count, bs, end;
  unsigned flags = rng_below (&r->rng, 8) ? 0 : FILE_FUA;
  errcode_t err;

  count = rng_below (&r->rng, 3) ? 1500 : sizeof data;
  count = 1 + rng_below (&r->rng, count);
  if (count > SIZE - offset)
    count = SIZE - offset;
  switch (rng_below (&r->rng, 10)) {
  case 0: case 1: case 2: case 3: case 4:
    rng_fill (&r->rng, data, count);
    err = file_write (r->inode, data, count, offset, flags);
    note (r, err, data, count, offset, flags);
    break;
  case 5: case 6:
    bs = r->fs->block_size;
    offset = offset / bs * bs;
    end = offset + count < SIZE ? (offset + count) / bs * bs : SIZE;
    if (end <= offset)
      break;
    err = file_trim (r->inode, end - offset, offset, flags);
    note (r, err, zeros, end - offset, offset, flags);
    break;
  case 7:
    flags |= FILE_MAY_TRIM;
    __attribute__ ((__fallthrough__));
  case 8:
    err = file_zero (r->inode, count, offset, flags);
    note (r, err, zeros, count, offset, flags);
    break;
  case 9:
    flush (r);
    break;
  }
  /* Freed blocks are given back in the background: wait, so that the
   * device is at rest, and its n-th call the same one every time.
   */
  syncer_drain (r->fs);
}

/* The image that every run starts from: some two hundred extents. */
static struct memdev *
make_image (const char *args, struct view *v)
{
  const struct image_file list[] = { { "f", SIZE, false }, { NULL } };
  struct memdev *md = image_make (args, UINT64_C (4) << 20, list);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  struct rng rng = { 5 };
  uint64_t at;

  /* One block in two: nothing can be merged, and in ascending order the
   * leaves of a tree are full, so that many requests split one.
   */
  for (at = 0; at < SIZE; at += 2048) {
    uint64_t n = SIZE - at < 1024 ? SIZE - at : 1024;

    rng_fill (&rng, v->data + at, n);
    assert_ok (file_write (inode, v->data + at, n, at, 0));
  }
  image_close (fs, inode);
  image_assert_clean (md);
  return md;
}

static void
run_start (struct run *r, struct memdev *image, const struct view *v)
{
  memset (r, 0, sizeof *r);
  r->md = memdev_copy (image);
  r->fs = image_open (r->md);
  r->inode = image_iget (r->fs, "f");
  r->rng.state = 77;
  view_init (&r->now);
  view_init (&r->safe);
  memcpy (r->now.data, v->data, SIZE);
  memcpy (r->safe.data, v->data, SIZE);
}

static void
run_requests (struct run *r, unsigned n)
{
  while (n-- > 0)
    one_request (r);
  flush (r);
}

/* Whether closing succeeded. */
static bool
run_end (struct run *r)
{
  iput (r->inode);
  if (filesystem_close (r->fs) != 0) {
    r->told = true;
    return false;
  }
  memcpy (r->safe.data, r->now.data, SIZE);
  memcpy (r->safe.unknown, r->now.unknown, SIZE);
  return true;
}

static void
run_free (struct run *r)
{
  view_free (&r->now);
  view_free (&r->safe);
  memdev_free (r->md);
}

/* What is on the device is consistent, or can be REPAIRed without loss. */
static void
check_device (struct memdev *md, const struct view *safe, bool repair)
{
  struct filesystem *fs;
  struct inode *inode;

  if (repair)
    assert_in_range (image_fsck (md, "-fp", 1), 0, 1);
  image_assert_clean (md);
  md->dev.writable = false;
  fs = image_open (md);
  inode = image_iget (fs, "f");
  view_check (safe, inode, false, "after e2fsck");
  image_close (fs, inode);
}

#define REQUESTS 60

/* No call of the library may wait for ever. */
#define HANG 240                /* seconds: for one run */

/* The calls that fail, and what then has to be. */
struct fault {
  const char *name;
  unsigned mask;
  bool lasting;                 /* from the n-th on, else just that one */
  errcode_t error;
  bool must_tell;               /* some request, or closing, must fail */
  bool may_leak;                /* although closing succeeded */
};

/* With the N-th call failing. */
static void
fail_nth (struct memdev *image, const struct view *v, const struct fault *f,
          uint64_t n)
{
  const bool dead = f->lasting && (f->mask & MEMDEV_MASK (MEMDEV_READ));
  struct run r;
  bool closed;

  alarm (HANG);
  run_start (&r, image, v);
  memdev_fail (r.md, f->mask, n, f->lasting ? UINT64_MAX : 1, f->error);
  run_requests (&r, REQUESTS);
  /* A fault that is still to come would hit the reads. */
  if (memdev_has_failed (r.md))
    view_check (&r.now, r.inode, dead, "with a fault");
  closed = run_end (&r);
  assert_true (memdev_has_failed (r.md));
  if (f->must_tell && !r.told)
    fail_msg ("the failure of call %llu was not reported",
              (unsigned long long) n);
  memdev_heal (r.md);
  check_device (r.md, &r.safe, !closed || f->may_leak);
  run_free (&r);
  alarm (0);
}

/* Every call of the same requests in turn, from FIRST on where it is one in
 * so many.
 */
static void
fail_each (const char *args, const struct fault *f, unsigned first)
{
  const uint64_t stride = image_stride ();
  struct view v;
  struct memdev *image;
  struct run r;
  uint64_t n, calls;

  view_init (&v);
  image = make_image (args, &v);

  run_start (&r, image, &v);
  calls = memdev_count (r.md, f->mask);
  run_requests (&r, REQUESTS);
  assert_true (run_end (&r));
  assert_false (r.told);
  calls = memdev_count (r.md, f->mask) - calls;
  check_device (r.md, &r.safe, false);
  run_free (&r);

  assert_true (calls > 0);
  for (n = 1 + first % stride; n <= calls; n += stride)
    fail_nth (image, &v, f, n);
  view_free (&v);
  memdev_free (image);
}

#define EXTENTS "-t ext4 -b 1024 -O ^has_journal -N 32"
#define BLOCKS "-t ext2 -b 1024 -N 32"
#define JOURNAL "-t ext4 -b 1024 -J size=1 -N 32"
#define JOURNAL_BLOCKS "-t ext3 -b 1024 -J size=1 -N 32"

static const char *const images[][2] = {
  { "extents", EXTENTS }, { "blocks", BLOCKS },
  { "extents, journal", JOURNAL }, { "blocks, journal", JOURNAL_BLOCKS },
};
#define IMAGES (sizeof images / sizeof images[0])

#define READS MEMDEV_MASK (MEMDEV_READ)
#define WRITES MEMDEV_MASK (MEMDEV_WRITE)
#define ZEROS MEMDEV_MASK (MEMDEV_ZERO)
#define TRIMS MEMDEV_MASK (MEMDEV_TRIM)
#define FLUSHES MEMDEV_MASK (MEMDEV_FLUSH)

/* A read that fails may cost a bitmap, without which one can do; and a
 * trim is advice, which may fail without anybody caring.  Without its
 * group's bitmap a block cannot be given back.
 */
static const struct fault faults[] = {
  { "a read", READS, false, EIO, false, false },
  { "reads", READS, true, EIO, false, true },
  { "a write", WRITES, false, EIO, true, false },
  { "writes", WRITES, true, EIO, true, false },
  { "a zero", ZEROS, false, EIO, true, false },
  { "zeros", ZEROS, true, EIO, true, false },
  { "a trim", TRIMS, false, EIO, false, false },
  { "trims", TRIMS, true, EIO, false, false },
  { "a flush", FLUSHES, false, EIO, true, false },
  { "flushes", FLUSHES, true, EIO, true, false },
  { "all changes", WRITES | ZEROS | FLUSHES, true, EIO, true, false },
  { "all calls", MEMDEV_ALL, true, EIO, true, false },
  { "a write without space", WRITES, false, ENOSPC, true, false },
  { "no space", WRITES | ZEROS, true, ENOSPC, true, false },
};
#define FAULTS (sizeof faults / sizeof faults[0])

static void
test_fault (void **state)
{
  const size_t i = (size_t) (uintptr_t) *state;

  fail_each (images[i % IMAGES][1], &faults[i / IMAGES], i);
}

/* Opening: an error, or all is well; and the image can still be
 * recovered.  One whose journal is not empty, where that is served.
 */
static void
open_each (const char *args, bool dirty, bool lasting)
{
  const struct filesystem_options opts = { .cache_size = 0 };
  struct memdev *image, *md;
  struct filesystem *fs;
  struct view v;
  struct run r;
  uint64_t n;
  errcode_t err;
  bool failed = true;

  view_init (&v);
  image = make_image (args, &v);
  run_start (&r, image, &v);
  if (dirty) {
    run_requests (&r, REQUESTS / 2);
    memcpy (image->mem, r.md->mem, image->dev.size);
  }
  for (n = 1; failed; n++) {
    alarm (HANG);
    md = memdev_copy (image);
    memdev_fail (md, MEMDEV_ALL, n, lasting ? UINT64_MAX : 1, EIO);
    err = filesystem_open (&md->dev, &opts, &fs);
    failed = memdev_has_failed (md);
    memdev_heal (md);
    if (!err)
      assert_ok (filesystem_close (fs));
    else
      assert_true (failed);
    check_device (md, &r.safe, err != 0);
    memdev_free (md);
  }
  assert_true (n > 4);
  alarm (0);
  run_end (&r);
  run_free (&r);
  view_free (&v);
  memdev_free (image);
}

static void
test_open (void **state)
{
  const char *args = images[(size_t) (uintptr_t) *state][1];
  const bool dirty = strstr (args, "-J") && CRASH_JOURNALED == CRASH_REPLAY;

  open_each (args, dirty, false);
  open_each (args, dirty, true);
}

/* A power cut within request K: neither what was safe before it nor what
 * is after it can be counted on where they differ.
 */
static void
view_during (const struct view *before, const struct view *after,
             struct view *v)
{
  uint64_t i;

  memcpy (v->data, before->data, SIZE);
  for (i = 0; i < SIZE; i++)
    v->unknown[i] = before->unknown[i] || after->unknown[i] ||
      before->data[i] != after->data[i];
}

static void
cut_each (const char *args, unsigned seeds, unsigned stride)
{
  struct view v, safe[REQUESTS + 1];
  size_t at[REQUESTS + 1], n;
  struct memdev *image, *cut;
  struct run r;
  unsigned k, seed;

  view_init (&v);
  image = make_image (args, &v);
  run_start (&r, image, &v);
  memdev_log_start (r.md);
  for (k = 0; k <= REQUESTS; k++) {
    view_init (&safe[k]);
    memcpy (safe[k].data, r.safe.data, SIZE);
    memcpy (safe[k].unknown, r.safe.unknown, SIZE);
    at[k] = r.md->log_count;
    if (k < REQUESTS)
      one_request (&r);
  }
  memdev_log_stop (r.md);
  run_end (&r);
  assert_false (r.told);

  for (k = 0; k < REQUESTS; k++) {
    view_during (&safe[k], &safe[k + 1], &v);
    for (n = at[k]; n < at[k + 1]; n += stride)
      for (seed = 0; seed < seeds; seed++) {
        cut = memdev_power_cut (r.md, n, seed);
        check_device (cut, &v, true);
        memdev_free (cut);
      }
  }
  for (k = 0; k <= REQUESTS; k++)
    view_free (&safe[k]);
  run_free (&r);
  view_free (&v);
  memdev_free (image);
}

static void
test_cut_extents (void **state)
{
  (void) state;
  cut_each (EXTENTS, 3, 4 + image_stride ());
}

static void
test_cut_blocks (void **state)
{
  (void) state;
  cut_each (BLOCKS, 3, 4 + image_stride ());
}

int
main (void)
{
  struct CMUnitTest tests[2 + FAULTS * IMAGES + IMAGES] = {
    cmocka_unit_test (test_cut_extents),
    cmocka_unit_test (test_cut_blocks),
  };
  static char names[FAULTS * IMAGES + IMAGES][80];
  size_t i;

  image_init ();
  for (i = 0; i < FAULTS * IMAGES; i++) {
    snprintf (names[i], sizeof names[i], "%s: %s", images[i % IMAGES][0],
              faults[i / IMAGES].name);
    tests[2 + i] = (struct CMUnitTest) {
      .name = names[i], .test_func = test_fault,
      .initial_state = (void *) (uintptr_t) i,
    };
  }
  for (; i < FAULTS * IMAGES + IMAGES; i++) {
    snprintf (names[i], sizeof names[i], "%s: opening",
              images[i % IMAGES][0]);
    tests[2 + i] = (struct CMUnitTest) {
      .name = names[i], .test_func = test_open,
      .initial_state = (void *) (uintptr_t) (i % IMAGES),
    };
  }
  return _cmocka_run_group_tests ("fault", tests, 2 + i, NULL, NULL);
}

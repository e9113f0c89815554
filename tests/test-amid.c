/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The device fails in the middle of a request that spans many extents:
 * written ones, holes and unwritten ones by turns.  Each call of the device
 * that the request makes fails in turn.  Then the request has failed; a
 * byte of its range is the old one or the new one, and no other byte has
 * changed; the same request again succeeds; and in the end the filesystem
 * is clean, with as many free blocks as if nothing had failed.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define BLOCK 1024
#define SIZE (UINT64_C (120) * BLOCK)

/* The range, with ragged ends. */
#define FROM (UINT64_C (31) * BLOCK + 100)
#define COUNT (UINT64_C (14) * BLOCK + 500)

#define READS MEMDEV_MASK (MEMDEV_READ)

static const char *const kinds[] = {
  "-t ext4 -b 1024 -J size=1 -N 32", "-t ext4 -b 1024 -O ^has_journal -N 32",
  "-t ext3 -b 1024 -J size=1 -N 32", "-t ext2 -b 1024 -N 32",
};
#define KINDS (sizeof kinds / sizeof kinds[0])

enum what { READ, WRITE, ZERO, UNMAP, TRIM, WHATS };
static const char *const names[WHATS] = {
  "read", "write", "zero", "zero that may unmap", "trim",
};

static uint8_t old[SIZE], new[SIZE], data[COUNT];

/* Every third block is written, every third is a hole. */
static struct memdev *
make_image (const char *args)
{
  static const struct image_file files[] = {
    { "file", SIZE, false }, { NULL, 0, false },
  };
  struct memdev *md = image_make (args, UINT64_C (3) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "file");
  uint64_t at;

  memset (old, 0, sizeof old);
  for (at = 0; at < SIZE; at += 3 * BLOCK) {
    image_content ("old", old + at, BLOCK);
    assert_ok (file_write (inode, old + at, BLOCK, at, 0));
    if (inode->kind == MAPPED_BY_EXTENTS)
      assert_ok (file_zero (inode, BLOCK, at + 2 * BLOCK, 0));
  }
  image_close (fs, inode);
  return md;
}

/* What the file is to be after the request. */
static void
expect (enum what what)
{
  const uint64_t first = (FROM + BLOCK - 1) / BLOCK * BLOCK;
  const uint64_t last = (FROM + COUNT) / BLOCK * BLOCK;

  memcpy (new, old, SIZE);
  image_content ("new", data, COUNT);
  switch (what) {
  case WRITE:
    memcpy (new + FROM, data, COUNT);
    break;
  case ZERO: case UNMAP:
    memset (new + FROM, 0, COUNT);
    break;
  case TRIM:
    memset (new + first, 0, last - first);
    break;
  default:
    break;
  }
}

static errcode_t
request (struct inode *inode, enum what what)
{
  uint8_t buf[COUNT];
  errcode_t err;

  switch (what) {
  case READ:
    err = file_read (inode, buf, COUNT, FROM);
    if (!err)
      assert_memory_equal (buf, old + FROM, COUNT);
    return err;
  case WRITE:
    return file_write (inode, data, COUNT, FROM, 0);
  case ZERO:
    return file_zero (inode, COUNT, FROM, 0);
  case UNMAP:
    return file_zero (inode, COUNT, FROM, FILE_MAY_TRIM);
  default:
    return file_trim (inode, COUNT, FROM, 0);
  }
}

static void
assert_old_or_new (struct inode *inode)
{
  static uint8_t buf[SIZE];
  uint64_t i;

  assert_ok (file_read (inode, buf, SIZE, 0));
  for (i = 0; i < SIZE; i++)
    if (buf[i] != old[i] && buf[i] != new[i])
      fail_msg ("byte %llu is 0x%02x, not 0x%02x nor 0x%02x",
                (unsigned long long) i, buf[i], old[i], new[i]);
}

/* The N-th of the calls in MASK fails.  Whether there was one; *LEFT is how
 * many blocks are free in the end.
 */
static bool
fail_nth (struct memdev *image, enum what what, unsigned mask, uint64_t n,
          uint64_t *left)
{
  struct memdev *md = memdev_copy (image);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "file");
  const struct shadow shadow = { new, SIZE };
  const errcode_t error = n % 2 || (mask & READS) ? EIO : ENOSPC;
  bool failed;
  errcode_t err;

  memdev_fail (md, mask, n, 1, error);
  err = request (inode, what);
  failed = memdev_has_failed (md);
  memdev_heal (md);
  /* A bitmap that cannot be read may be done without. */
  if (failed && !err && (what == READ || !(mask & READS)))
    fail_msg ("%s: the failure of call %llu was not reported", names[what],
              (unsigned long long) n);
  else if (!failed)
    assert_ok (err);
  if (err) {
    assert_int_equal (err, error);
    assert_old_or_new (inode);
  }
  else
    shadow_assert_same (&shadow, inode);
  assert_ok (request (inode, what));
  shadow_assert_same (&shadow, inode);
  image_close (fs, inode);
  *left = image_free_blocks (md);
  if (failed)
    image_assert_clean (md);
  memdev_free (md);
  return failed;
}

static void
test_kind (void **state)
{
  static const unsigned masks[] = {
    READS, MEMDEV_MASK (MEMDEV_WRITE) | MEMDEV_MASK (MEMDEV_ZERO),
  };
  struct memdev *md = make_image (*state);
  uint64_t left, without, n;
  unsigned i, failures;
  int what;

  for (what = 0; what < WHATS; what++) {
    expect ((enum what) what);
    fail_nth (md, (enum what) what, 0, 1, &without);
    failures = 0;
    for (i = 0; i < 2; i++)
      for (n = 1; fail_nth (md, (enum what) what, masks[i], n, &left); n++) {
        assert_int_equal (left, without);
        failures++;
      }
    print_message ("%s: %u calls\n", names[what], failures);
    assert_true (failures > 0);
  }
  memdev_free (md);
}

int
main (void)
{
  struct CMUnitTest tests[KINDS];
  size_t i;

  image_init ();
  for (i = 0; i < KINDS; i++)
    tests[i] = (struct CMUnitTest) {
      .name = kinds[i], .test_func = test_kind,
      .initial_state = (void *) (uintptr_t) kinds[i],
    };
  return _cmocka_run_group_tests ("amid", tests, KINDS, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Single errors of the device, and exactly what they cost. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define BLOCK 1024
#define SIZE (UINT64_C (300) * BLOCK)

static const char *const kinds[] = {
  "-t ext4 -b 1024 -J size=1 -N 32", "-t ext4 -b 1024 -O ^has_journal -N 32",
  "-t ext3 -b 1024 -J size=1 -N 32", "-t ext2 -b 1024 -N 32",
};

static const struct image_file files[] = {
  { "hole", SIZE, false }, { "full", SIZE, true }, { NULL },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *hole, *full;
};

static void
setup_init (struct setup *s, const char *args)
{
  s->md = image_make (args, UINT64_C (8) << 20, files);
  s->fs = image_open (s->md);
  s->hole = image_iget (s->fs, "hole");
  s->full = image_iget (s->fs, "full");
}

/* One flush fails: what it was to make durable is lost, perhaps.  The
 * next one would succeed and must not.
 */
static void
flush_error (const char *args)
{
  uint8_t byte = 1;
  struct setup s;

  setup_init (&s, args);
  assert_ok (file_write (s.full, &byte, 1, 0, 0));
  memdev_fail (s.md, MEMDEV_MASK (MEMDEV_FLUSH), 1, 1, EIO);
  assert_int_equal (filesystem_flush (s.fs), EIO);
  assert_true (memdev_has_failed (s.md));
  memdev_heal (s.md);
  assert_int_equal (filesystem_flush (s.fs), EIO);
  assert_ok (file_read (s.full, &byte, 1, 0));
  iput (s.hole);
  iput (s.full);
  assert_true (filesystem_close (s.fs) != 0);
  memdev_free (s.md);
}

static void
test_flush_error (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
    flush_error (kinds[i]);
}

static int
only_hole (void *opaque, uint64_t offset, uint64_t count,
           enum map_state map_state)
{
  (void) opaque;
  (void) offset;
  (void) count;
  assert_int_equal (map_state, MAP_HOLE);
  return 0;
}

/* The data of a fill do not reach the device: nothing of it is to be
 * seen, and no block is lost.
 */
static void
fill_error (const char *args)
{
  static uint8_t buf[SIZE], zeros[SIZE];
  struct memdev *md;
  struct setup s;
  uint64_t before;

  setup_init (&s, args);
  md = s.md;
  before = image_free_blocks (md);
  memset (buf, 'x', sizeof buf);
  memdev_fail (md, MEMDEV_MASK (MEMDEV_WRITE), 1, 1, ENOSPC);
  assert_int_equal (file_write (s.hole, buf, 20 * BLOCK, 5 * BLOCK + 7, 0),
                    ENOSPC);
  assert_true (memdev_has_failed (md));
  memdev_heal (md);
  assert_ok (file_status (s.hole, SIZE, 0, only_hole, NULL));
  assert_ok (file_read (s.hole, buf, SIZE, 0));
  assert_memory_equal (buf, zeros, SIZE);
  assert_ok (filesystem_flush (s.fs));
  iput (s.hole);
  image_close (s.fs, s.full);
  image_assert_clean (md);
  assert_int_equal (image_free_blocks (md), before);
  memdev_free (md);
}

static void
test_fill_error (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
    fill_error (kinds[i]);
}

/* A device says ENOTSUP, which means something for fast zeros, where the
 * block of a tree is read to find out what is to be zeroed.
 */
static void
lookup_error (const char *args, unsigned flags)
{
  uint8_t byte[BLOCK];
  struct shadow shadow;
  struct setup s;
  uint64_t at;

  setup_init (&s, args);
  shadow_init (&shadow, SIZE);
  for (at = 0; at + BLOCK <= SIZE; at += 2 * BLOCK) {
    memset (byte, 1 + at / BLOCK % 255, BLOCK);
    assert_ok (file_write (s.hole, byte, BLOCK, at, 0));
    memcpy (shadow.data + at, byte, BLOCK);
  }
  iput (s.hole);
  image_close (s.fs, s.full);

  s.fs = image_open (s.md);
  s.hole = image_iget (s.fs, "hole");
  memdev_fail (s.md, MEMDEV_MASK (MEMDEV_READ), 1, 1, ENOTSUP);
  assert_int_equal (file_zero (s.hole, BLOCK, 20 * BLOCK, flags), EIO);
  assert_true (memdev_has_failed (s.md));
  memdev_heal (s.md);
  shadow_assert_same (&shadow, s.hole);
  image_close (s.fs, s.hole);
  image_assert_clean (s.md);
  image_assert_dump (s.md, "hole", shadow.data, SIZE);
  shadow_free (&shadow);
  memdev_free (s.md);
}

static void
test_lookup_error (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    lookup_error (kinds[i], 0);
    lookup_error (kinds[i], FILE_MAY_TRIM);
  }
}

/* A file that has been changed, put back and got again while the filesystem
 * stays open: libext2fs, which reads inodes, has a cache of its own.
 */
static void
test_put_and_get (void **state)
{
  uint8_t data[BLOCK];
  struct shadow shadow;
  struct setup s;
  size_t i, round;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    setup_init (&s, kinds[i]);
    shadow_init (&shadow, SIZE);
    for (round = 1; round < 5; round++) {
      memset (data, (int) round, BLOCK);
      assert_ok (file_write (s.hole, data, BLOCK, 7 * round * BLOCK, 0));
      memcpy (shadow.data + 7 * round * BLOCK, data, BLOCK);
      iput (s.hole);
      s.hole = image_iget (s.fs, "hole");
      shadow_assert_same (&shadow, s.hole);
    }
    iput (s.hole);
    image_close (s.fs, s.full);
    image_assert_clean (s.md);
    shadow_free (&shadow);
    memdev_free (s.md);
  }
}

/* One client's write with FUA fails, with or without the flush of the device
 * that follows or is part of it: what others are told of theirs.
 */
static void
fua_error (const char *args, bool can_fua)
{
  uint8_t byte = 1;
  struct setup s;

  setup_init (&s, args);
  s.md->dev.can_fua = can_fua;
  memdev_fail (s.md, MEMDEV_MASK (MEMDEV_WRITE), 1, 2, ENOSPC);
  assert_int_equal (file_write (s.full, &byte, 1, 0, FILE_FUA), ENOSPC);
  memdev_heal (s.md);
  assert_ok (filesystem_flush (s.fs));
  assert_ok (file_write (s.full, &byte, 1, 0, FILE_FUA));
  assert_ok (filesystem_flush (s.fs));

  memdev_fail (s.md, MEMDEV_MASK (can_fua ? MEMDEV_WRITE : MEMDEV_FLUSH), 1,
               1, EIO);
  assert_int_equal (file_write (s.full, &byte, 1, 0, FILE_FUA), EIO);
  memdev_heal (s.md);
  assert_int_equal (filesystem_flush (s.fs), EIO);
  iput (s.hole);
  iput (s.full);
  assert_true (filesystem_close (s.fs) != 0);
  memdev_free (s.md);
}

static void
test_fua_error (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    fua_error (kinds[i], false);
    fua_error (kinds[i], true);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_flush_error),
    cmocka_unit_test (test_fill_error),
    cmocka_unit_test (test_lookup_error),
    cmocka_unit_test (test_put_and_get),
    cmocka_unit_test (test_fua_error),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The search for free blocks holds FS, so nobody else gets anywhere while it
 * looks at bitmaps: at few of them, however many groups have nothing to
 * give.  Each search is looked at: the linker wraps alloc_find and
 * group_bitmap.
 */

#include <config.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "map.h"

#define BLOCK 1024
#define GROUP 256               /* blocks */
#define GROUPS 400
#define IMAGE ((uint64_t) GROUPS * GROUP * BLOCK)
#define SIZE IMAGE                /* more than there is room for */

/* Bitmaps that one search may look at: in two sizes of pieces, and for any
 * run, 16 groups each; some around the goal; and some that cannot be used.
 */
#define MOST_LOOKS 70

#define ARGS "-b 1024 -g 256 -m 0 -I 128 -N 3200"
#define JOURNAL "-t ext4 -J size=8 " ARGS

static const struct image_file files[] = {
  { "f", SIZE, false }, { "g", SIZE, false }, { NULL },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *f, *g;
};

/* Bitmaps that a search has looked at, in the cache or on the device: the
 * most, and those of all.
 */
static unsigned looks, most, total;

extern errcode_t __real_group_bitmap (struct filesystem *fs, dgrp_t g,
                                      struct mbuf **mbp);
extern errcode_t __wrap_group_bitmap (struct filesystem *fs, dgrp_t g,
                                      struct mbuf **mbp);
extern errcode_t __real_alloc_find (struct filesystem *fs,
                                    const struct goal *goal, uint32_t want,
                                    struct free_run *run);
extern errcode_t __wrap_alloc_find (struct filesystem *fs,
                                    const struct goal *goal, uint32_t want,
                                    struct free_run *run);

errcode_t
__wrap_group_bitmap (struct filesystem *fs, dgrp_t g, struct mbuf **mbp)
{
  looks++;
  return __real_group_bitmap (fs, g, mbp);
}

errcode_t
__wrap_alloc_find (struct filesystem *fs, const struct goal *goal,
                   uint32_t want, struct free_run *run)
{
  errcode_t err;

  looks = 0;
  err = __real_alloc_find (fs, goal, want, run);
  total += looks;
  if (looks > most)
    most = looks;
  return err;
}

static void
start_watching (void)
{
  most = total = 0;
}

static void
setup_open (struct setup *s)
{
  s->fs = image_open (s->md);
  s->f = image_iget (s->fs, "f");
  s->g = image_iget (s->fs, "g");
}

static void
setup_init (struct setup *s, const char *args)
{
  s->md = image_make (args, IMAGE, files);
  setup_open (s);
  assert_in_range (s->fs->e2->group_desc_count, GROUPS - 10, GROUPS);
}

static void
setup_close (struct setup *s)
{
  iput (s->f);
  image_close (s->fs, s->g);
}

static errcode_t
write_block (struct inode *inode, uint64_t lblk)
{
  uint8_t data[BLOCK];

  memset (data, 0x5a, sizeof data);
  return file_write (inode, data, sizeof data, lblk * BLOCK, 0);
}

static void
fill_up (struct inode *inode)
{
  const uint64_t piece = UINT64_C (64) * BLOCK;
  uint64_t at = 0, n = piece;
  errcode_t err;

  while (n > 0) {
    err = file_zero (inode, n, at, 0);
    if (!err)
      at += n;
    else if (err == EXT2_ET_BLOCK_ALLOC_FAIL)
      n = n == piece ? BLOCK : 0;
    else
      assert_ok (err);
  }
}

/* Trim what of the file is in the groups from FIRST on, or in those before.
 */
static void
trim_groups (struct setup *s, dgrp_t first, bool before)
{
  const uint64_t blocks = SIZE / BLOCK;
  struct mapping m;
  uint64_t lblk;

  for (lblk = 0; lblk < blocks; lblk += m.len) {
    inode_map_lock_shared (s->f);
    assert_ok (map_lookup (s->f, lblk, 1, &m));
    inode_map_unlock_shared (s->f);
    if (m.len > 64)
      m.len = 64 - lblk % 64;
    if (m.len > blocks - lblk)
      m.len = blocks - lblk;
    if (m.state != MAP_HOLE &&
        (group_of (s->fs, m.pblk) < first) == before)
      assert_ok (file_trim (s->f, m.len * BLOCK, lblk * BLOCK, 0));
  }
  assert_ok (filesystem_flush (s->fs));
}

/* Most groups are full of blocks that were freed, and the device has not
 * been told yet.
 */
static void
test_withheld (void **state)
{
  struct setup s;
  unsigned i;

  (void) state;
  setup_init (&s, JOURNAL);
  fill_up (s.f);
  trim_groups (&s, GROUPS - 20, false);
  syncer_drain (s.fs);
  memdev_hold_trims (s.md, true);
  trim_groups (&s, GROUPS - 20, true);
  memdev_wait_held (s.md);
  start_watching ();
  for (i = 0; i < 20; i++)
    assert_ok (write_block (s.g, 300 * i));
  assert_in_range (most, 1, MOST_LOOKS);
  memdev_hold_trims (s.md, false);
  setup_close (&s);
  image_assert_clean (s.md);
  memdev_free (s.md);
}

/* An image that has free blocks in every group, and bitmaps on the device. */
static void
setup_used (struct setup *s)
{
  setup_init (s, JOURNAL);
  fill_up (s->f);
  trim_groups (s, 0, false);
  setup_close (s);
  image_assert_clean (s->md);
}

/* Most bitmaps turn out damaged: what the others have is found all the same,
 * in several searches.
 */
static void
test_damaged (void **state)
{
  struct setup s;
  dgrp_t g;

  (void) state;
  setup_used (&s);
  setup_open (&s);
  for (g = 0; g < s.fs->e2->group_desc_count; g++)
    if (g != GROUPS - 50)       /* not one of the journal's */
      s.md->mem[ext2fs_block_bitmap_loc (s.fs->e2, g) * BLOCK + GROUP / 8 - 1]
        ^= 1;
  start_watching ();
  assert_ok (write_block (s.g, 0));
  assert_in_range (most, 1, MOST_LOOKS);
  assert_true (total > MOST_LOOKS);
  /* It is known now. */
  start_watching ();
  assert_ok (write_block (s.g, 300));
  assert_in_range (total, 1, MOST_LOOKS);
  assert_int_equal (s.fs->alloc.withheld, 0);
  setup_close (&s);
  assert_true (image_super (s.md)->s_error_count > 0);
  memdev_free (s.md);
}

/* A device that cannot be read: its error, and soon. */
static void
test_unreadable (void **state)
{
  struct setup s;

  (void) state;
  setup_used (&s);
  setup_open (&s);
  start_watching ();
  memdev_fail (s.md, MEMDEV_MASK (MEMDEV_READ), 1, UINT64_MAX, EIO);
  assert_int_equal (write_block (s.g, 0), EIO);
  assert_in_range (most, 1, MOST_LOOKS);
  assert_in_range (total, 1, MOST_LOOKS);
  memdev_heal (s.md);
  assert_ok (write_block (s.g, 0));
  setup_close (&s);
  image_assert_clean (s.md);
  memdev_free (s.md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_withheld),
    cmocka_unit_test (test_damaged),
    cmocka_unit_test (test_unreadable),
  };

  image_init ();
  alarm (300);                  /* a search that does not end */
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* One thread, random requests, and after each kind of mapping a shadow
 * that knows every byte and which blocks are allocated.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image.h"

struct job {
  const char *args;             /* of mke2fs */
  enum mapping_kind kind;
  uint64_t size;                /* bytes */
  bool zero, fast_zero;         /* of the device */
};

struct model {
  const struct job *job;
  struct memdev *md;
  struct filesystem *fs;
  struct inode *inode;
  struct shadow shadow;
  bool *allocated;              /* per block */
  uint64_t blocks, bs;
  struct rng rng;
};

static void
model_open (struct model *m)
{
  m->fs = image_open (m->md);
  m->inode = image_iget (m->fs, "f");
  assert_int_equal (m->inode->kind, m->job->kind);
  m->bs = m->fs->block_size;
}

static void
model_init (struct model *m, const struct job *job)
{
  const bool filled = job->kind == INLINE_DATA;
  const struct image_file list[] = { { "f", job->size, filled }, { NULL } };

  memset (m, 0, sizeof *m);
  m->job = job;
  m->rng.state = job->size;
  m->md = image_make (job->args, UINT64_C (12) << 20, list);
  m->md->dev.can_zero = job->zero;
  m->md->dev.can_fast_zero = job->fast_zero;
  shadow_init (&m->shadow, job->size);
  model_open (m);
  m->blocks = (job->size + m->bs - 1) / m->bs;
  m->allocated = calloc (m->blocks, sizeof *m->allocated);
  assert_non_null (m->allocated);
  if (filled) {
    image_content ("f", m->shadow.data, job->size);
    memset (m->allocated, true, m->blocks);
  }
}

static void
model_free (struct model *m)
{
  memdev_free (m->md);
  shadow_free (&m->shadow);
  free (m->allocated);
}

/* Block status. */

struct status {
  struct model *m;
  uint64_t at, end;             /* bytes: what is still to be said */
  unsigned pieces, most;        /* stop after that many */
};

static bool
all_zero (const uint8_t *p, uint64_t n)
{
  return n == 0 || (p[0] == 0 && memcmp (p, p + 1, n - 1) == 0);
}

static int
check_piece (void *opaque, uint64_t offset, uint64_t count,
             enum map_state state)
{
  struct status *s = opaque;
  struct model *m = s->m;
  uint64_t b;

  assert_true (s->pieces < s->most);
  s->pieces++;
  assert_int_equal (offset, s->at);
  assert_true (count > 0 && count <= s->end - s->at);
  for (b = offset / m->bs; b * m->bs < offset + count; b++)
    if (m->allocated[b] != (state != MAP_HOLE))
      fail_msg ("block %llu has the state %d", (unsigned long long) b,
                (int) state);
  if (state != MAP_WRITTEN)
    assert_true (all_zero (m->shadow.data + offset, count));
  if (m->job->kind != MAPPED_BY_EXTENTS)
    assert_int_not_equal (state, MAP_UNWRITTEN);
  s->at += count;
  return s->pieces == s->most;
}

static void
check_status (struct model *m, uint64_t count, uint64_t offset,
              unsigned most)
{
  struct status s = {
    .m = m, .at = offset, .end = offset + count, .most = most,
  };

  assert_ok (file_status (m->inode, count, offset, check_piece, &s));
  assert_true (s.at == s.end || s.pieces == most);
}

static void
check_all (struct model *m)
{
  shadow_assert_same (&m->shadow, m->inode);
  check_status (m, m->shadow.size, 0, UINT32_MAX);
}

/* Requests. */

/* Blocks wholly in the range, the last one counting as whole at the end
 * of the file, become holes.
 */
static void
model_unmap (struct model *m, uint64_t count, uint64_t offset)
{
  uint64_t b = (offset + m->bs - 1) / m->bs, end = (offset + count) / m->bs;

  if (m->job->kind == INLINE_DATA)
    return;
  if (offset + count == m->shadow.size)
    end = m->blocks;
  for (; b < end; b++)
    m->allocated[b] = false;
}

static void
model_allocate (struct model *m, uint64_t count, uint64_t offset)
{
  uint64_t b;

  for (b = offset / m->bs; count > 0 && b * m->bs < offset + count; b++)
    m->allocated[b] = true;
}

static void
do_write (struct model *m, uint64_t count, uint64_t offset, unsigned flags)
{
  rng_fill (&m->rng, m->shadow.data + offset, count);
  assert_ok (file_write (m->inode, m->shadow.data + offset, count, offset,
                         flags));
  model_allocate (m, count, offset);
}

static void
do_zero (struct model *m, uint64_t count, uint64_t offset, unsigned flags)
{
  uint64_t changes = memdev_count (m->md, MEMDEV_CHANGES);
  errcode_t err;

  flags |= rng_next (&m->rng) & (FILE_MAY_TRIM | FILE_FAST);
  err = file_zero (m->inode, count, offset, flags);
  if (err == ENOTSUP && (flags & FILE_FAST)) {
    assert_int_equal (memdev_count (m->md, MEMDEV_CHANGES), changes);
    check_all (m);
    return;
  }
  assert_ok (err);
  memset (m->shadow.data + offset, 0, count);
  if (flags & FILE_MAY_TRIM)
    model_unmap (m, count, offset);
  else
    model_allocate (m, count, offset);
}

static void
do_trim (struct model *m, uint64_t count, uint64_t offset, unsigned flags)
{
  assert_ok (file_trim (m->inode, count, offset, flags));
  if (m->job->kind != INLINE_DATA)
    shadow_trim (m->fs, &m->shadow, count, offset);
  model_unmap (m, count, offset);
}

static void
one_request (struct model *m)
{
  const uint64_t size = m->shadow.size;
  uint64_t offset = rng_below (&m->rng, size + 1), count;
  unsigned flags = rng_below (&m->rng, 10) ? 0 : FILE_FUA;
  uint8_t buf[65536];

  if (rng_below (&m->rng, 3) == 0)
    offset = offset / m->bs * m->bs;
  count = rng_below (&m->rng, 8) ? 3 * m->bs : sizeof buf;
  count = rng_below (&m->rng, count + 1);
  if (rng_below (&m->rng, 3) == 0)
    count = count / m->bs * m->bs;
  if (count > size - offset || rng_below (&m->rng, 30) == 0)
    count = size - offset;
  if (count > sizeof buf)
    count = sizeof buf;

  switch (rng_below (&m->rng, 12)) {
  case 0: case 1:
    assert_ok (file_read (m->inode, buf, count, offset));
    assert_memory_equal (buf, m->shadow.data + offset, count);
    break;
  case 2: case 3: case 4: case 5:
    do_write (m, count, offset, flags);
    break;
  case 6: case 7: case 8:
    do_zero (m, count, offset, flags);
    break;
  case 9:
    do_trim (m, count, offset, flags);
    break;
  case 10:
    if (rng_below (&m->rng, 4) == 0)
      assert_ok (filesystem_flush (m->fs));
    break;
  case 11:
    check_status (m, count, offset, rng_below (&m->rng, 2) ? UINT32_MAX : 1);
    break;
  }
}

static void
check_bad_ranges (struct model *m)
{
  const uint64_t size = m->shadow.size;
  uint8_t buf[2];

  assert_int_equal (file_read (m->inode, buf, 2, size - 1), EINVAL);
  assert_int_equal (file_write (m->inode, buf, 1, size, 0), EINVAL);
  assert_int_equal (file_write (m->inode, buf, 0, size + 1, 0), EINVAL);
  assert_int_equal (file_zero (m->inode, UINT64_MAX, 1, 0), EINVAL);
  assert_int_equal (file_trim (m->inode, 1, UINT64_MAX, 0), EINVAL);
  assert_int_equal (file_status (m->inode, size, 1, check_piece, NULL),
                    EINVAL);
  assert_int_equal (file_cache (m->inode, size + 1, 0), EINVAL);
}

static void
run_job (const struct job *job)
{
  struct model m;
  unsigned round, i;
  uint64_t none;

  model_init (&m, job);
  none = image_free_blocks (m.md);
  check_all (&m);
  check_bad_ranges (&m);
  for (round = 0; round < 4; round++) {
    for (i = 0; i < image_scale (500); i++)
      one_request (&m);
    check_all (&m);
    image_close (m.fs, m.inode);
    image_assert_clean (m.md);
    image_assert_dump (m.md, "f", m.shadow.data, m.shadow.size);
    model_open (&m);
    check_all (&m);
  }
  do_trim (&m, m.shadow.size, 0, 0);
  check_all (&m);
  image_close (m.fs, m.inode);
  image_assert_clean (m.md);
  assert_int_equal (image_free_blocks (m.md), none);
  model_free (&m);
}

#define TEST(name, ...)                                                 \
  static void                                                           \
  name (void **state)                                                   \
  {                                                                     \
    const struct job job = { __VA_ARGS__ };                             \
                                                                        \
    (void) state;                                                       \
    run_job (&job);                                                     \
  }

TEST (test_extents_1k, "-t ext4 -b 1024", MAPPED_BY_EXTENTS, 700123, true,
      true)
TEST (test_extents_1k_slow, "-t ext4 -b 1024 -O ^has_journal",
      MAPPED_BY_EXTENTS, 700123, true, false)
TEST (test_extents_4k, "-t ext4 -b 4096", MAPPED_BY_EXTENTS, 1400001, true,
      true)
TEST (test_extents_4k_none, "-t ext4 -b 4096", MAPPED_BY_EXTENTS, 1400001,
      false, false)
TEST (test_extents_one_block, "-t ext4 -b 4096", MAPPED_BY_EXTENTS, 1, true,
      false)
TEST (test_extents_whole, "-t ext4 -b 1024", MAPPED_BY_EXTENTS, 1 << 19,
      true, false)
TEST (test_indirect_1k, "-t ext2 -b 1024", MAPPED_BY_BLOCKS, 700123, true,
      true)
TEST (test_indirect_1k_none, "-t ext2 -b 1024", MAPPED_BY_BLOCKS, 700123,
      false, false)
TEST (test_indirect_4k, "-t ext3 -b 4096", MAPPED_BY_BLOCKS, 1400001, true,
      false)
TEST (test_inline_1k, "-t ext4 -b 1024 -I 256 -O inline_data", INLINE_DATA,
      117, true, true)
TEST (test_inline_4k, "-t ext4 -b 4096 -I 512 -O inline_data", INLINE_DATA,
      300, true, false)
TEST (test_inline_short, "-t ext4 -b 4096 -I 256 -O inline_data",
      INLINE_DATA, 43, true, true)

/* Files of which almost nothing is there. */

static int
count_piece (void *opaque, uint64_t offset, uint64_t count,
             enum map_state state)
{
  unsigned *pieces = opaque;

  (void) offset;
  (void) count;
  (void) state;
  return ++*pieces > 10000;
}

static time_t
seconds (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return ts.tv_sec;
}

static void
huge (const char *args, uint64_t size)
{
  static const struct image_file list[] = { { "f", 0, false }, { NULL } };
  const uint64_t at[] = { 0, size / 3, size / 2, size - 10 };
  struct memdev *md = image_make (args, UINT64_C (8) << 20, list);
  struct filesystem *fs;
  struct inode *inode;
  time_t start = seconds ();
  char command[64];
  uint8_t buf[10];
  uint64_t none;
  unsigned round, pieces, i;

  snprintf (command, sizeof command, "set_inode_field f size %llu",
            (unsigned long long) size);
  image_debugfs (md, command);
  none = image_free_blocks (md);
  for (round = 0; round < 3; round++) {
    fs = image_open (md);
    inode = image_iget (fs, "f");
    assert_int_equal (inode->size, size);
    for (i = 0; i < 4; i++)
      assert_ok (file_write (inode, "0123456789", 10, at[i], 0));
    for (i = 0; i < 4; i++) {
      assert_ok (file_read (inode, buf, 10, at[i]));
      assert_memory_equal (buf, "0123456789", 10);
    }
    pieces = 0;
    assert_ok (file_status (inode, size, 0, count_piece, &pieces));
    assert_in_range (pieces, 7, 10000);
    if (round == 0)
      assert_ok (file_trim (inode, size, 0, 0));
    else if (round == 1)
      assert_ok (file_zero (inode, size, 0, FILE_MAY_TRIM | FILE_FAST));
    else {
      /* More than there is: told, and what was there is not lost. */
      assert_int_equal (file_zero (inode, size - 4096, 4096, 0),
                        EXT2_ET_BLOCK_ALLOC_FAIL);
      assert_ok (file_read (inode, buf, 10, 0));
      assert_memory_equal (buf, "0123456789", 10);
      assert_ok (file_trim (inode, size, 0, 0));
    }
    image_close (fs, inode);
    image_assert_clean (md);
    assert_int_equal (image_free_blocks (md), none);
  }
  assert_true (seconds () - start < 20);
  memdev_free (md);
}

static void
test_huge (void **state)
{
  (void) state;
  huge ("-t ext4 -b 1024", UINT64_C (3) << 40);
  huge ("-t ext4 -b 4096", UINT64_C (12) << 40);
  huge ("-t ext3 -b 4096", UINT64_C (3) << 40);
  huge ("-t ext2 -b 1024", UINT64_C (15) << 30);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_extents_1k),
    cmocka_unit_test (test_extents_1k_slow),
    cmocka_unit_test (test_extents_4k),
    cmocka_unit_test (test_extents_4k_none),
    cmocka_unit_test (test_extents_one_block),
    cmocka_unit_test (test_extents_whole),
    cmocka_unit_test (test_indirect_1k),
    cmocka_unit_test (test_indirect_1k_none),
    cmocka_unit_test (test_indirect_4k),
    cmocka_unit_test (test_inline_1k),
    cmocka_unit_test (test_inline_4k),
    cmocka_unit_test (test_inline_short),
    cmocka_unit_test (test_huge),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

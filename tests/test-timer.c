/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What has been changed is committed after some time although nobody asks;
 * and when nothing has been, nothing is done.
 *
 * The time is the real one and what the test adds to it.
 */

#include <config.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "image.h"

#define BLOCK 1024
#define SIZE (UINT64_C (1) << 20)
#define HOUR (UINT64_C (3600) * 1000)           /* ms */

#define JOURNAL "-t ext4 -b 1024 -m 0 -J size=4"
#define NO_JOURNAL "-t ext4 -b 1024 -m 0 -O ^has_journal"
#define BLOCKS "-t ext2 -b 1024 -m 0"

#define ANY (MEMDEV_CHANGES | MEMDEV_MASK (MEMDEV_FLUSH))

static const struct image_file files[] = {
  { "full", SIZE, true }, { "hole", SIZE, false }, { NULL },
};

static const char *const kinds[] = { JOURNAL, NO_JOURNAL, BLOCKS, NULL };

/* The clock, and how often it has been looked at. */
static _Atomic uint64_t added, looks;

extern uint64_t __real_clock_us (void);
extern uint64_t __wrap_clock_us (void);

uint64_t
__wrap_clock_us (void)
{
  const uint64_t now = __real_clock_us () + atomic_load (&added);

  atomic_fetch_add (&looks, 1);
  return now;
}

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *full, *hole;
};

static void
setup_init (struct setup *s, const char *args, unsigned commit_ms)
{
  const struct filesystem_options opts = { .commit_ms = commit_ms };

  atomic_store (&added, 0);
  s->md = image_make (args, UINT64_C (12) << 20, files);
  assert_ok (filesystem_open (&s->md->dev, &opts, &s->fs));
  /* The thread has started, and waits. */
  assert_ok (filesystem_flush (s->fs));
  syncer_drain (s->fs);
  s->full = image_iget (s->fs, "full");
  s->hole = image_iget (s->fs, "hole");
}

static void
setup_free (struct setup *s)
{
  iput (s->full);
  image_close (s->fs, s->hole);
  image_assert_clean (s->md);
  memdev_free (s->md);
}

static void
write_block (struct inode *inode, uint64_t lblk)
{
  uint8_t data[BLOCK];

  memset (data, 0x5a, sizeof data);
  assert_ok (file_write (inode, data, sizeof data, lblk * BLOCK, 0));
}

/* Is the timer on, or about to be? */
static bool
is_timed (struct setup *s)
{
  struct syncer *y = &s->fs->syncer;

  LOCK_FOR_SCOPE (&y->lock);
  return y->due != 0 || (atomic_load (&s->fs->to_settle) & SETTLE_TIMER);
}

/* Is something else left to do, that needs no time? */
static bool
has_more (struct setup *s)
{
  struct syncer *y = &s->fs->syncer;

  LOCK_FOR_SCOPE (&y->lock);
  return y->more || y->rest_is_next;
}

static bool
is_at_rest (struct setup *s)
{
  return !has_more (s) && !is_timed (s);
}

/* It is later by so much.  The thread looks at the clock, if it has a reason
 * to.
 */
static void
let_pass (struct setup *s, unsigned minutes)
{
  struct syncer *y = &s->fs->syncer;

  atomic_fetch_add (&added, UINT64_C (60) * minutes * 1000000);
  lock_acquire (&y->lock);
  pthread_cond_signal (&y->wanted);
  lock_release (&y->lock);
}

static uint64_t
committed (struct setup *s)
{
  return atomic_load (&s->fs->committed_tid);
}

/* What a power cut leaves now has the block of "hole". */
static void
assert_durable (struct setup *s, uint64_t lblk)
{
  struct memdev *cut = memdev_power_cut (s->md, s->md->log_count, 1);
  struct filesystem *fs;
  struct inode *inode;
  uint8_t data[BLOCK];
  unsigned i;

  assert_in_range (image_fsck (cut, "-fp", 1), 0, 1);
  fs = image_open (cut);
  inode = image_iget (fs, "hole");
  assert_ok (file_read (inode, data, sizeof data, lblk * BLOCK));
  for (i = 0; i < sizeof data; i++)
    assert_int_equal (data[i], 0x5a);
  image_close (fs, inode);
  memdev_free (cut);
}

static void
test_by_itself (void **state)
{
  struct setup s;
  unsigned i;

  (void) state;
  for (i = 0; kinds[i]; i++) {
    setup_init (&s, kinds[i], 1);
    memdev_log_start (s.md);
    write_block (s.hole, 70);
    while (committed (&s) == 0 || !is_at_rest (&s))
      usleep (100);
    memdev_log_stop (s.md);
    assert_durable (&s, 70);
    setup_free (&s);
  }
}

/* Not before it is time, and then once. */
static void
test_in_time (void **state)
{
  struct setup s;
  uint64_t calls, before;
  unsigned i;

  (void) state;
  for (i = 0; kinds[i]; i++) {
    setup_init (&s, kinds[i], HOUR);
    write_block (s.hole, 70);
    write_block (s.hole, 300);
    calls = memdev_count (s.md, ANY);
    assert_true (is_timed (&s));
    before = atomic_load (&looks);
    let_pass (&s, 50);
    while (atomic_load (&looks) == before)
      usleep (100);
    assert_true (is_timed (&s));        /* it has not started */
    assert_int_equal (memdev_count (s.md, ANY), calls);
    /* This does not put it off. */
    write_block (s.hole, 500);
    let_pass (&s, 11);
    while (committed (&s) == 0 || !is_at_rest (&s))
      usleep (100);
    assert_int_equal (committed (&s), 1);
    setup_free (&s);
  }
}

/* What a commit frees without a journal is a change again, and that is all.
 */
static void
test_frees (void **state)
{
  struct setup s;
  unsigned i, n;

  (void) state;
  for (i = 0; kinds[i]; i++) {
    setup_init (&s, kinds[i], HOUR);
    assert_ok (file_trim (s.full, SIZE / 2, 0, 0));
    for (n = 1; is_timed (&s); n++) {
      let_pass (&s, 61);
      while (committed (&s) < n || has_more (&s))
        usleep (100);
    }
    assert_int_equal (committed (&s),
                      strcmp (kinds[i], JOURNAL) == 0 ? 1 : 2);
    setup_free (&s);
  }
}

static int
ignore_piece (void *opaque, uint64_t offset, uint64_t count,
              enum map_state state)
{
  (void) opaque;
  (void) offset;
  (void) count;
  (void) state;
  return 0;
}

/* Nothing was changed but data, so nobody looks at the clock, and the
 * device is called by the requests alone.
 */
static void
test_idle (void **state)
{
  struct setup s;
  uint8_t *buf = malloc (SIZE);
  uint64_t before, calls;
  unsigned i;

  (void) state;
  assert_non_null (buf);
  for (i = 0; kinds[i]; i++) {
    setup_init (&s, kinds[i], 1);
    before = atomic_load (&looks);
    calls = memdev_count (s.md, ANY);
    assert_ok (file_read (s.full, buf, SIZE, 0));
    assert_ok (file_read (s.hole, buf, SIZE, 0));
    assert_ok (file_status (s.full, SIZE, 0, ignore_piece, NULL));
    assert_ok (file_cache (s.full, SIZE, 0));
    assert_ok (file_trim (s.hole, SIZE, 0, 0));
    assert_ok (file_zero (s.hole, SIZE, 0, FILE_MAY_TRIM));
    write_block (s.full, 7);
    assert_true (is_at_rest (&s));
    let_pass (&s, 60);
    usleep (20000);
    assert_int_equal (atomic_load (&looks), before);
    assert_int_equal (memdev_count (s.md, ANY), calls + 1);
    setup_free (&s);
  }
  free (buf);
}

/* A flush has done it already. */
static void
test_flushed (void **state)
{
  struct setup s;
  uint64_t calls;

  (void) state;
  setup_init (&s, JOURNAL, HOUR);
  write_block (s.hole, 70);
  assert_true (is_timed (&s));
  assert_ok (filesystem_flush (s.fs));
  syncer_drain (s.fs);
  assert_true (is_at_rest (&s));
  calls = memdev_count (s.md, MEMDEV_ALL);
  let_pass (&s, 61);
  usleep (20000);
  assert_int_equal (memdev_count (s.md, MEMDEV_ALL), calls);
  /* And the next change starts it again. */
  write_block (s.hole, 90);
  assert_true (is_timed (&s));
  let_pass (&s, 61);
  while (committed (&s) < 2)
    usleep (100);
  setup_free (&s);
}

/* The times that the last client of a file leaves behind are a change. */
static void
test_times (void **state)
{
  struct setup s;

  (void) state;
  setup_init (&s, JOURNAL, 1);
  write_block (s.full, 7);
  iput (s.full);
  while (committed (&s) == 0)
    usleep (100);
  s.full = image_iget (s.fs, "full");
  setup_free (&s);
}

/* 0: only when somebody asks. */
static void
test_off (void **state)
{
  struct setup s;

  (void) state;
  setup_init (&s, JOURNAL, 0);
  write_block (s.hole, 70);
  let_pass (&s, 1000);
  usleep (20000);
  assert_int_equal (committed (&s), 0);
  assert_false (is_timed (&s));
  setup_free (&s);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_by_itself),
    cmocka_unit_test (test_in_time),
    cmocka_unit_test (test_frees),
    cmocka_unit_test (test_idle),
    cmocka_unit_test (test_flushed),
    cmocka_unit_test (test_times),
    cmocka_unit_test (test_off),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

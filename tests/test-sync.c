/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* How the sync thread divides its time between syncs and the rest of its
 * work: checkpoints and giving back what was freed.
 *
 * The time is what the calls to the device are said to have cost, so it is
 * known how many of them a piece of the rest may consist of.
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "image.h"
#include "log.h"

#define BLOCK 1024
#define SIZE (UINT64_C (1200) << 10)
#define LARGE (UINT64_C (64) << 20)
#define MS 1000

#define JOURNAL "-t ext4 -b 1024 -m 0 -J size=4"
#define NO_JOURNAL "-t ext4 -b 1024 -m 0 -O ^has_journal"
#define BLOCKS "-t ext3 -b 1024 -m 0 -J size=4"

static const struct image_file files[] = {
  { "f", SIZE, true }, { "g", LARGE, false }, { NULL },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *f, *g;
};

/* The clock: microseconds per call. */
static struct memdev *_Atomic timed;
static _Atomic uint64_t cost[MEMDEV_CALLS];

extern uint64_t __wrap_clock_us (void);

uint64_t
__wrap_clock_us (void)
{
  struct memdev *md = atomic_load (&timed);
  uint64_t us = 1;
  unsigned i;

  for (i = 0; md && i < MEMDEV_CALLS; i++)
    us += atomic_load (&md->calls[i]) * atomic_load (&cost[i]);
  return us;
}

static void
setup_open (struct setup *s)
{
  s->fs = image_open (s->md);
  s->f = image_iget (s->fs, "f");
  s->g = image_iget (s->fs, "g");
  atomic_store (&timed, s->md);
}

static void
setup_init (struct setup *s, const char *args)
{
  unsigned i;

  for (i = 0; i < MEMDEV_CALLS; i++)
    atomic_store (&cost[i], 0);
  s->md = image_make (args, UINT64_C (12) << 20, files);
  setup_open (s);
}

static void
setup_close (struct setup *s)
{
  iput (s->f);
  image_close (s->fs, s->g);
}

static void
setup_free (struct setup *s)
{
  setup_close (s);
  image_assert_clean (s->md);
  atomic_store (&timed, NULL);
  memdev_free (s->md);
}

static void
write_block (struct inode *inode, uint64_t lblk)
{
  uint8_t data[BLOCK];

  memset (data, 0x5a, sizeof data);
  assert_ok (file_write (inode, data, sizeof data, lblk * BLOCK, 0));
}

/* So many ranges have been freed, durably, and the device does not answer
 * to the first trim of them.
 */
static void
free_and_hold (struct setup *s, unsigned ranges)
{
  unsigned i;

  for (i = 0; i < ranges; i++)
    assert_ok (file_trim (s->f, BLOCK, (UINT64_C (2) * i + 1) * BLOCK, 0));
  memdev_hold_trims (s->md, true);
  assert_ok (filesystem_flush (s->fs));
  memdev_wait_held (s->md);
}

/* Threads that wait for the sync thread. */
struct waiter {
  pthread_t thread;
  struct setup *s;
  atomic_bool done;
};

static void *
drain (void *opaque)
{
  struct waiter *w = opaque;

  syncer_drain (w->s->fs);
  atomic_store (&w->done, true);
  return NULL;
}

static void *
flush (void *opaque)
{
  struct waiter *w = opaque;

  must (filesystem_flush (w->s->fs) == 0);
  atomic_store (&w->done, true);
  return NULL;
}

static void
start (struct waiter *w, struct setup *s, void *(*what) (void *))
{
  w->s = s;
  atomic_store (&w->done, false);
  must (pthread_create (&w->thread, NULL, what, w) == 0);
}

static void
join (struct waiter *w)
{
  pthread_join (w->thread, NULL);
}

static bool
is_draining (struct setup *s)
{
  struct syncer *y = &s->fs->syncer;

  LOCK_FOR_SCOPE (&y->lock);
  return y->draining > 0;
}

static bool
is_requested (struct setup *s)
{
  struct syncer *y = &s->fs->syncer;

  LOCK_FOR_SCOPE (&y->lock);
  return y->requested != y->completed;
}

static void
wait_for_request (struct setup *s)
{
  while (!is_requested (s))
    usleep (100);
}

/* Calls of a kind in the device's log before the first flush. */
static unsigned
calls_before_flush (struct memdev *md, enum memdev_call call)
{
  unsigned n = 0;
  size_t i;

  for (i = 0; i < md->log_count && md->log[i].call != MEMDEV_FLUSH; i++)
    n += md->log[i].call == call;
  assert_true (i < md->log_count);
  return n;
}

/* A flush does not wait for all that is to be trimmed, although somebody
 * waits for that.
 */
static void
flush_between_trims (const char *args)
{
  struct setup s;
  struct waiter drainer, flusher;

  setup_init (&s, args);
  atomic_store (&cost[MEMDEV_FLUSH], MS);
  atomic_store (&cost[MEMDEV_TRIM], 10 * MS);
  free_and_hold (&s, 300);
  start (&drainer, &s, drain);
  while (!is_draining (&s))
    usleep (100);
  start (&flusher, &s, flush);
  wait_for_request (&s);
  memdev_log_start (s.md);
  memdev_hold_trims (s.md, false);
  join (&flusher);
  join (&drainer);
  memdev_log_stop (s.md);
  /* The one that was held. */
  assert_int_equal (calls_before_flush (s.md, MEMDEV_TRIM), 1);
  assert_int_equal (memdev_count (s.md, MEMDEV_MASK (MEMDEV_TRIM)), 300);
  setup_free (&s);
}

static void
test_flush_between_trims (void **state)
{
  (void) state;
  flush_between_trims (JOURNAL);
  flush_between_trims (NO_JOURNAL);
}

/* Trims between two flushes, at least and at most, while there are more to
 * be made than that.
 */
struct turns {
  unsigned least, most;
};

static struct turns
count_turns (struct memdev *md, unsigned trims)
{
  struct turns t = { UINT32_MAX, 0 };
  unsigned n = 0, all = 0;
  size_t i;
  bool flushed = false;

  for (i = 0; i < md->log_count; i++) {
    if (md->log[i].call == MEMDEV_TRIM) {
      n++;
      all++;
    }
    if (all == trims)
      break;
    if (md->log[i].call != MEMDEV_FLUSH)
      continue;
    if (flushed && n < t.least)
      t.least = n;
    if (flushed && n > t.most)
      t.most = n;
    flushed = true;
    n = 0;
  }
  assert_int_equal (all, trims);
  return t;
}

struct flusher {
  pthread_t thread;
  struct filesystem *fs;
  atomic_bool stop;
};

static void *
flush_on (void *opaque)
{
  struct flusher *f = opaque;

  while (!atomic_load (&f->stop))
    must (filesystem_flush (f->fs) == 0);
  return NULL;
}

/* No trim begins before a flush is wanted. */
static void
wait_before_trim (void *opaque, enum memdev_call call)
{
  if (call == MEMDEV_TRIM)
    wait_for_request (opaque);
}

/* Both go on under a steady load of flushes.  Without anything to commit a
 * sync is one flush of the device.
 */
static struct turns
turns_under_load (unsigned flush_cost, unsigned trim_cost, bool urgent)
{
  enum { RANGES = 400 };
  struct flusher f;
  struct waiter drainer;
  struct setup s;
  struct turns t;

  setup_init (&s, JOURNAL);
  atomic_store (&cost[MEMDEV_FLUSH], flush_cost);
  atomic_store (&cost[MEMDEV_TRIM], trim_cost);
  free_and_hold (&s, RANGES);
  s.md->opaque = &s;
  s.md->before = wait_before_trim;
  memdev_log_start (s.md);
  if (urgent) {
    start (&drainer, &s, drain);
    while (!is_draining (&s))
      usleep (100);
  }
  f = (struct flusher) { .fs = s.fs };
  must (pthread_create (&f.thread, NULL, flush_on, &f) == 0);
  memdev_hold_trims (s.md, false);
  while (memdev_count (s.md, MEMDEV_MASK (MEMDEV_TRIM)) < RANGES)
    usleep (100);
  if (urgent)
    join (&drainer);
  atomic_store (&f.stop, true);
  pthread_join (f.thread, NULL);
  memdev_log_stop (s.md);
  t = count_turns (s.md, RANGES);
  setup_free (&s);
  return t;
}

/* However slow a trim is, one has its turn, and no more. */
static void
test_slow_trims (void **state)
{
  struct turns t;

  (void) state;
  t = turns_under_load (MS, 50 * MS, false);
  assert_int_equal (t.least, 1);
  assert_int_equal (t.most, 1);
  t = turns_under_load (MS, 50 * MS, true);
  assert_int_equal (t.least, 1);
  assert_int_equal (t.most, 1);
}

/* As many as fit into the time of a sync if somebody waits for them, else
 * into an eighth of it.
 */
static void
test_quick_trims (void **state)
{
  struct turns t;

  (void) state;
  t = turns_under_load (80 * MS, MS, false);
  assert_int_equal (t.least, 10);
  assert_int_equal (t.most, 10);
  t = turns_under_load (80 * MS, MS, true);
  assert_int_equal (t.least, 80);
  assert_int_equal (t.most, 80);
  /* But not for long. */
  t = turns_under_load (10000 * MS, MS, true);
  assert_int_equal (t.least, 100);
  assert_int_equal (t.most, 100);
}

/* Each of them a table of pointers, next to each other on the device. */
#define TABLES 128

static void
touch_tables (struct setup *s, unsigned step, unsigned round)
{
  unsigned i;

  for (i = 0; i < TABLES; i += step)
    write_block (s->g, 300 + 256 * i + round);
}

/* No write of a checkpoint begins before a flush is wanted. */
static atomic_bool checkpointing;

static void
wait_before_write (void *opaque, enum memdev_call call)
{
  struct setup *s = opaque;

  if (call != MEMDEV_WRITE || is_requested (s) ||
      !pthread_equal (pthread_self (), s->fs->syncer.thread))
    return;
  atomic_store (&checkpointing, true);
  wait_for_request (s);
}

/* Has the sync thread nothing more to do, but for a checkpoint? */
static bool
is_settled (struct setup *s)
{
  struct syncer *y = &s->fs->syncer;

  LOCK_FOR_SCOPE (&y->lock);
  return !y->more || atomic_load (&checkpointing);
}

/* Most writes between two flushes in the device's log; and all of them. */
static unsigned
longest_row (struct memdev *md, unsigned *all)
{
  unsigned most = 0, n = 0;
  size_t i;

  *all = 0;
  for (i = 0; i < md->log_count; i++) {
    if (md->log[i].call == MEMDEV_FLUSH)
      n = 0;
    else if (++n > most)
      most = n;
    *all += md->log[i].call == MEMDEV_WRITE;
  }
  return most;
}

/* Nor does a flush wait for a whole checkpoint, or a large piece of it:
 * here every other table has been changed, so each is a write of its own.
 */
static void
test_slow_checkpoint (void **state)
{
  struct setup s;
  unsigned i, all;

  (void) state;
  setup_init (&s, BLOCKS);
  touch_tables (&s, 1, 0);
  setup_close (&s);
  setup_open (&s);
  atomic_store (&cost[MEMDEV_FLUSH], MS);
  atomic_store (&checkpointing, false);
  for (i = 1; !atomic_load (&checkpointing); i++) {
    touch_tables (&s, 2, i);
    assert_ok (filesystem_flush (s.fs));
    while (!is_settled (&s))
      usleep (100);
    s.md->opaque = &s;
    s.md->before = wait_before_write;
  }
  atomic_store (&cost[MEMDEV_WRITE], 10 * MS);
  memdev_log_start (s.md);
  for (i = 0; i < TABLES; i++)
    assert_ok (filesystem_flush (s.fs));
  memdev_log_stop (s.md);
  assert_true (longest_row (s.md, &all) <= 2);
  assert_true (all > TABLES / 2);
  s.md->before = NULL;
  setup_free (&s);
}

/* Who frees more than the device can be told of has to wait; others need
 * not.
 */
struct trimmer {
  pthread_t thread;
  struct setup *s;
  atomic_uint trims;
  atomic_bool done;
};

#define MOST 40
#define EVERY 10

static void *
trim_on (void *opaque)
{
  struct trimmer *t = opaque;
  unsigned i;

  for (i = 0; i < 10 * MOST; i++) {
    must (file_trim (t->s->f, BLOCK, (2 * i + 1) * BLOCK, 0) == 0);
    atomic_store (&t->trims, i + 1);
    if (i % EVERY == 0)
      must (filesystem_flush (t->s->fs) == 0);
  }
  atomic_store (&t->done, true);
  return NULL;
}

/* A trim begins when a flush is wanted, or all may. */
static atomic_bool trims_go;

static void
hold_back_trims (void *opaque, enum memdev_call call)
{
  while (call == MEMDEV_TRIM && !is_requested (opaque) &&
         !atomic_load (&trims_go))
    usleep (100);
}

static void
pace (const char *args)
{
  struct setup s;
  struct trimmer t = { .s = &s };

  setup_init (&s, args);
  s.fs->most_releasing = MOST;
  atomic_store (&cost[MEMDEV_FLUSH], MS);
  atomic_store (&cost[MEMDEV_TRIM], 10 * MS);
  atomic_store (&trims_go, false);
  s.md->opaque = &s;
  s.md->before = hold_back_trims;
  must (pthread_create (&t.thread, NULL, trim_on, &t) == 0);
  while (!is_draining (&s) && !atomic_load (&t.done))
    usleep (100);
  assert_in_range (atomic_load (&t.trims), MOST, MOST + 3 * EVERY);
  write_block (s.f, 0);
  write_block (s.g, 0);
  assert_ok (filesystem_flush (s.fs));
  assert_false (atomic_load (&t.done));
  atomic_store (&trims_go, true);
  pthread_join (t.thread, NULL);
  setup_free (&s);
}

static void
test_pace (void **state)
{
  (void) state;
  pace (JOURNAL);
  pace (NO_JOURNAL);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_flush_between_trims),
    cmocka_unit_test (test_slow_trims),
    cmocka_unit_test (test_quick_trims),
    cmocka_unit_test (test_slow_checkpoint),
    cmocka_unit_test (test_pace),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

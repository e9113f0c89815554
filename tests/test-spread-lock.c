/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The lock for many readers: who is in it together, who is not, and in
 * which order those come who wait.  ThreadSanitizer sees the plain
 * variables that it guards here.
 */

#include <config.h>

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "spread-lock.h"

static struct spread_lock lock;

static pthread_t
start (void *(*what) (void *), const void *arg)
{
  pthread_t t;

  assert_int_equal (pthread_create (&t, NULL, what, (void *) arg), 0);
  return t;
}

static void
wait_until_closed (void)
{
  while (atomic_load (&lock.closed) == 0)
    sched_yield ();
}

/* Many of both. */

#define READERS (SPREAD_PARTS + 3)      /* some share a place */
#define WRITERS 3

static unsigned long a, b;      /* [lock] equal */

static void *
read_much (void *arg)
{
  const unsigned *n = arg;
  unsigned i;

  for (i = 0; i < *n; i++) {
    spread_lock_shared (&lock);
    if (a != b)
      abort ();
    if (i % 64 == 0)            /* so that writers have to sleep */
      usleep (1);
    spread_unlock_shared (&lock);
  }
  return NULL;
}

static void *
write_much (void *arg)
{
  const unsigned *n = arg;
  unsigned i;

  for (i = 0; i < *n; i++) {
    spread_lock_exclusive (&lock);
    a++;
    if (i % 16 == 0)            /* so that readers have to */
      usleep (1);
    b++;
    spread_unlock_exclusive (&lock);
  }
  return NULL;
}

static void
many (unsigned spins)
{
  pthread_t t[READERS + WRITERS];
  unsigned reads = image_scale (20000), writes = image_scale (3000), i;
  const unsigned long written = (unsigned long) writes * WRITERS;

  a = b = 0;
  spread_lock_init (&lock, spins);
  for (i = 0; i < READERS; i++)
    t[i] = start (read_much, &reads);
  for (; i < READERS + WRITERS; i++)
    t[i] = start (write_much, &writes);
  for (i = 0; i < READERS + WRITERS; i++)
    pthread_join (t[i], NULL);
  assert_int_equal (a, written);
  assert_int_equal (b, written);
  spread_lock_destroy (&lock);
}

static void
test_many_sleeping (void **state)
{
  (void) state;
  many (0);
}

static void
test_many_spinning (void **state)
{
  (void) state;
  many (200);
}

/* Ranges: of each piece only its holders change the counters. */

#define PIECE (UINT64_C (128) << 10)
#define PIECES 6

static unsigned long c[PIECES], d[PIECES];      /* [lock of the piece] */

static void
pick (unsigned i, unsigned *first, unsigned *last)
{
  *first = i * 7 % PIECES;
  *last = *first + i * 5 % (PIECES - *first);
}

static void *
read_ranges (void *arg)
{
  const unsigned *n = arg;
  unsigned i, j, first, last;
  spread_range *place;

  for (i = 0; i < *n; i++) {
    pick (i, &first, &last);
    /* Neither end is that of a piece. */
    place = spread_lock_range_shared (&lock, first * PIECE + 4096,
                                      (last - first) * PIECE + 1);
    for (j = first; j <= last; j++)
      if (c[j] != d[j])
        abort ();
    if (i % 64 == 0)
      usleep (1);
    spread_unlock_range_shared (&lock, place);
  }
  return NULL;
}

static void *
write_ranges (void *arg)
{
  const unsigned *n = arg;
  unsigned i, j, first, last;

  for (i = 0; i < *n; i++) {
    pick (i, &first, &last);
    spread_lock_range_exclusive (&lock, first * PIECE,
                                 (last - first + 1) * PIECE);
    for (j = first; j <= last; j++)
      c[j]++;
    if (i % 16 == 0)
      usleep (1);
    for (j = first; j <= last; j++)
      d[j]++;
    spread_unlock_exclusive (&lock);
  }
  return NULL;
}

static void
test_many_ranges (void **state)
{
  /* More readers than there are places for ranges. */
  enum { NREADERS = SPREAD_PARTS * SPREAD_PLACES + 5 };
  pthread_t t[NREADERS + WRITERS];
  unsigned reads = image_scale (4000), writes = image_scale (3000), i;

  (void) state;
  memset (c, 0, sizeof c);
  memset (d, 0, sizeof d);
  spread_lock_init (&lock, 0);
  for (i = 0; i < NREADERS; i++)
    t[i] = start (read_ranges, &reads);
  for (; i < NREADERS + WRITERS; i++)
    t[i] = start (write_ranges, &writes);
  for (i = 0; i < NREADERS + WRITERS; i++)
    pthread_join (t[i], NULL);
  assert_memory_equal (c, d, sizeof c);
  spread_lock_destroy (&lock);
}

/* Who does not overlap does not wait: none of this would return. */
static void
test_disjoint (void **state)
{
  static const uint64_t far[] = {
    0, PIECE, 2 * PIECE, 4 * PIECE, UINT64_C (1) << 40, UINT64_C (1) << 47,
  };
  spread_range *place[6];
  unsigned i;

  (void) state;
  spread_lock_init (&lock, 0);
  spread_lock_range_exclusive (&lock, 3 * PIECE, PIECE);
  for (i = 0; i < 6; i++) {
    place[i] = spread_lock_range_shared (&lock, far[i], 4096);
    assert_non_null (place[i]);
  }
  spread_unlock_exclusive (&lock);
  spread_lock_range_exclusive (&lock, 3 * PIECE, PIECE);
  spread_unlock_exclusive (&lock);
  spread_lock_range_exclusive (&lock, 5 * PIECE, 100 * PIECE);
  spread_unlock_exclusive (&lock);
  for (i = 0; i < 6; i++)
    spread_unlock_range_shared (&lock, place[i]);
  spread_lock_destroy (&lock);
}

/* Who overlaps does wait, be it by one byte. */

static uint64_t range_offset, range_count;

static void *
lock_range (void *arg)
{
  spread_lock_range_exclusive (&lock, range_offset, range_count);
  *(atomic_bool *) arg = true;
  spread_unlock_exclusive (&lock);
  return NULL;
}

static void
test_overlapping (void **state)
{
  static const struct {
    uint64_t offset, count;
  } r[] = {
    { 10 * PIECE, 1 }, { 10 * PIECE, 0 }, { 0, 10 * PIECE + 1 },
    { 11 * PIECE - 1, 1 }, { 11 * PIECE - 1, 100 * PIECE },
    { 0, UINT64_MAX }, { 10 * PIECE + 5, 7 },
  };
  unsigned i;

  (void) state;
  for (i = 0; i < sizeof r / sizeof r[0]; i++) {
    atomic_bool entered = false;
    spread_range *place;
    pthread_t t;

    spread_lock_init (&lock, 0);
    place = spread_lock_range_shared (&lock, 10 * PIECE, PIECE);
    range_offset = r[i].offset;
    range_count = r[i].count;
    t = start (lock_range, &entered);
    wait_until_closed ();
    usleep (1000);
    assert_false (atomic_load (&entered));
    spread_unlock_range_shared (&lock, place);
    pthread_join (t, NULL);
    assert_true (atomic_load (&entered));
    spread_lock_destroy (&lock);
  }
}

/* With all places taken, readers of ranges are counted. */
static void
test_no_place (void **state)
{
  enum { PLACES = SPREAD_PARTS * SPREAD_PLACES };
  spread_range *place[PLACES + 2];
  atomic_bool entered = false;
  pthread_t t;
  unsigned i;

  (void) state;
  spread_lock_init (&lock, 0);
  for (i = 0; i < PLACES + 2; i++)
    place[i] = spread_lock_range_shared (&lock, i * PIECE, PIECE);
  assert_non_null (place[PLACES - 1]);
  assert_null (place[PLACES]);
  for (i = 0; i < PLACES; i++)
    spread_unlock_range_shared (&lock, place[i]);
  range_offset = 1000 * PIECE;
  range_count = 1;
  t = start (lock_range, &entered);
  wait_until_closed ();
  usleep (1000);
  assert_false (atomic_load (&entered));
  spread_unlock_range_shared (&lock, NULL);
  usleep (1000);
  assert_false (atomic_load (&entered));
  spread_unlock_range_shared (&lock, NULL);
  pthread_join (t, NULL);
  assert_true (atomic_load (&entered));
  spread_lock_destroy (&lock);
}

/* Readers are in it together. */

static pthread_barrier_t together;

static void *
read_together (void *arg)
{
  (void) arg;
  spread_lock_shared (&lock);
  pthread_barrier_wait (&together);
  spread_unlock_shared (&lock);
  return NULL;
}

static void
test_readers_share (void **state)
{
  pthread_t t[READERS];
  unsigned i;

  (void) state;
  spread_lock_init (&lock, 0);
  pthread_barrier_init (&together, NULL, READERS);
  for (i = 0; i < READERS; i++)
    t[i] = start (read_together, NULL);
  for (i = 0; i < READERS; i++)
    pthread_join (t[i], NULL);
  pthread_barrier_destroy (&together);
  spread_lock_destroy (&lock);
}

/* The order of those who wait. */

static char order[16];
static atomic_uint come;

static void
note (const char *who)
{
  order[atomic_fetch_add (&come, 1)] = *who;
}

static void *
read_once (void *arg)
{
  spread_lock_shared (&lock);
  note (arg);
  spread_unlock_shared (&lock);
  return NULL;
}

static void *
write_once (void *arg)
{
  spread_lock_exclusive (&lock);
  note (arg);
  spread_unlock_exclusive (&lock);
  return NULL;
}

static void
wait_until_waiting (unsigned n)
{
  unsigned waiting;

  do {
    sched_yield ();
    pthread_mutex_lock (&lock.mutex);
    waiting = lock.waiting;
    pthread_mutex_unlock (&lock.mutex);
  } while (waiting < n);
}

static void
start_order (void)
{
  memset (order, 0, sizeof order);
  atomic_store (&come, 0);
  spread_lock_init (&lock, 0);
}

/* A writer goes before readers that come after him. */
static void
test_writer_first (void **state)
{
  pthread_t w, r[2];

  (void) state;
  start_order ();
  spread_lock_shared (&lock);
  w = start (write_once, "W");
  wait_until_closed ();
  r[0] = start (read_once, "r");
  r[1] = start (read_once, "r");
  wait_until_waiting (2);
  assert_string_equal (order, "");
  spread_unlock_shared (&lock);
  pthread_join (w, NULL);
  pthread_join (r[0], NULL);
  pthread_join (r[1], NULL);
  assert_string_equal (order, "Wrr");
  spread_lock_destroy (&lock);
}

/* Readers that wait for one writer go before the next. */
static void
test_readers_next (void **state)
{
  pthread_t w, r[2];

  (void) state;
  start_order ();
  spread_lock_exclusive (&lock);
  r[0] = start (read_once, "r");
  r[1] = start (read_once, "r");
  wait_until_waiting (2);
  w = start (write_once, "W");
  usleep (20000);               /* it should sleep, but need not */
  assert_string_equal (order, "");
  spread_unlock_exclusive (&lock);
  pthread_join (w, NULL);
  pthread_join (r[0], NULL);
  pthread_join (r[1], NULL);
  assert_string_equal (order, "rrW");
  spread_lock_destroy (&lock);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_many_sleeping),
    cmocka_unit_test (test_many_spinning),
    cmocka_unit_test (test_many_ranges),
    cmocka_unit_test (test_disjoint),
    cmocka_unit_test (test_overlapping),
    cmocka_unit_test (test_no_place),
    cmocka_unit_test (test_readers_share),
    cmocka_unit_test (test_writer_first),
    cmocka_unit_test (test_readers_next),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

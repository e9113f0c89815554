/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* lib/spread-lock.c in all executions (explore.h): who has it exclusively is
 * alone, and sees what others did while they had it; nobody waits for ever;
 * and readers who have waited for a writer go before the next one.
 */

#include <config.h>

#include "explore.h"

/* As many as the threads of a scenario can make use of. */
#define SPREAD_PARTS 2
#define SPREAD_PLACES 1

#include "spread-lock.c"

#define PIECE (UINT64_C (1) << SPREAD_UNIT_BITS)

static struct spread_lock lock;

/* [the lock, of it all or of the piece] */
static unsigned data[2];
static bool owed, entered;      /* see write_in_turn */

static void
setup_with (unsigned spins)
{
  unsigned i, j;

  spread_lock_init (&lock, spins);
  memset (data, 0, sizeof data);
  owed = entered = false;
  explore_name (&threads, sizeof threads, "threads");
  explore_name (&lock.closed, sizeof lock.closed, "closed");
  for (i = 0; i < SPREAD_PARTS; i++) {
    explore_name (&lock.part[i].counted, sizeof lock.part[i].counted,
                  "counted");
    for (j = 0; j < SPREAD_PLACES; j++)
      explore_name (&lock.part[i].place[j], sizeof lock.part[i].place[j],
                    "place");
  }
  explore_name (&lock.writer, sizeof lock.writer, "writer");
  explore_name (&lock.mutex, sizeof lock.mutex, "mutex");
  explore_name (&lock.left, sizeof lock.left, "left");
  explore_name (&lock.turn, sizeof lock.turn, "turn");
  explore_name (data, sizeof data, "data");
}

static void setup (void) { setup_with (0); }
static void setup_spinning (void) { setup_with (1); }

/* All of it. */

static void
read_any (void)
{
  spread_lock_shared (&lock);
  (void) *(volatile unsigned *) data;
  spread_unlock_shared (&lock);
}

static void
read_all (void)
{
  spread_lock_shared (&lock);
  explore_check (data[0] == data[1]);
  spread_unlock_shared (&lock);
}

static void
write_all (void)
{
  spread_lock_exclusive (&lock);
  data[0]++;
  data[1]++;
  spread_unlock_exclusive (&lock);
}

static void
read_twice (void)
{
  read_all ();
  read_all ();
}

static const struct explore_scenario one_and_one = {
  "spread-lock: a reader twice and a writer", setup,
  { read_twice, write_all }, NULL, 1,
};

static const struct explore_scenario two_readers = {
  "spread-lock: two readers and a writer", setup,
  { read_all, read_all, write_all },
};

static const struct explore_scenario two_writers = {
  "spread-lock: a reader and two writers", setup,
  { read_all, write_all, write_all },
};

static const struct explore_scenario spinning = {
  "spread-lock: a reader and a writer that spin", setup_spinning,
  { read_all, write_all }, NULL, 1,
};

/* Ranges. */

static void
read_piece (unsigned i)
{
  spread_range *place = spread_lock_range_shared (&lock, i * PIECE, 1);

  (void) *(volatile unsigned *) &data[i];
  spread_unlock_range_shared (&lock, place);
}

static void
write_piece (unsigned i)
{
  spread_lock_range_exclusive (&lock, i * PIECE, 1);
  data[i]++;
  spread_unlock_exclusive (&lock);
}

static void read_first (void) { read_piece (0); }
static void read_second (void) { read_piece (1); }
static void write_first (void) { write_piece (0); }
static void write_second (void) { write_piece (1); }

static void
read_first_twice (void)
{
  read_piece (0);
  read_piece (0);
}

static const struct explore_scenario range_of_one = {
  "spread-lock: a reader and a writer of a range", setup,
  { read_first, write_first }, NULL, 1,
};

static const struct explore_scenario ranges = {
  "spread-lock: readers of two ranges and a writer of one", setup,
  { read_first, read_second, write_first },
};

static const struct explore_scenario range_twice = {
  "spread-lock: a reader of a range twice and a writer of it", setup,
  { read_first_twice, write_first }, NULL, 1,
};

static const struct explore_scenario range_writers = {
  "spread-lock: a reader of a range, a writer of it and one of another",
  setup, { read_first, write_first, write_second },
};

/* The reader keeps its range until the writer has been through: that is never,
 * if it waits.
 */
static pthread_mutex_t mutex;
static pthread_cond_t cond;
static bool written;            /* [mutex] */

static void
setup_disjoint (void)
{
  setup ();
  written = false;
  explore_name (&cond, sizeof cond, "cond");
}

static void
keep_second (void)
{
  spread_range *place = spread_lock_range_shared (&lock, PIECE, 1);

  pthread_mutex_lock (&mutex);
  while (!written)
    pthread_cond_wait (&cond, &mutex);
  pthread_mutex_unlock (&mutex);
  spread_unlock_range_shared (&lock, place);
}

static void
write_first_and_tell (void)
{
  write_piece (0);
  pthread_mutex_lock (&mutex);
  written = true;
  pthread_cond_signal (&cond);
  pthread_mutex_unlock (&mutex);
}

static const struct explore_scenario disjoint = {
  "spread-lock: whose ranges do not overlap do not wait", setup_disjoint,
  { keep_second, write_first_and_tell }, NULL, 1,
};

static const struct explore_scenario all_and_range = {
  "spread-lock: readers of all and of a range, a writer of that", setup,
  { read_any, read_first, write_first },
};

/* A reader that has found all places taken is counted. */

static void
setup_no_place (void)
{
  unsigned i;

  setup ();
  for (i = 0; i < SPREAD_PARTS; i++)
    atomic_init (&lock.part[i].place[0], make_range (9 * PIECE, 1));
}

static const struct explore_scenario no_place = {
  "spread-lock: a reader of a range without a place, and a writer",
  setup_no_place, { read_first, write_first }, NULL, 1,
};

/* A writer's unlocking owes a turn to those who wait for it.  Writers look
 * at this, and say so, while they are alone.
 */
static void
write_in_turn (void)
{
  unsigned waiting;

  spread_lock_exclusive (&lock);
  explore_check (!owed || entered);
  pthread_mutex_lock (&lock.mutex);
  waiting = lock.waiting;
  pthread_mutex_unlock (&lock.mutex);
  if (waiting > 0)
    owed = true;
  spread_unlock_exclusive (&lock);
}

static void
read_in_turn (void)
{
  spread_lock_shared (&lock);
  entered = true;
  spread_unlock_shared (&lock);
}

static void
read_in_turn_twice (void)
{
  read_in_turn ();
  read_in_turn ();
}

static const struct explore_scenario in_turn = {
  "spread-lock: readers who waited go before the next writer", setup,
  { read_in_turn, write_in_turn, write_in_turn },
};

/* Long ones. */

static const struct explore_scenario two_whims = {
  "spread-lock: two readers and a writer; with whims", setup,
  { read_all, read_all, write_all }, NULL, 1,
};

static const struct explore_scenario two_twice = {
  "spread-lock: a reader, one that reads twice, and a writer", setup,
  { read_all, read_twice, write_all },
};

static const struct explore_scenario in_turn_with_whims = {
  "spread-lock: two writers in turn and a reader twice; with whims", setup,
  { read_in_turn_twice, write_in_turn, write_in_turn }, NULL, 1,
};

static const struct explore_scenario three_spin = {
  "spread-lock: two readers and a writer that spin", setup_spinning,
  { read_any, read_first, write_first },
};

#define N(array) (sizeof array / sizeof array[0])
#define SC memory_order_seq_cst
#define AR memory_order_acq_rel
#define ACQ memory_order_acquire
#define REL memory_order_release
#define RLX memory_order_relaxed

int
main (int argc, char *argv[])
{
  static const struct explore_mutation wrong[] = {
    { "counted", EXPLORE_RMW, SC, AR },
    { "counted", EXPLORE_RMW, SC, RLX },
    { "counted", EXPLORE_LOAD, SC, ACQ },
    { "counted", EXPLORE_LOAD, SC, RLX },
    { "closed", EXPLORE_STORE, SC, REL },
    { "closed", EXPLORE_STORE, SC, RLX },
    { "closed", EXPLORE_LOAD, SC, ACQ },
    { "closed", EXPLORE_LOAD, SC, RLX },
    { "left", EXPLORE_WAKE, 0, EXPLORE_OMIT },
    { "turn", EXPLORE_WAKE, 0, EXPLORE_OMIT },
  };
  static const struct explore_mutation wrong_range[] = {
    { "place", EXPLORE_CAS, SC, AR },
    { "place", EXPLORE_CAS, SC, RLX },
    { "place", EXPLORE_LOAD, SC, ACQ },
    { "place", EXPLORE_LOAD, SC, RLX },
    { "place", EXPLORE_STORE, SC, REL },
    { "place", EXPLORE_STORE, SC, RLX },
    { "closed", EXPLORE_STORE, SC, REL },
    { "closed", EXPLORE_LOAD, SC, ACQ },
    { "left", EXPLORE_WAKE, 0, EXPLORE_OMIT },
    { "turn", EXPLORE_WAKE, 0, EXPLORE_OMIT },
  };
  bool ok = true;

  ok &= explore_all (&one_and_one, wrong, N (wrong));
  ok &= explore_all (&spinning, wrong, N (wrong));
  ok &= explore_all (&range_of_one, wrong_range, N (wrong_range));
  ok &= explore_all (&two_readers, NULL, 0);
  ok &= explore_all (&two_writers, NULL, 0);
  ok &= explore_all (&in_turn, NULL, 0);
  ok &= explore_all (&ranges, NULL, 0);
  ok &= explore_all (&range_twice, NULL, 0);
  ok &= explore_all (&range_writers, NULL, 0);
  ok &= explore_all (&disjoint, NULL, 0);
  ok &= explore_all (&all_and_range, NULL, 0);
  ok &= explore_all (&no_place, NULL, 0);
  if (argc > 1) {
    ok &= explore_all (&in_turn_with_whims, NULL, 0);
    ok &= explore_all (&three_spin, NULL, 0);
    ok &= explore_all (&two_whims, NULL, 0);
    ok &= explore_all (&two_twice, NULL, 0);
  }
  return ok ? 0 : 1;
}

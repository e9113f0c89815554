/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The explorer itself: of the well-known small programs ("litmus tests") it
 * finds exactly the outcomes that C11, as repaired by RC11, allows; and the
 * same where it does not leave out executions that are equal to others.
 */

#include <config.h>

#include "explore.h"

static atomic_int x, y, z;
static int plain;
static int r[4];
static memory_order store_order, load_order;

static void
setup (void)
{
  atomic_init (&x, 0);
  atomic_init (&y, 0);
  atomic_init (&z, 0);
  plain = 0;
  memset (r, 0, sizeof r);
  explore_name (&x, sizeof x, "x");
  explore_name (&y, sizeof y, "y");
  explore_name (&z, sizeof z, "z");
  explore_name (&plain, sizeof plain, "plain");
}

/* The compiler passes only constant orders on to us. */
static void
store (atomic_int *p, int v)
{
  switch (store_order) {
  case memory_order_relaxed:
    atomic_store_explicit (p, v, memory_order_relaxed); break;
  case memory_order_release:
    atomic_store_explicit (p, v, memory_order_release); break;
  default:
    atomic_store (p, v);
  }
}

static int
load (atomic_int *p)
{
  switch (load_order) {
  case memory_order_relaxed:
    return atomic_load_explicit (p, memory_order_relaxed);
  case memory_order_acquire:
    return atomic_load_explicit (p, memory_order_acquire);
  default:
    return atomic_load (p);
  }
}

/* The four bits of what was read. */
static void
bits (void)
{
  explore_outcome ((unsigned) (r[0] + 2 * r[1] + 4 * r[2] + 8 * r[3]));
}

/* Two bits of each of two. */
static void
twos (void)
{
  explore_outcome ((unsigned) (r[0] + 4 * r[1]));
}

static bool all_right = true;

static void
expect (const struct explore_scenario *s, uint64_t outcomes)
{
  struct explore_scenario unmerged = *s;
  struct explore_result merged, all;
  bool ok = explore (s, false, &merged) && merged.outcomes == outcomes;

  unmerged.unmerged = true;
  ok &= explore (&unmerged, false, &all) && all.outcomes == outcomes &&
    all.states == merged.states;
  printf ("%s%s: outcomes %#llx, %lu states, %lu of %lu executions\n",
          ok ? "" : "WRONG ", s->name, (unsigned long long) merged.outcomes,
          merged.states, merged.executions, all.executions);
  all_right &= ok;
}

static void
with (memory_order stores, memory_order loads)
{
  store_order = stores;
  load_order = loads;
}

/* Store buffering: both 0 is outcome 0. */
static void sb0 (void) { store (&x, 1); r[0] = load (&y); }
static void sb1 (void) { store (&y, 1); r[1] = load (&x); }

static void
store_buffering (void)
{
  struct explore_scenario s = { "SB relaxed", setup, { sb0, sb1 }, bits, 0 };

  with (memory_order_relaxed, memory_order_relaxed);
  expect (&s, 0xf);
  s.name = "SB release, acquire";
  with (memory_order_release, memory_order_acquire);
  expect (&s, 0xf);
  s.name = "SB seq_cst";
  with (memory_order_seq_cst, memory_order_seq_cst);
  expect (&s, 0xe);
  s.name = "SB seq_cst stores only";
  with (memory_order_seq_cst, memory_order_acquire);
  expect (&s, 0xf);
}

/* Message passing: the flag without the message is outcome 1. */
static void
mp0 (void)
{
  atomic_store_explicit (&x, 1, memory_order_relaxed);
  store (&y, 1);
}

static void
mp1 (void)
{
  r[0] = load (&y);
  r[1] = atomic_load_explicit (&x, memory_order_relaxed);
}

static void
message_passing (void)
{
  struct explore_scenario s = { "MP relaxed", setup, { mp0, mp1 }, bits, 0 };

  with (memory_order_relaxed, memory_order_relaxed);
  expect (&s, 0xf);
  s.name = "MP release, relaxed";
  with (memory_order_release, memory_order_relaxed);
  expect (&s, 0xf);
  s.name = "MP relaxed, acquire";
  with (memory_order_relaxed, memory_order_acquire);
  expect (&s, 0xf);
  s.name = "MP release, acquire";
  with (memory_order_release, memory_order_acquire);
  expect (&s, 0xd);
  s.name = "MP seq_cst flag";
  with (memory_order_seq_cst, memory_order_seq_cst);
  expect (&s, 0xd);
}

/* The same where the message is sequentially consistent and the flag is not:
 * that orders nothing.
 */
static void
mq0 (void)
{
  atomic_store (&x, 1);
  atomic_store_explicit (&y, 1, memory_order_relaxed);
}

static void
mq1 (void)
{
  r[0] = atomic_load_explicit (&y, memory_order_relaxed);
  r[1] = atomic_load (&x);
}

static void
mf0 (void)
{
  atomic_store_explicit (&x, 1, memory_order_relaxed);
  atomic_thread_fence (memory_order_release);
  atomic_store_explicit (&y, 1, memory_order_relaxed);
}

static void
mf1 (void)
{
  r[0] = atomic_load_explicit (&y, memory_order_relaxed);
  atomic_thread_fence (memory_order_acquire);
  r[1] = atomic_load_explicit (&x, memory_order_relaxed);
}

/* By way of a read-modify-write of another thread, that is relaxed. */
static void
mr1 (void)
{
  atomic_fetch_add_explicit (&y, 1, memory_order_relaxed);
}

static void
mr2 (void)
{
  r[0] = atomic_load_explicit (&y, memory_order_acquire) == 2;
  r[1] = atomic_load_explicit (&x, memory_order_relaxed);
}

static void
mr1_seen (void)
{
  int one = 1;

  atomic_compare_exchange_strong_explicit (&y, &one, 2, memory_order_relaxed,
                                           memory_order_relaxed);
}

static void
more_message_passing (void)
{
  const struct explore_scenario flag = {
    "MP relaxed flag, seq_cst message", setup, { mq0, mq1 }, bits, 0,
  };
  const struct explore_scenario fences = {
    "MP fences", setup, { mf0, mf1 }, bits, 0,
  };
  const struct explore_scenario sequence = {
    "MP release sequence", setup, { mp0, mr1_seen, mr2 }, bits, 0,
  };
  const struct explore_scenario ordered = {
    "MP read-modify-write before the store", setup, { mp0, mr1, mr2 }, bits, 0,
  };

  expect (&flag, 0xf);
  expect (&fences, 0xd);
  with (memory_order_release, memory_order_acquire);
  expect (&sequence, 0xd);
  /* y may be 1 + 1 only after the store of 1, in modification order. */
  expect (&ordered, 0xd);
}

/* Load buffering: both 1 would be outcome 3. */
static void lb0 (void) { r[0] = load (&x); store (&y, 1); }
static void lb1 (void) { r[1] = load (&y); store (&x, 1); }

static void
load_buffering (void)
{
  struct explore_scenario s = { "LB relaxed", setup, { lb0, lb1 }, bits, 0 };

  with (memory_order_relaxed, memory_order_relaxed);
  expect (&s, 0x7);
}

/* Coherence: two loads of one object do not go backwards. */
static void
co0 (void)
{
  atomic_store_explicit (&x, 1, memory_order_relaxed);
  atomic_store_explicit (&x, 2, memory_order_relaxed);
}

static void
co1 (void)
{
  r[0] = atomic_load_explicit (&x, memory_order_relaxed);
  r[1] = atomic_load_explicit (&x, memory_order_relaxed);
}

/* Two threads see two stores in one order. */
static void co2 (void) { atomic_store_explicit (&x, 1, memory_order_relaxed); }
static void co3 (void) { atomic_store_explicit (&x, 2, memory_order_relaxed); }

static void
co4 (void)
{
  r[2] = atomic_load_explicit (&x, memory_order_relaxed);
  r[3] = atomic_load_explicit (&x, memory_order_relaxed);
}

static void
opposite (void)
{
  explore_outcome (r[0] == 1 && r[1] == 2 && r[2] == 2 && r[3] == 1);
}

static void
coherence (void)
{
  const struct explore_scenario rr = {
    "CoRR", setup, { co0, co1 }, twos, 0,
  };
  const struct explore_scenario rr2 = {
    "CoRR, two stores and two readers", setup, { co2, co3, co1, co4 },
    opposite, 0,
  };

  /* 00 01 02 11 12 22 */
  expect (&rr, 1 << 0 | 1 << 4 | 1 << 8 | 1 << 5 | 1 << 9 | 1 << 10);
  expect (&rr2, 1 << 0);
}

/* Stores that pass each other, "2+2W": both first ones last is outcome 5. */
static void ww0 (void) { store (&x, 1); store (&y, 2); }
static void ww1 (void) { store (&y, 1); store (&x, 2); }

static void
last_ones (void)
{
  r[0] = atomic_load_explicit (&x, memory_order_relaxed);
  r[1] = atomic_load_explicit (&y, memory_order_relaxed);
  twos ();
}

static void
two_plus_two_stores (void)
{
  struct explore_scenario s = {
    "2+2W relaxed", setup, { ww0, ww1 }, last_ones, 0,
  };

  with (memory_order_relaxed, memory_order_relaxed);
  expect (&s, 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10);
  s.name = "2+2W release";
  with (memory_order_release, memory_order_relaxed);
  expect (&s, 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10);
  s.name = "2+2W seq_cst";
  with (memory_order_seq_cst, memory_order_relaxed);
  expect (&s, 1 << 6 | 1 << 9 | 1 << 10);
}

/* Independent reads of independent writes: disagreement is 1, 0, 1, 0. */
static void ir0 (void) { store (&x, 1); }
static void ir1 (void) { store (&y, 1); }
static void ir2 (void) { r[0] = load (&x); r[1] = load (&y); }
static void ir3 (void) { r[2] = load (&y); r[3] = load (&x); }

static void
independent_reads (void)
{
  struct explore_scenario s = {
    "IRIW release, acquire", setup, { ir0, ir1, ir2, ir3 }, bits, 0,
  };

  with (memory_order_release, memory_order_acquire);
  expect (&s, 0xffff);
  s.name = "IRIW seq_cst";
  with (memory_order_seq_cst, memory_order_seq_cst);
  expect (&s, 0xffff & ~(1 << 5));
}

/* Write to read causality: by way of a third thread, outcome 3. */
static void wr0 (void) { store (&x, 1); }
static void wr1 (void) { if (load (&x)) store (&y, 1); }

static void
wr2 (void)
{
  r[0] = load (&y);
  r[1] = atomic_load_explicit (&x, memory_order_relaxed);
}

static void
causality (void)
{
  struct explore_scenario s = {
    "WRC relaxed", setup, { wr0, wr1, wr2 }, bits, 0,
  };

  with (memory_order_relaxed, memory_order_relaxed);
  expect (&s, 0xf);
  s.name = "WRC release, acquire";
  with (memory_order_release, memory_order_acquire);
  expect (&s, 0xd);
}

/* Store buffering where one thread has its store made by another, which it
 * knows of by way of y: the other one was seen, and both 0, is outcome 4.
 */
static void
st0 (void)
{
  atomic_store (&x, 1);
  store (&y, 1);
}

static void
st1 (void)
{
  r[2] = load (&y);
  r[0] = atomic_load (&z);
}

static void
st2 (void)
{
  atomic_store (&z, 1);
  r[1] = atomic_load (&x);
}

static void
store_buffering_of_three (void)
{
  struct explore_scenario s = {
    "SB of three, relaxed", setup, { st0, st1, st2 }, bits, 0,
  };

  with (memory_order_relaxed, memory_order_relaxed);
  expect (&s, 0xff);
  s.name = "SB of three, release, acquire";
  with (memory_order_release, memory_order_acquire);
  expect (&s, 0xef);
}

/* C++20 allows this of sequentially consistent stores among others, and C11
 * did not ("Z6.U"): a release in between does not order them.
 */
static void
zu0 (void)
{
  atomic_store (&x, 1);
  atomic_store_explicit (&y, 1, memory_order_release);
}

static void
zu1 (void)
{
  r[0] = atomic_fetch_add (&y, 1) == 1;
  r[1] = atomic_load_explicit (&y, memory_order_relaxed) == 3;
}

static void
zu2 (void)
{
  atomic_store (&y, 3);
  r[2] = atomic_load (&x);
}

static void
weak_seq_cst (void)
{
  const struct explore_scenario s = {
    "Z6.U", setup, { zu0, zu1, zu2 }, bits, 0,
  };

  expect (&s, 0xff);
}

/* Read-modify-writes lose nothing, and are one after the other. */
static void
add (void)
{
  atomic_fetch_add_explicit (&x, 1, memory_order_relaxed);
}

static void
sum (void)
{
  explore_outcome ((unsigned) atomic_load_explicit (&x,
                                                    memory_order_relaxed));
}

/* A store comes before or after one, and never in its middle. */
static void
put (void)
{
  atomic_store_explicit (&x, 4, memory_order_relaxed);
}

static void
weak_exchange (void)
{
  int none = 0;

  r[0] = atomic_compare_exchange_weak (&x, &none, 1);
}

static void
modifications (void)
{
  const struct explore_scenario three = {
    "RMW, three", setup, { add, add, add }, sum, 0,
  };
  const struct explore_scenario store_too = {
    "RMW and a store", setup, { put, add }, sum, 0,
  };
  const struct explore_scenario strong = {
    "weak exchange, no whims", setup, { weak_exchange }, bits, 0,
  };
  const struct explore_scenario weak = {
    "weak exchange, a whim", setup, { weak_exchange }, bits, 1,
  };

  expect (&three, 1 << 3);
  /* 5: put, add; 4: add, put. */
  expect (&store_too, 1 << 4 | 1 << 5);
  expect (&strong, 1 << 1);
#ifdef __clang__                /* its weak ones are strong here */
  expect (&weak, 1 << 1);
#else
  expect (&weak, 1 << 0 | 1 << 1);
#endif
}

/* What is wrong is found. */

static pthread_mutex_t mutex;
static pthread_cond_t cond;

static void
plain_write (void)
{
  plain = 1;
  store (&x, 1);
}

static void
plain_read (void)
{
  if (load (&x))
    r[0] = plain;
}

static void
locked_write (void)
{
  pthread_mutex_lock (&mutex);
  plain++;
  pthread_mutex_unlock (&mutex);
}

static void
unlocked_write (void)
{
  plain++;
}

static void
shared_read (void)
{
  explore_lock (&mutex, false);
  (void) *(volatile int *) &plain;
  explore_unlock (&mutex, false);
}

static void
shared_write (void)
{
  explore_lock (&mutex, false);
  plain++;
  explore_unlock (&mutex, false);
}

static void
wait_for_it (void)
{
  pthread_mutex_lock (&mutex);
  while (plain == 0)
    pthread_cond_wait (&cond, &mutex);
  pthread_mutex_unlock (&mutex);
}

static void
wait_rashly (void)
{
  pthread_mutex_lock (&mutex);
  if (plain == 0)
    pthread_cond_wait (&cond, &mutex);
  explore_check (plain == 1);
  pthread_mutex_unlock (&mutex);
}

static void
wake (void)
{
  pthread_mutex_lock (&mutex);
  plain = 1;
  pthread_cond_signal (&cond);
  pthread_mutex_unlock (&mutex);
}

static void
wake_nobody (void)
{
  pthread_mutex_lock (&mutex);
  plain = 1;
  pthread_mutex_unlock (&mutex);
}

static void
lock_two (void)
{
  pthread_mutex_lock (&mutex);
  pthread_mutex_lock ((pthread_mutex_t *) &cond);
  pthread_mutex_unlock ((pthread_mutex_t *) &cond);
  pthread_mutex_unlock (&mutex);
}

static void
lock_two_otherwise (void)
{
  pthread_mutex_lock ((pthread_mutex_t *) &cond);
  pthread_mutex_lock (&mutex);
  pthread_mutex_unlock (&mutex);
  pthread_mutex_unlock ((pthread_mutex_t *) &cond);
}

static int *block;

static void
setup_block (void)
{
  setup ();
  block = calloc (1, sizeof *block);
}

static void
use_block (void)
{
  r[0] = *block;
  store (&x, 1);
}

static void
free_block (void)
{
  if (load (&x))
    free (block);
}

static void
expect_failure (const struct explore_scenario *s, bool fails)
{
  struct explore_scenario unmerged = *s;
  struct explore_result merged, all;
  bool ok = explore (s, true, &merged) == !fails;

  unmerged.unmerged = true;
  ok &= explore (&unmerged, true, &all) == !fails;
  printf ("%s%s: %s, %lu of %lu executions\n", ok ? "" : "WRONG ", s->name,
          fails ? "fails" : "holds", merged.executions, all.executions);
  all_right &= ok;
}

#define FAILURE(fails, name, ...)                                       \
  do {                                                                  \
    const struct explore_scenario s = { name, __VA_ARGS__ };            \
    expect_failure (&s, fails);                                         \
  } while (0)

static void
failures (void)
{
  with (memory_order_release, memory_order_acquire);
  FAILURE (false, "plain data, released", setup, { plain_write, plain_read });
  FAILURE (false, "memory freed, released", setup_block,
           { use_block, free_block });
  with (memory_order_relaxed, memory_order_acquire);
  FAILURE (true, "plain data, not released", setup,
           { plain_write, plain_read });
  FAILURE (true, "memory freed, not released", setup_block,
           { use_block, free_block });
  with (memory_order_release, memory_order_relaxed);
  FAILURE (true, "plain data, not acquired", setup,
           { plain_write, plain_read });
  FAILURE (false, "locked data", setup, { locked_write, locked_write });
  FAILURE (true, "data not locked", setup, { locked_write, unlocked_write });
  FAILURE (false, "read with the lock shared", setup,
           { shared_read, locked_write });
  FAILURE (true, "written with the lock shared", setup,
           { shared_read, shared_write });
  FAILURE (false, "condition", setup, { wait_for_it, wake }, NULL, 1);
  FAILURE (true, "condition, not signalled", setup,
           { wait_for_it, wake_nobody });
  FAILURE (false, "condition, no loop, no whims", setup,
           { wait_rashly, wake });
  FAILURE (true, "condition, no loop", setup, { wait_rashly, wake }, NULL, 1);
  FAILURE (true, "two locks in two orders", setup,
           { lock_two, lock_two_otherwise });
}

int
main (void)
{
  store_buffering ();
  message_passing ();
  more_message_passing ();
  load_buffering ();
  coherence ();
  two_plus_two_stores ();
  independent_reads ();
  causality ();
  store_buffering_of_three ();
  weak_seq_cst ();
  modifications ();
  failures ();
  return all_right ? 0 : 1;
}

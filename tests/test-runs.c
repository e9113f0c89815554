/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What is remembered of a file's long runs, against a model of the file.
 * (What it means to requests: test-range.)
 */

#include <config.h>

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "image.h"
#include "runs.h"

/* The model: where each block lies.  Runs of it are as long as can be. */
#define BLOCKS 10000u           /* shorter parts than most files have */
#define HOLE UINT32_MAX

static uint32_t place[BLOCKS];

static void
run_at (uint32_t at, uint32_t *first, uint32_t *end)
{
  *first = at;
  *end = at + 1;
  while (*first > 0 && place[*first - 1] != HOLE &&
         place[*first - 1] + 1 == place[*first])
    --*first;
  while (*end < BLOCKS && place[*end] != HOLE &&
         place[*end] == place[*end - 1] + 1)
    ++*end;
}

static void
look_up (struct runs *r, uint32_t at)
{
  uint32_t first, end;

  if (place[at] == HOLE)
    return;
  run_at (at, &first, &end);
  runs_note (r, at, first, end - first, place[first]);
}

/* True if it is known, and right then. */
static bool
check (struct runs *r, uint32_t at)
{
  uint64_t pblk, len, i;

  if (!runs_find (r, at, &pblk, &len))
    return false;
  assert_in_range (len, 1, BLOCKS - at);
  for (i = 0; i < len; i++)
    assert_int_equal (place[at + i], pblk + i);
  return true;
}

static void
change (struct runs *r, struct rng *rng)
{
  const uint32_t at = rng_below (rng, BLOCKS);
  const uint32_t len = 1 + rng_below (rng, rng_below (rng, 4) ? 40 : 4000);
  const uint32_t end = at + (len < BLOCKS - at ? len : BLOCKS - at);
  uint32_t i, p = rng_below (rng, 1u << 30);

  runs_forget (r, at, end - at);
  for (i = at; i < end; i++)
    place[i] = p % 3 == 0 ? HOLE : p + (i - at);
}

static void
test_model (void **state)
{
  struct rng rng = { 4711 };
  struct runs r;
  unsigned i, j, known = 0;
  uint32_t at;

  (void) state;
  runs_init (&r, BLOCKS);
  for (at = 0; at < BLOCKS; at++)
    place[at] = 77 + at;
  for (i = 0; i < image_scale (3000); i++) {
    if (rng_below (&rng, 3) == 0)
      change (&r, &rng);
    for (j = 0; j < 10; j++) {
      at = rng_below (&rng, BLOCKS);
      if (check (&r, at))
        known++;
      else
        look_up (&r, at);
    }
    if (i % 100 == 0)
      for (at = 0; at < BLOCKS; at++)
        check (&r, at);
  }
  /* It is of use. */
  assert_true (known > image_scale (3000));
  runs_destroy (&r);
}

/* Extents of at most 32,768 blocks, in files of up to 2^29: a lookup
 * anywhere makes the next one there known, to the end of its part and of
 * the next at least, as far as the extent goes.
 */
static void
test_sizes (void **state)
{
  static const uint64_t sizes[] = {
    1, 2, 7, 8, 9, 100, 2048, 16383, 16384, 16385, 131072, 8388607, 8388608,
    UINT64_C (1) << 26, UINT64_C (1) << 28, (UINT64_C (1) << 29) - 1
  };
  struct rng rng = { 12 };
  struct runs r;
  unsigned i, j;

  (void) state;
  for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    runs_init (&r, sizes[i]);
    assert_true (r.count > 0);
    for (j = 0; j < 2000; j++) {
      const uint64_t part = UINT64_C (1) << r.shift;
      const uint64_t at = (((uint64_t) rng_below (&rng, UINT32_MAX) << 31)
                           + rng_below (&rng, UINT32_MAX)) % sizes[i];
      const uint64_t first = at & ~UINT64_C (32767);
      uint64_t end = first + 32768, until = (at & ~(part - 1)) + 2 * part;
      uint64_t pblk = 0, len = 0;

      if (end > sizes[i])
        end = sizes[i];
      if (until > end)
        until = end;
      runs_note (&r, at, first, end - first, 5 * first);
      /* But for the end of the file, which may be less than half a part. */
      if (!runs_find (&r, at, &pblk, &len)) {
        assert_true (end == sizes[i] && sizes[i] % part < part / 2);
        continue;
      }
      assert_int_equal (pblk, 5 * first + (at - first));
      assert_int_equal (at + len, until);
      runs_forget (&r, at + len - 1, 1);
      assert_false (runs_find (&r, at, &pblk, &len));
    }
    assert_false (runs_find (&r, UINT64_MAX >> 12, &(uint64_t) { 0 },
                             &(uint64_t) { 0 }));
    runs_destroy (&r);
  }
}

/* Sizes that only a damaged or hostile inode has. */
static void
test_huge (void **state)
{
  struct runs r;
  const uint64_t blocks = UINT64_MAX >> 10;
  uint64_t part, pblk, len;

  (void) state;
  runs_init (&r, blocks);
  assert_in_range (r.count, 1, 20000);
  part = UINT64_C (1) << r.shift;
  runs_note (&r, blocks - 1, blocks - 100, 100, 7);
  assert_false (runs_find (&r, blocks - 1, &pblk, &len));
  runs_note (&r, blocks - 1, blocks - part, part, 7);
  assert_true (runs_find (&r, blocks - 1, &pblk, &len));
  assert_int_equal (pblk, 7 + part - 1);
  assert_int_equal (len, 1);
  runs_forget (&r, 0, blocks);
  assert_false (runs_find (&r, blocks - 1, &pblk, &len));
  runs_destroy (&r);
}

/* Readers without a lock, of a slot that others change all the time.  Each
 * run's place and length follow from its start, so that a mixture of two
 * gives itself away.
 */

#define TORN_BLOCKS 16384u      /* parts of 2,048 blocks */

static struct runs torn;
/* As readers of MAP and its writer; the latter must have its turn. */
static pthread_rwlock_t map
  = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static atomic_bool torn_stop;
static atomic_uint torn_found;

static void *
note_torn (void *opaque)
{
  struct rng rng = { (uintptr_t) opaque };

  while (!atomic_load (&torn_stop)) {
    const uint64_t start = 2048 + rng_below (&rng, 100);

    pthread_rwlock_rdlock (&map);
    runs_note (&torn, start, start, 2000 - 10 * (start - 2048),
               start << 20);
    pthread_rwlock_unlock (&map);
  }
  return NULL;
}

static void *
find_torn (void *opaque)
{
  struct rng rng = { (uintptr_t) opaque };

  while (!atomic_load (&torn_stop)) {
    const uint64_t at = 2048 + 99 + rng_below (&rng, 900);
    uint64_t pblk, len, start, in;

    if (!runs_find (&torn, at, &pblk, &len))
      continue;
    start = pblk >> 20;
    in = pblk & ((1 << 20) - 1);
    must (start >= 2048 && start < 2148 && start + in == at);
    must (in + len == 2000 - 10 * (start - 2048));
    atomic_fetch_add (&torn_found, 1);
  }
  return NULL;
}

static void
test_torn (void **state)
{
  pthread_t t[4];
  unsigned i;

  (void) state;
  runs_init (&torn, TORN_BLOCKS);
  assert_int_equal (torn.shift, 11);
  for (i = 0; i < 4; i++)
    must (pthread_create (&t[i], NULL, i % 2 ? note_torn : find_torn,
                          (void *) (uintptr_t) i) == 0);
  for (i = 0; i < 10 * image_scale (1000) &&
         (i < image_scale (1000) || atomic_load (&torn_found) < 1000); i++) {
    pthread_rwlock_wrlock (&map);
    runs_forget (&torn, 3000, 1);
    pthread_rwlock_unlock (&map);
    usleep (100);
  }
  atomic_store (&torn_stop, true);
  for (i = 0; i < 4; i++)
    pthread_join (t[i], NULL);
  assert_true (atomic_load (&torn_found) > 0);
  runs_destroy (&torn);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_model),
    cmocka_unit_test (test_sizes),
    cmocka_unit_test (test_huge),
    cmocka_unit_test (test_torn),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

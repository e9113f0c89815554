/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The metadata cache on its own. */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ext2fs/ext2fs.h>

#include "image.h"
#include "locks.h"
#include "mcache.h"

#define BLOCK 1024
#define BLOCKS 1000
/* What even a limit of nothing lets stay. */
#define MOST 64

struct cache {
  struct memdev *md;
  struct mcache *mc;
  struct lock fs;               /* stands for the filesystem's */
};

/* Every block starts with its own number. */
static void
cache_init (struct cache *c)
{
  uint64_t i;

  c->md = memdev_new (BLOCKS * BLOCK);
  for (i = 0; i < BLOCKS; i++)
    memcpy (c->md->mem + i * BLOCK, &i, sizeof i);
  c->mc = mcache_new (&c->md->dev, BLOCK, 0);
  assert_non_null (c->mc);
  assert_int_equal (mcache_block_size (c->mc), BLOCK);
  lock_init (&c->fs, LOCK_FS);
  lock_acquire (&c->fs);
}

static void
cache_free (struct cache *c)
{
  lock_release (&c->fs);
  lock_destroy (&c->fs);
  mcache_free (c->mc);
  memdev_free (c->md);
}

static uint64_t
first_word (const struct mbuf *mb)
{
  uint64_t v;

  memcpy (&v, mb->data, sizeof v);
  return v;
}

static uint64_t
reads (struct cache *c)
{
  return memdev_count (c->md, MEMDEV_MASK (MEMDEV_READ));
}

/* Reads BLKNO, which must have V in it; did it come from the cache? */
static bool
hit (struct cache *c, uint64_t blkno, uint64_t v)
{
  uint64_t before = reads (c);
  struct mbuf *mb;

  assert_ok (mcache_read (c->mc, blkno, &mb));
  assert_int_equal (mb->blkno, blkno);
  assert_int_equal (first_word (mb), v);
  mcache_unpin (c->mc, mb);
  return reads (c) == before;
}

static void
change (struct cache *c, uint64_t blkno, uint64_t v)
{
  struct mbuf *mb;

  assert_ok (mcache_read (c->mc, blkno, &mb));
  assert_ok (mcache_dirty (c->mc, mb, MCLASS_INODE, false));
  memcpy (mb->data, &v, sizeof v);
  mcache_unpin (c->mc, mb);
}

/* Enough other blocks to push out what can be. */
static void
push_out (struct cache *c)
{
  uint64_t i;

  for (i = BLOCKS / 2; i < BLOCKS; i++)
    hit (c, i, i);
}

static void
test_hit_and_miss (void **state)
{
  struct cache c;
  struct mbuf *mb;

  (void) state;
  cache_init (&c);
  assert_null (mcache_find (c.mc, 7));
  assert_false (hit (&c, 7, 7));
  assert_true (hit (&c, 7, 7));
  mb = mcache_find (c.mc, 7);
  assert_non_null (mb);
  /* Pinned ones stay. */
  push_out (&c);
  assert_ptr_equal (mcache_find (c.mc, 7), mb);
  mcache_unpin (c.mc, mb);
  mcache_unpin (c.mc, mb);
  push_out (&c);
  push_out (&c);
  assert_null (mcache_find (c.mc, 7));
  cache_free (&c);
}

static void
test_bound (void **state)
{
  struct cache c;
  uint64_t i, hits = 0;

  (void) state;
  cache_init (&c);
  for (i = 0; i < BLOCKS; i++)
    assert_false (hit (&c, i, i));
  for (i = BLOCKS; i-- > 0; )
    hits += hit (&c, i, i);
  assert_in_range (hits, 1, MOST);
  cache_free (&c);
}

static void
test_dirty_stays (void **state)
{
  struct cache c;
  uint64_t i;

  (void) state;
  cache_init (&c);
  for (i = 0; i < 300; i++)
    change (&c, i, i + 5000);
  assert_int_equal (mcache_dirty_count (c.mc), 300);
  push_out (&c);
  for (i = 0; i < 300; i++)
    assert_true (hit (&c, i, i + 5000));
  assert_int_equal (memdev_count (c.md, MEMDEV_CHANGES), 0);
  cache_free (&c);
}

static void
test_forget (void **state)
{
  struct cache c;
  struct mbuf *mb;

  (void) state;
  cache_init (&c);
  mcache_forget (c.mc, 3);      /* not there */
  change (&c, 3, 5000);
  change (&c, 4, 5001);
  assert_ok (mcache_read (c.mc, 3, &mb));
  mcache_forget (c.mc, 3);
  assert_int_equal (mcache_dirty_count (c.mc), 1);
  assert_null (mcache_find (c.mc, 3));
  /* Whoever has it pinned still has it. */
  assert_int_equal (first_word (mb), 5000);
  assert_false (hit (&c, 3, 3));
  mcache_unpin (c.mc, mb);
  assert_true (hit (&c, 3, 3));
  assert_true (hit (&c, 4, 5001));
  cache_free (&c);
}

static void
test_new_block (void **state)
{
  struct frozen_set set;
  struct cache c;
  struct mbuf *mb, *other;

  (void) state;
  cache_init (&c);
  assert_ok (mcache_new_block (c.mc, 9, &mb));
  assert_int_equal (reads (&c), 0);
  assert_int_equal (first_word (mb), 0);
  assert_true (mcache_is_fresh (mb));
  assert_int_equal (mcache_dirty_count (c.mc), 1);
  assert_int_equal (mcache_new_block (c.mc, 9, &other),
                    EXT2_FILSYS_CORRUPTED);
  assert_ok (mcache_freeze (c.mc, &set));
  assert_false (mcache_is_fresh (mb));
  assert_int_equal (set.count, 1);
  assert_true (set.blocks[0].fresh);
  /* Changed again, it is not new any more. */
  assert_ok (mcache_dirty (c.mc, mb, MCLASS_TREE, false));
  assert_false (mcache_is_fresh (mb));
  mcache_thaw (c.mc, &set, true);
  mcache_unpin (c.mc, mb);
  assert_ok (mcache_zeroed (c.mc, 10, &mb));
  assert_int_equal (reads (&c), 0);
  assert_int_equal (first_word (mb), 0);
  assert_int_equal (mcache_dirty_count (c.mc), 1);
  mcache_unpin (c.mc, mb);
  cache_free (&c);
}

static void
assert_frozen (const struct frozen_block *fb, uint64_t blkno, uint64_t v)
{
  assert_int_equal (fb->blkno, blkno);
  assert_memory_equal (fb->data, &v, sizeof v);
  assert_int_equal (fb->mclass, MCLASS_INODE);
  assert_false (fb->fresh);
}

static void
test_freeze (void **state)
{
  struct frozen_set set, empty;
  struct cache c;

  (void) state;
  cache_init (&c);
  change (&c, 30, 5030);
  change (&c, 10, 5010);
  change (&c, 20, 5020);
  assert_ok (mcache_freeze (c.mc, &set));
  assert_int_equal (mcache_dirty_count (c.mc), 0);
  assert_int_equal (set.count, 3);
  assert_ok (mcache_freeze (c.mc, &empty));
  assert_int_equal (empty.count, 0);
  mcache_thaw (c.mc, &empty, true);

  /* The copy does not see later changes, nor that a block goes. */
  change (&c, 10, 6010);
  mcache_forget (c.mc, 20);
  push_out (&c);
  assert_frozen (&set.blocks[0], 10, 5010);
  assert_frozen (&set.blocks[1], 20, 5020);
  assert_frozen (&set.blocks[2], 30, 5030);
  assert_true (hit (&c, 10, 6010));
  assert_false (hit (&c, 20, 20));
  assert_true (hit (&c, 30, 5030));
  mcache_thaw (c.mc, &set, true);

  /* Nobody has written them in this test, so the device's are old. */
  push_out (&c);
  push_out (&c);
  assert_false (hit (&c, 30, 30));
  assert_true (hit (&c, 10, 6010));
  assert_ok (mcache_freeze (c.mc, &set));
  assert_int_equal (set.count, 1);
  assert_frozen (&set.blocks[0], 10, 6010);
  mcache_forget (c.mc, 10);
  mcache_thaw (c.mc, &set, true);
  assert_false (hit (&c, 10, 10));
  cache_free (&c);
}

/* What could not be written is only here. */
static void
test_not_written (void **state)
{
  struct frozen_set set;
  struct cache c;

  (void) state;
  cache_init (&c);
  change (&c, 10, 5010);
  change (&c, 11, 5011);
  assert_ok (mcache_freeze (c.mc, &set));
  mcache_forget (c.mc, 11);
  mcache_thaw (c.mc, &set, false);
  push_out (&c);
  push_out (&c);
  assert_true (hit (&c, 10, 5010));
  assert_false (hit (&c, 11, 11));
  mcache_forget (c.mc, 10);     /* a leak if it does not go now */
  cache_free (&c);
}

static void
test_failing_read (void **state)
{
  struct cache c;
  struct mbuf *mb = (struct mbuf *) &c;

  (void) state;
  cache_init (&c);
  memdev_fail (c.md, MEMDEV_MASK (MEMDEV_READ), 1, 1, EIO);
  assert_int_equal (mcache_read (c.mc, 5, &mb), EIO);
  assert_null (mb);
  assert_null (mcache_find (c.mc, 5));
  assert_false (hit (&c, 5, 5));
  assert_true (hit (&c, 5, 5));
  /* Outside the device, however far. */
  assert_int_equal (mcache_read (c.mc, BLOCKS, &mb), EIO);
  assert_int_equal (mcache_read (c.mc, UINT64_MAX, &mb), EIO);
  assert_int_equal (mcache_read (c.mc, UINT64_MAX / BLOCK + 2, &mb), EIO);
  cache_free (&c);
}

/* Many readers, few buffers, some failures. */

#define THREADS 6

struct reader {
  pthread_t thread;
  struct mcache *mc;
  struct rng rng;
  unsigned ops, failed;
};

static void *
read_many (void *opaque)
{
  struct reader *r = opaque;
  struct mbuf *mb;

  while (r->ops-- > 0) {
    uint64_t blkno = rng_below (&r->rng, 40) * (r->ops % 3 ? 1 : 7);
    errcode_t err = mcache_read (r->mc, blkno, &mb);

    if (err == EIO) {
      r->failed++;
      continue;
    }
    if (err || first_word (mb) != blkno) {
      fprintf (stderr, "block %llu is wrong\n", (unsigned long long) blkno);
      abort ();
    }
    mcache_unpin (r->mc, mb);
  }
  return NULL;
}

static void
test_many_readers (void **state)
{
  struct reader r[THREADS];
  struct cache c;
  unsigned i, failed = 0;

  (void) state;
  cache_init (&c);
  c.md->delay_us = 20;
  memdev_fail (c.md, MEMDEV_MASK (MEMDEV_READ), 100, 50, EIO);
  for (i = 0; i < THREADS; i++) {
    r[i] = (struct reader) {
      .mc = c.mc, .rng = { i }, .ops = image_scale (20000),
    };
    assert_int_equal (pthread_create (&r[i].thread, NULL, read_many, &r[i]),
                      0);
  }
  for (i = 0; i < THREADS; i++) {
    pthread_join (r[i].thread, NULL);
    failed += r[i].failed;
  }
  /* Those who waited for a read that failed are told as well. */
  assert_in_range (failed, 50, 50 * THREADS);
  cache_free (&c);
}

/* Pins by those who have kept a pointer. */

static void
test_pin_later (void **state)
{
  struct cache c;
  struct mbuf *mb, *other = NULL;
  uint64_t i;

  (void) state;
  cache_init (&c);
  assert_ok (mcache_read (c.mc, 7, &mb));
  mcache_unpin (c.mc, mb);
  assert_true (mbuf_try_pin (mb));
  assert_int_equal (first_word (mb), 7);
  /* It is kept while others come and go. */
  push_out (&c);
  assert_int_equal (first_word (mb), 7);
  assert_ptr_equal (mcache_find (c.mc, 7), mb);
  mcache_unpin (c.mc, mb);
  mcache_unpin (c.mc, mb);

  /* Forgotten: dead, also as long as somebody has a pin from before. */
  assert_true (mbuf_try_pin (mb));
  mcache_forget (c.mc, 7);
  assert_false (mbuf_try_pin (mb));
  assert_int_equal (first_word (mb), 7);
  mcache_unpin (c.mc, mb);
  assert_false (mbuf_try_pin (mb));

  /* Another block's now. */
  for (i = 8; i < BLOCKS && other != mb; i++) {
    mcache_forget (c.mc, i);
    assert_ok (mcache_read (c.mc, i, &other));
    mcache_unpin (c.mc, other);
  }
  assert_ptr_equal (other, mb);
  assert_true (mbuf_try_pin (mb));
  assert_int_equal (mb->blkno, i - 1);
  assert_int_equal (first_word (mb), i - 1);
  mcache_unpin (c.mc, mb);
  cache_free (&c);
}

/* Some read blocks, far more than are kept, and say that they are theirs;
 * others take up the buffers that those have left, as hints.c does.
 */

#define KEPT 32
#define OURS 1

struct keeper {
  pthread_t thread;
  struct mcache *mc;
  struct mbuf *_Atomic *kept;
  struct rng rng;
  unsigned ops, taken;
  atomic_bool *taking;          /* somebody has taken one */
};

/* All go on until one was taken, or else the takers might end before the
 * keepers begin.
 */
static bool
is_needed (struct keeper *k)
{
  if (k->ops == 0)
    return !atomic_load (k->taking);
  k->ops--;
  return true;
}

static void *
keep (void *opaque)
{
  struct keeper *k = opaque;
  struct mbuf *mb;

  while (is_needed (k)) {
    uint64_t blkno = rng_below (&k->rng, 4 * MOST);

    must (mcache_read (k->mc, blkno, &mb) == 0);
    must (first_word (mb) == blkno);
    atomic_store_explicit (&mb->owner, OURS, memory_order_release);
    atomic_store (&k->kept[rng_below (&k->rng, KEPT)], mb);
    mcache_unpin (k->mc, mb);
  }
  return NULL;
}

static void *
take (void *opaque)
{
  struct keeper *k = opaque;

  while (is_needed (k)) {
    struct mbuf *mb = atomic_load (&k->kept[rng_below (&k->rng, KEPT)]);

    if (mb == NULL || !mbuf_try_pin (mb))
      continue;
    if (atomic_load_explicit (&mb->owner, memory_order_acquire) == OURS) {
      must (first_word (mb) == mb->blkno);
      if (k->taken++ == 0)
        atomic_store (k->taking, true);
    }
    mcache_unpin (k->mc, mb);
  }
  return NULL;
}

static void
test_keepers (void **state)
{
  struct mbuf *_Atomic kept[KEPT] = { NULL };
  atomic_bool taking = false;
  struct keeper k[THREADS];
  struct cache c;
  unsigned i, taken = 0;

  (void) state;
  cache_init (&c);
  for (i = 0; i < THREADS; i++) {
    k[i] = (struct keeper) {
      .mc = c.mc, .kept = kept, .rng = { i }, .ops = image_scale (200000),
      .taking = &taking,
    };
    must (pthread_create (&k[i].thread, NULL, i % 2 ? keep : take, &k[i])
          == 0);
  }
  /* This thread has FS. */
  for (i = 0; i < image_scale (20000); i++)
    mcache_forget (c.mc, i * 7 % (4 * MOST));
  for (i = 0; i < THREADS; i++) {
    pthread_join (k[i].thread, NULL);
    taken += k[i].taken;
  }
  assert_true (taken > 0);
  cache_free (&c);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_hit_and_miss),
    cmocka_unit_test (test_bound),
    cmocka_unit_test (test_dirty_stays),
    cmocka_unit_test (test_forget),
    cmocka_unit_test (test_new_block),
    cmocka_unit_test (test_freeze),
    cmocka_unit_test (test_not_written),
    cmocka_unit_test (test_failing_read),
    cmocka_unit_test (test_many_readers),
    cmocka_unit_test (test_pin_later),
    cmocka_unit_test (test_keepers),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

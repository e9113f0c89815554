/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* lib/mbuf.c and what lib/mcache.c does with it, in all executions
 * (explore.h): who has a pin has the block that it asked for, with its
 * content, and memory that is freed only after the last use; whatever is
 * evicted, forgotten, or fails to be read meanwhile, and whoever asks for a
 * pin by a pointer from earlier days.
 */

#include <config.h>

#include "explore-cache.h"

#include "device.h"

/* Blocks are full of their number; but the first reading of this one fails. */
static uint64_t failing;
static atomic_bool failed;

static errcode_t
device_block (uint8_t *data, uint64_t blkno)
{
  if (blkno == failing &&
      !atomic_exchange_explicit (&failed, true, memory_order_relaxed))
    return EIO;
  memset (data, (int) blkno, BLOCK);
  return 0;
}

static struct mbuf *first;      /* the buffer that block 0 has at the start */

static void
setup (void)
{
  failing = 0;
  first = setup_cache (block_number (0));
}

static void
check_content (const struct mbuf *mb, uint64_t blkno)
{
  explore_check (mb->blkno == blkno);
  explore_check (mb->data[0] == (uint8_t) blkno);
  explore_check (mb->data[BLOCK - 1] == (uint8_t) blkno);
}

static void
read_block (unsigned n)
{
  struct mbuf *mb;

  if (mcache_read (cache, block_number (n), &mb) != 0) {
    explore_check (block_number (n) == failing);
    return;
  }
  check_content (mb, block_number (n));
  mcache_unpin (cache, mb);
}

static void read_0 (void) { read_block (0); }
static void read_1 (void) { read_block (1); }
static void read_2 (void) { read_block (2); }

static void
read_1_2 (void)
{
  read_block (1);
  read_block (2);
}

static void
forget (unsigned n)
{
  lock_acquire (&fs_lock);
  mcache_forget (cache, block_number (n));
  lock_release (&fs_lock);
}

static void forget_0 (void) { forget (0); }
static void forget_1 (void) { forget (1); }

/* It is forgotten, and its buffer becomes another's. */
static void
forget_0_read_1 (void)
{
  forget (0);
  read_block (1);
}

/* As hints_find does, with a pointer that has no pin.  It gets what the buffer
 * is now, of which nothing is known but that it stays that; not even that its
 * content has been read.
 */
static void
guess (void)
{
  if (mbuf_try_pin (first)) {
    uint64_t blkno = first->blkno;

    explore_check (blkno == block_number (0) || blkno == block_number (1) ||
                   blkno == block_number (2));
    explore_check (!mbuf_is_dead (first) || blkno == block_number (0));
    explore_check (first->data != NULL);
    if (blkno == block_number (0))
      check_content (first, blkno);
    explore_check (first->blkno == blkno);
    mcache_unpin (cache, first);
  }
}

static void
read_0_2 (void)
{
  read_block (0);
  read_block (2);
}

static const struct explore_scenario evicted = {
  "mbuf: read while it is evicted", setup, { read_0, read_1 }, check_cache, 1,
};

static const struct explore_scenario reused = {
  "mbuf: guessed while it is evicted and becomes another", setup,
  { guess, read_1_2 }, check_cache, 1,
};

static const struct explore_scenario buried = {
  "mbuf: guessed by two while it is forgotten", setup,
  { guess, guess, forget_0 }, check_cache,
};

static const struct explore_scenario forgotten = {
  "mbuf: guessed while it is forgotten and becomes another", setup,
  { guess, forget_0_read_1 }, check_cache, 1,
};

static const struct explore_scenario pool = {
  "mbuf: two are put back at once, and taken", setup,
  { guess, forget_0_read_1, read_2 }, check_cache,
};

static const struct explore_scenario loaded = {
  "mbuf: loaded by two at once", setup, { read_1, read_1 }, check_cache, 1,
};

static const struct explore_scenario all_three = {
  "mbuf: loaded by two, forgotten by a third", setup,
  { read_0, read_0_2, forget_0 }, check_cache,
};

static void
setup_failing (void)
{
  setup ();
  failing = block_number (1);
  atomic_store (&failed, false);
  explore_name (&failed, sizeof failed, "failed");
}

static const struct explore_scenario fails_once = {
  "mbuf: loaded by two at once, which fails once", setup_failing,
  { read_1, read_1 }, check_cache,
};

static const struct explore_scenario fails_forgotten = {
  "mbuf: loaded, which fails once, and forgotten", setup_failing,
  { read_1, read_1, forget_1 }, check_cache,
};

static const struct explore_scenario whims = {
  "mbuf: loaded by two, forgotten by a third; with whims", setup,
  { read_0, read_0_2, forget_0 }, check_cache, 1,
};

#define N(array) (sizeof array / sizeof array[0])
#define SC memory_order_seq_cst
#define ACQ memory_order_acquire
#define REL memory_order_release
#define RLX memory_order_relaxed

int
main (int argc, char *argv[])
{
  static const struct explore_mutation wrong_guess[] = {
    { "pins", EXPLORE_CAS, ACQ, RLX },          /* mbuf_try_pin */
    { "pins", EXPLORE_STORE, REL, RLX },        /* mbuf_new */
    { "pins", EXPLORE_RMW, SC, RLX },           /* mbuf_unpin */
#ifdef NDEBUG                   /* what is asserted orders it as well */
    { "pins", EXPLORE_CAS, SC, RLX },           /* mbuf_try_kill */
#endif
  };
  static const struct explore_mutation wrong_pool[] = {
    { "pins", EXPLORE_RMW, SC, RLX },           /* mbuf_unpin, mbuf_bury */
    { "pool", EXPLORE_CAS, SC, RLX },
    { "pool", EXPLORE_LOAD, SC, RLX },
  };
  static const struct explore_mutation wrong_load[] = {
    { "loading", EXPLORE_STORE, SC, RLX },
    { "loading", EXPLORE_LOAD, SC, RLX },
    { "loaded", EXPLORE_WAKE, 0, EXPLORE_OMIT },
  };
  bool ok = true;

  ok &= explore_all (&evicted, NULL, 0);
  ok &= explore_all (&reused, wrong_guess, N (wrong_guess));
  ok &= explore_all (&forgotten, wrong_pool, N (wrong_pool));
  ok &= explore_all (&buried, NULL, 0);
  ok &= explore_all (&loaded, NULL, 0);
  ok &= explore_all (&all_three, wrong_load, N (wrong_load));
  ok &= explore_all (&fails_once, NULL, 0);
  if (argc > 1) {
    ok &= explore_all (&pool, wrong_pool, N (wrong_pool));
    ok &= explore_all (&fails_forgotten, NULL, 0);
    ok &= explore_all (&whims, NULL, 0);
  }
  return ok ? 0 : 1;
}

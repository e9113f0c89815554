/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* lib/runs.c in all executions (explore.h): who finds a run without MAP
 * finds one that was noted, as a whole; and none that has been forgotten
 * before it had INODE.
 */

#include <config.h>

#include "explore.h"

#include "runs.c"

static struct runs runs;
static int map_lock;            /* MAP */
static int inode_lock[2];       /* INODE, for either half of a part */

/* [INODE exclusive for it, and MAP exclusive, to write] where block 0, and
 * block 4, of the file are.  0: nowhere.
 */
static uint64_t place[2];

static void
setup (void)
{
  struct run_slot *s;

  runs_init (&runs, 64);        /* parts of 8 blocks */
  s = &runs.slot[0];
  explore_name (&s->sequence, sizeof s->sequence, "sequence");
  explore_name (&s->lblk, sizeof s->lblk, "lblk");
  explore_name (&s->len, sizeof s->len, "len");
  explore_name (&s->pblk, sizeof s->pblk, "pblk");
  explore_name (&map_lock, sizeof map_lock, "MAP");
  explore_name (inode_lock, sizeof inode_lock, "INODE");
  explore_name (place, sizeof place, "place");
  place[0] = 1000;
  place[1] = 1004;
}

/* Runs that have nothing in common, so that a mixture of them is seen. */

static void
note_one (void)
{
  explore_lock (&map_lock, false);
  runs_note (&runs, 5, 0, 8, 1000);
  explore_unlock (&map_lock, false);
}

static void
note_another (void)
{
  explore_lock (&map_lock, false);
  runs_note (&runs, 5, 4, 6, 2004);
  explore_unlock (&map_lock, false);
}

static void
note_both (void)
{
  note_one ();
  note_another ();
}

static void
find (void)
{
  uint64_t pblk, len;

  if (runs_find (&runs, 5, &pblk, &len)) {
    explore_check (pblk == 1005 || pblk == 2005);
    explore_check (len == (pblk == 1005 ? 3 : 5));
  }
}

static void
find_twice (void)
{
  find ();
  find ();
}

static void
setup_noted (void)
{
  setup ();
  runs_note (&runs, 5, 0, 8, 1000);
}

static const struct explore_scenario two_note = {
  "runs: two note, one finds", setup, { note_one, note_another, find_twice },
};

static const struct explore_scenario noted_anew = {
  "runs: noted twice more while two find", setup_noted,
  { note_both, find, find },
};

/* A request's lookup of block 0 or 4, as in lib/file.c. */
static void
look_up (unsigned half)
{
  const uint64_t lblk = 4 * half;
  uint64_t pblk, len;

  explore_lock (&inode_lock[half], false);
  if (!runs_find (&runs, lblk, &pblk, &len)) {
    explore_lock (&map_lock, false);
    pblk = place[half];
    if (place[0] && place[0] + 4 == place[1])
      runs_note (&runs, lblk, 0, 8, place[0]);
    else if (pblk)
      runs_note (&runs, lblk, lblk, 4, pblk);
    explore_unlock (&map_lock, false);
  }
  explore_check (pblk == place[half]);
  explore_unlock (&inode_lock[half], false);
}

/* Blocks are taken away, as in map_remove; or others are given, in vain or
 * not.  Block 0 stays.
 */
static void
move (uint64_t to)
{
  explore_lock (&inode_lock[1], true);
  explore_lock (&map_lock, true);
  place[1] = to;
  runs_forget (&runs, 4, 4);
  explore_unlock (&map_lock, true);
  explore_unlock (&inode_lock[1], true);
}

static void look_up_first (void) { look_up (0); }
static void look_up_second (void) { look_up (1); }
static void remove_second (void) { move (0); }

static void
move_twice (void)
{
  move (2004);
  move (1004);
}

static void
look_up_both (void)
{
  look_up (0);
  look_up (1);
}

static const struct explore_scenario removed = {
  "runs: removed while two look up", setup,
  { remove_second, look_up_first, look_up_second },
};

static const struct explore_scenario moved = {
  "runs: moved twice while one looks up", setup_noted,
  { move_twice, look_up_both },
};

/* Long ones. */

static const struct explore_scenario three_note = {
  "runs: one notes twice, another too, two find", setup_noted,
  { note_both, note_one, find, find },
};

static const struct explore_scenario removed_under_two = {
  "runs: removed while one looks up all, and another that", setup_noted,
  { remove_second, look_up_both, look_up_second },
};

#define N(array) (sizeof array / sizeof array[0])
#define SC memory_order_seq_cst
#define ACQ memory_order_acquire
#define REL memory_order_release
#define RLX memory_order_relaxed

int
main (int argc, char *argv[])
{
  static const struct explore_mutation wrong_note[] = {
    { "sequence", EXPLORE_LOAD, ACQ, RLX },
    { "sequence", EXPLORE_STORE, REL, RLX },
    { "sequence", EXPLORE_CAS, SC, RLX },
    { "lblk", EXPLORE_LOAD, ACQ, RLX },
    { "len", EXPLORE_LOAD, ACQ, RLX },
    { "pblk", EXPLORE_LOAD, ACQ, RLX },
    { "lblk", EXPLORE_STORE, REL, RLX },
    { "len", EXPLORE_STORE, REL, RLX },
    { "pblk", EXPLORE_STORE, REL, RLX },
  };
  static const struct explore_mutation wrong_forget[] = {
    { "len", EXPLORE_STORE, REL, EXPLORE_OMIT },
  };
  bool ok = true;

  ok &= explore_all (&two_note, wrong_note, N (wrong_note));
  ok &= explore_all (&noted_anew, NULL, 0);
  ok &= explore_all (&removed, NULL, 0);
  ok &= explore_all (&moved, wrong_forget, N (wrong_forget));
  if (argc > 1) {
    ok &= explore_all (&three_note, NULL, 0);
    ok &= explore_all (&removed_under_two, NULL, 0);
  }
  return ok ? 0 : 1;
}

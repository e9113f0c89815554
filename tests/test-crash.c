/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Power cuts: see crash.h.  Without arguments, all configurations, one
 * test each; then chains of crashes.  Otherwise see usage below.
 */

#include <config.h>

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crash.h"
#include "image.h"

static struct options {
  uint64_t seed;
  unsigned points, requests;    /* 0 = the configuration's */
  unsigned threads;
  unsigned mounts;              /* points that Linux looks at as well */
  unsigned minutes;             /* of soak */
  int expect;                   /* -1 = the configuration's */
  const char *image;            /* judge a log of another program */
  const char *like;
  const char *found;
  const char *cut;
  const char *make;
  bool tell;
} opt = { .seed = 1, .threads = 4, .expect = -1 };

static const char usage[] =
  "usage: test-crash [OPTIONS] [CONFIGURATION...]\n"
  "       test-crash --make=IMAGE | --expectation CONFIGURATION\n"
  "       test-crash [OPTIONS] --image=IMAGE LOG...\n"
  "  --list           the configurations\n"
  "  --seed=N         of the load and of the crash points (1)\n"
  "  --points=N       crash points\n"
  "  --requests=N     length of the load\n"
  "  --threads=N      that make the load (4); 1 is repeatable\n"
  "  --expect=WHAT    repair (e2fsck -p) or replay (the journal)\n"
  "  --mounts=N       so many points are mounted by Linux too (root)\n"
  "  --soak=MINUTES   go on with other seeds\n"
  "  --image=IMAGE    judge the LOGs of what happened to IMAGE\n"
  "  --like=CONFIGURATION  expecting what is expected of that\n"
  "  --cut=AT,MODE,SEED   one crash point of it\n"
  "  --found=IMAGE    this is what was left; no crash points\n"
  "With V in the environment, with the library's messages.\n";

static double
now (void)
{
  return crash_clock () * 1e-9;
}

static enum crash_expect
expectation (const struct crash_config *c)
{
  return opt.expect == -1 ? c->expect : (enum crash_expect) opt.expect;
}

static const struct crash_config *
need_config (const char *name)
{
  const struct crash_config *c = crash_find_config (name);

  if (c == NULL) {
    fprintf (stderr, "no configuration %s\n%s", name, usage);
    exit (1);
  }
  return c;
}

static struct powercut
parse_cut (const char *s)
{
  unsigned long long at, seed;
  int mode;

  if (sscanf (s, "%llu,%d,%llu", &at, &mode, &seed) != 3) {
    fputs (usage, stderr);
    exit (1);
  }
  return (struct powercut) { at, (enum powercut_mode) mode, seed };
}

/* Crash points. */

static int
compare_cuts (const void *a, const void *b)
{
  const struct powercut *p = a, *q = b;

  return p->at < q->at ? -1 : p->at > q->at;
}

/* What a commit waits for. */
static bool
is_barrier (const struct memdev_entry *e)
{
  return e->call == MEMDEV_FLUSH || (e->flags & DEVICE_FUA);
}

/* Half of them soon after a barrier, where what was kept apart by it
 * begins to mix with what is not durable yet; the others around the
 * beginning of any call.
 */
static struct powercut
random_cut (const struct crash_history *h, struct rng *rng)
{
  size_t n = rng_below (rng, h->log_count), i = n;
  uint64_t at = h->log[n].begin + rng_below (rng, 2);

  if (rng_below (rng, 2)) {
    while (i > 0 && !is_barrier (&h->log[i]))
      i--;
    if (is_barrier (&h->log[i]))
      at = h->log[i].end + 1 + rng_below (rng, 3);
  }
  return (struct powercut) {
    .at = at, .mode = rng_below (rng, POWERCUT_MODES),
    .seed = rng_next (rng),
  };
}

/* One flush in so many, so that they are about half of COUNT points; all
 * where nobody waits for it.
 */
static size_t
flush_step (const struct crash_history *h, size_t count)
{
  size_t n = 0, i;

  if (opt.minutes > 0 || image_stride () == 1)
    return 1;
  for (i = 0; i < h->log_count; i++)
    n += h->log[i].call == MEMDEV_FLUSH;
  return 2 * n / (count + 1) + 1;
}

/* Flushes, right after them: nothing but what is durable is there.  Then
 * random ones up to COUNT, or half as many if there were as many flushes.
 * In the order of time.  *FLUSHES of them are flushes.
 */
static struct powercut *
choose_cuts (const struct crash_history *h, size_t *count, size_t *flushes,
             uint64_t seed)
{
  struct powercut *cuts = calloc (h->log_count + 2 * *count,
                                  sizeof *cuts);
  const size_t step = flush_step (h, *count);
  struct rng rng = { seed };
  size_t n = 0, seen = 0, i;

  if (cuts == NULL)
    abort ();
  for (i = 0; i < h->log_count; i++)
    if (h->log[i].call == MEMDEV_FLUSH && seen++ % step == 0)
      cuts[n++].at = h->log[i].end + 1;
  *flushes = n;
  if (*count < n + *count / 2)
    *count = n + *count / 2;
  while (n < *count && h->log_count > 0)
    cuts[n++] = random_cut (h, &rng);
  qsort (cuts, n, sizeof *cuts, compare_cuts);
  *count = n;
  return cuts;
}

/* What is to be typed to see it again. */
static void
say_how (const struct crash_history *h, const char *name,
         const struct powercut *cut, enum crash_expect expect)
{
  char prefix[256];

  fprintf (stderr, "%s, seed %llu: wrong after a power cut at %llu (mode "
           "%d, seed %llu)\n", name, (unsigned long long) opt.seed,
           (unsigned long long) cut->at, (int) cut->mode,
           (unsigned long long) cut->seed);
  if (opt.image == NULL) {
    snprintf (prefix, sizeof prefix, "crash-%s-%llu", name,
              (unsigned long long) opt.seed);
    crash_save (h, prefix);
    fprintf (stderr, "again: test-crash --expect=%s --cut=%llu,%d,%llu "
             "--image=%s.img %s.log\n",
             expect == CRASH_REPLAY ? "replay" : "repair",
             (unsigned long long) cut->at, (int) cut->mode,
             (unsigned long long) cut->seed, prefix, prefix);
  }
}

/* Judges COUNT points, or what became of that. */
static bool
judge_points (const char *name, const struct crash_history *h,
              enum crash_expect expect, size_t count)
{
  struct judge *j = judge_new (h, expect);
  double start = now ();
  size_t flushes, i, every;
  struct powercut *cuts = choose_cuts (h, &count, &flushes, opt.seed);
  bool ok = true;

  every = opt.mounts ? count / opt.mounts + 1 : count + 1;
  for (i = 0; i < count && ok; i++)
    if (!(ok = judge_cut (j, &cuts[i], i % every == every - 1)))
      say_how (h, name, &cuts[i], expect);
  printf ("%s: %zu crash points, %zu of them flushes, of %zu device calls "
          "and %zu requests, expecting %s, in %.1f s: %s\n", name, i,
          flushes, h->log_count, h->request_count,
          expect == CRASH_REPLAY ? "replay" : "repair", now () - start,
          ok ? "all right" : "WRONG");
  fflush (stdout);
  free (cuts);
  judge_free (j);
  return ok;
}

static bool
run_config (const struct crash_config *c)
{
  unsigned points = opt.points ? opt.points : image_scale (c->points);
  unsigned requests = opt.requests ? opt.requests : image_scale (c->requests);
  struct memdev *md = crash_image (c);
  struct crash_history h;
  bool ok;

  crash_load (md, requests, opt.threads, opt.seed, &h);
  memdev_free (md);
  ok = judge_points (c->name, &h, expectation (c), points);
  crash_history_free (&h);
  return ok;
}

#define CHAIN_CUTS 6            /* of a link */

/* A cut in a link of a chain: half of them while we open it, which may be
 * recovering it.
 */
static struct powercut
chain_cut (const struct crash_history *h, unsigned k, struct rng *rng)
{
  size_t n = h->log_count;

  if (k % 2 == 0 && n > 30)
    n = 30;
  return (struct powercut) {
    .at = h->log[rng_below (rng, n)].begin,
    .mode = rng_below (rng, POWERCUT_MODES), .seed = rng_next (rng),
  };
}

/* Crash, recover, go on, crash again; recovered by us and by e2fsck in
 * turn.
 */
static bool
run_chain (const struct crash_config *c, bool us_first, unsigned links)
{
  const enum crash_expect expect = expectation (c);
  struct memdev *md = crash_image (c);
  struct rng rng = { opt.seed + us_first };
  struct crash_history h;
  struct powercut cut;
  struct judge *j;
  char name[64];
  unsigned i, k;
  bool ok = true, us;

  snprintf (name, sizeof name, "%s-chain-%s", c->name,
            us_first ? "us" : "e2fsck");
  for (i = 0; i < links && ok; i++) {
    crash_load (md, 150, opt.threads, rng_next (&rng), &h);
    memdev_free (md);
    j = judge_new (&h, expect);
    /* The last one judged is the one that we go on from. */
    for (k = 0; k < CHAIN_CUTS && ok; k++) {
      cut = chain_cut (&h, k, &rng);
      if (!(ok = judge_cut (j, &cut, false)))
        say_how (&h, name, &cut, expect);
    }
    us = us_first == (i % 2 == 0) && expect == CRASH_REPLAY;
    md = judge_next (j, !us);
    judge_free (j);
    crash_history_free (&h);
  }
  memdev_free (md);
  printf ("%s: %u crash points in a chain of %u crashes, expecting %s: %s\n",
          name, CHAIN_CUTS * i, i, expect == CRASH_REPLAY ? "replay" : "repair",
          ok ? "all right" : "WRONG");
  fflush (stdout);
  return ok;
}

/* Crashes of our own recovery: opened and closed after a crash, with the
 * power cut at each call and in each way.
 */
static bool
run_recovery (const struct crash_config *c, unsigned rounds)
{
  struct memdev *md = crash_image (c);
  struct rng rng = { opt.seed + 7 };
  struct crash_history h, h2;
  struct judge *j, *j2;
  struct powercut cut;
  unsigned points = 0, i;
  /* No factor of the number of modes: each has its turn. */
  const size_t step = image_stride () == 1 ? 1 : image_stride () > 5 ? 5 : 3;
  size_t k;
  bool ok = true;

  crash_load (md, 300, opt.threads, opt.seed, &h);
  memdev_free (md);
  j = judge_new (&h, CRASH_REPLAY);
  for (i = 0; i < rounds && ok; i++) {
    cut = random_cut (&h, &rng);
    if (!(ok = judge_cut (j, &cut, false))) {
      say_how (&h, c->name, &cut, CRASH_REPLAY);
      break;
    }
    md = judge_next (j, false);
    crash_load (md, 0, 1, 0, &h2);
    memdev_free (md);
    j2 = judge_new (&h2, CRASH_REPLAY);
    for (k = 0; k < h2.log_count * POWERCUT_MODES && ok; k += step) {
      cut = (struct powercut) {
        .at = h2.log[k / POWERCUT_MODES].end + 1,
        .mode = k % POWERCUT_MODES, .seed = rng_next (&rng),
      };
      points++;
      if (!(ok = judge_cut (j2, &cut, false)))
        say_how (&h2, c->name, &cut, CRASH_REPLAY);
    }
    judge_free (j2);
    crash_history_free (&h2);
  }
  judge_free (j);
  crash_history_free (&h);
  printf ("%s-recovery: %u crash points in %u recoveries: %s\n", c->name,
          points, i, ok ? "all right" : "WRONG");
  fflush (stdout);
  return ok;
}

static void
test_config (void **state)
{
  assert_true (run_config (*state));
}

static void
test_chain (void **state)
{
  const unsigned links = 2 + 6 / image_stride ();

  assert_true (run_chain (*state, false, links));
  assert_true (run_chain (*state, true, links));
  if (expectation (*state) == CRASH_REPLAY)
    assert_true (run_recovery (*state, image_stride () == 1 ? 2 : 1));
}

static int
make_check (void)
{
  enum { MOST = 32 };
  struct CMUnitTest tests[MOST];
  char names[MOST][64];
  const struct crash_config *c;
  size_t n = 0, i;

  if (opt.mounts == 0 && judge_can_mount ())
    opt.mounts = image_scale (20) / 4;
  for (i = 0; i < 2; i++)
    for (c = crash_configs; c->name && n < MOST; c++, n++) {
      snprintf (names[n], sizeof names[n], "%s %s", i ? "chain" : "crash",
                c->name);
      tests[n] = (struct CMUnitTest) {
        .name = names[n], .test_func = i ? test_chain : test_config,
        .initial_state = (void *) (uintptr_t) c,
      };
    }
  return _cmocka_run_group_tests ("crash", tests, n, NULL, NULL);
}

/* The configurations NAMES, or all if there are none, once or for a
 * number of minutes.
 */
static int
run_names (char *const *names)
{
  const double end = now () + opt.minutes * 60.0;
  const struct crash_config *c;
  char *const *name;

  do {
    for (name = names; *name; name++) {
      c = need_config (*name);
      if (!run_config (c) || !run_chain (c, opt.seed % 2, 4) ||
          (expectation (c) == CRASH_REPLAY && !run_recovery (c, 1)))
        return 1;
      if (opt.minutes && now () >= end)
        break;
    }
    if (opt.minutes)
      printf ("seed %llu is done, %.0f minutes to go\n",
              (unsigned long long) opt.seed, (end - now ()) / 60);
    opt.seed++;
  } while (now () < end);
  return 0;
}

static int
run_all_names (void)
{
  char *names[32];
  size_t n = 0;

  for (; crash_configs[n].name; n++)
    names[n] = strdup (crash_configs[n].name);
  names[n] = NULL;
  return run_names (names);
}

/* Another program's log, or one that was saved. */
static int
judge_logs (char *const *logs)
{
  enum crash_expect expect = opt.expect == -1 ? CRASH_REPAIR
    : (enum crash_expect) opt.expect;
  struct powercut cut = { .at = UINT64_MAX };
  struct crash_history h;
  struct judge *j;
  bool ok;

  crash_read (opt.image, logs, &h);
  if (!opt.cut && !opt.found)
    ok = judge_points (opt.like ? opt.like : opt.image, &h, expect,
                       opt.points ? opt.points : 100);
  else {
    if (opt.cut)
      cut = parse_cut (opt.cut);
    j = judge_new (&h, expect);
    ok = opt.found ? judge_found (j, opt.found)
      : judge_cut (j, &cut, opt.mounts > 0);
    puts (ok ? "all right" : "WRONG");
    judge_free (j);
  }
  crash_history_free (&h);
  return !ok;
}

static int
about_config (const char *name)
{
  const struct crash_config *c = need_config (name);
  struct memdev *md;
  FILE *f;

  if (opt.tell) {
    puts (expectation (c) == CRASH_REPLAY ? "replay" : "repair");
    return 0;
  }
  md = crash_image (c);
  f = fopen (opt.make, "w");
  if (f == NULL || fwrite (md->mem, 1, md->dev.size, f) != md->dev.size ||
      fclose (f) != 0) {
    perror (opt.make);
    return 1;
  }
  memdev_free (md);
  return 0;
}

static bool
parse (int argc, char **argv)
{
  static const struct option options[] = {
    { "list", 0, NULL, 'l' }, { "seed", 1, NULL, 's' },
    { "points", 1, NULL, 'p' }, { "requests", 1, NULL, 'r' },
    { "threads", 1, NULL, 't' }, { "expect", 1, NULL, 'e' },
    { "mounts", 1, NULL, 'm' }, { "soak", 1, NULL, 'k' },
    { "image", 1, NULL, 'i' }, { "cut", 1, NULL, 'c' },
    { "found", 1, NULL, 'f' }, { "make", 1, NULL, 'M' },
    { "like", 1, NULL, 'L' }, { "expectation", 0, NULL, 'E' },
    { NULL, 0, NULL, 0 },
  };
  const struct crash_config *c;
  int o;

  while ((o = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (o) {
    case 'l':
      for (c = crash_configs; c->name; c++)
        printf ("%-16s %s\n", c->name, c->args);
      exit (0);
    case 's': opt.seed = strtoull (optarg, NULL, 0); break;
    case 'p': opt.points = atoi (optarg); break;
    case 'r': opt.requests = atoi (optarg); break;
    case 't': opt.threads = atoi (optarg); break;
    case 'm': opt.mounts = atoi (optarg); break;
    case 'k': opt.minutes = atoi (optarg); break;
    case 'i': opt.image = optarg; break;
    case 'c': opt.cut = optarg; break;
    case 'f': opt.found = optarg; break;
    case 'M': opt.make = optarg; break;
    case 'L':
      opt.like = optarg;
      opt.expect = need_config (optarg)->expect;
      break;
    case 'E': opt.tell = true; break;
    case 'h': fputs (usage, stdout); exit (0);
    case 'e':
      opt.expect = strcmp (optarg, "replay") == 0 ? CRASH_REPLAY
        : CRASH_REPAIR;
      if (opt.expect == CRASH_REPAIR && strcmp (optarg, "repair") != 0)
        return false;
      break;
    default:
      return false;
    }
  return opt.threads > 0;
}

int
main (int argc, char **argv)
{
  if (!parse (argc, argv)) {
    fputs (usage, stderr);
    return 1;
  }
  image_init ();
  if (opt.minutes)
    alarm (0);
  if (opt.image)
    return judge_logs (argv + optind);
  if ((opt.make || opt.tell) && optind + 1 == argc)
    return about_config (argv[optind]);
  if (optind < argc)
    return run_names (argv + optind);
  if (opt.minutes)
    return run_all_names ();
  return make_check ();
}

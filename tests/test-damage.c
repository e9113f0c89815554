/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Damaged images: see damage.h.  Without arguments, some cases of every
 * kind of filesystem, the same ones each time, a test for each.  Otherwise
 * see usage below.
 */

#include <config.h>

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "damage.h"

static const char usage[] =
  "usage: test-damage [OPTIONS] --all | CONFIGURATION...\n"
  "       test-damage [OPTIONS] --image IMAGE...\n"
  "       test-damage --served BEFORE AFTER [INODE...]\n"
  "  --list           the configurations, with the number of their cases\n"
  "  --seed=N         chooses values, and where to begin (1)\n"
  "  --family=NAME    of damage: flip, word, super, cross, cut, loop, mix\n"
  "  --every=N        one case in N (1)\n"
  "  --only=N         that case alone\n"
  "  --minutes=N      end after this time\n"
  "  --keep=PREFIX    leave the damaged image in PREFIX.before, and what has\n"
  "                   become of it in PREFIX.after\n"
  "  --most=N         end after so many wrong cases (1)\n"
  "  --image          these images, as they are\n"
  "  --served         judge what somebody has made of the image BEFORE,\n"
  "                   writing to the files with these INODEs\n"
  "With V in the environment, with the messages of the library and of\n"
  "e2fsck.\n";

static struct options {
  uint64_t seed, every, only;
  int family;                   /* -1: all */
  unsigned minutes, most;
  bool all, image, served;
  const char *keep;
} opt = { .seed = 1, .every = 1, .only = UINT64_MAX, .family = -1,
          .most = 1 };

static struct damage_stats stats;
static unsigned wrong;
static time_t end;              /* 0: none */

/* What is being done, for a signal to tell. */
static char current[300];

/* A case takes longer than that: it hangs.  Seconds. */
#define HANG 120

static void
tell_current (int sig)
{
  static const char text[] = "\nended by a signal; to repeat: ";

  if (write (2, text, sizeof text - 1) == -1 ||
      write (2, current, strlen (current)) == -1 || write (2, "\n", 1) == -1)
    _exit (99);
  signal (sig, SIG_DFL);
  raise (sig);
}

static void
tell_signals (void)
{
  static const int signals[] = { SIGALRM, SIGABRT, SIGSEGV, SIGBUS };
  /* The sanitizers have something to tell themselves. */
  const size_t n = getenv ("EXT2_SANITIZER") ? 2 : 4;
  size_t i;

  for (i = 0; i < n; i++)
    signal (signals[i], tell_current);
}

static void
keep (struct memdev *md, const char *suffix)
{
  char name[4096];
  FILE *f;

  if (opt.keep == NULL)
    return;
  snprintf (name, sizeof name, "%s.%s", opt.keep, suffix);
  f = fopen (name, "w");
  if (f == NULL || fwrite (md->mem, 1, md->dev.size, f) != md->dev.size ||
      fclose (f) != 0) {
    perror (name);
    exit (1);
  }
}

static bool
run_case (struct victim *v, enum family family, uint64_t n, uint64_t seed)
{
  char what[600], why[400];
  struct memdev *md = damage_make (v, family, n, seed, what, sizeof what);
  bool ok;

  if (md == NULL)
    return true;
  snprintf (current, sizeof current, "./test-damage --seed=%llu --family=%s "
            "--only=%llu %s", (unsigned long long) seed,
            family_names[family], (unsigned long long) n, v->config->name);
  if (getenv ("V"))
    fprintf (stderr, "# %s: %s\n", current, what);
  alarm (HANG);
  keep (md, "before");
  ok = judge_image (md, n, false, &stats, why, sizeof why);
  keep (md, "after");
  alarm (0);
  damage_done (v, md);
  if (!ok)
    printf ("WRONG: %s: %s\n  %s\n  to repeat: %s\n", v->config->name, what,
            why, current);
  return ok;
}

static bool
out_of_time (void)
{
  return end != 0 && time (NULL) >= end;
}

/* Every so often, so that one sees that it goes on. */
static void
show_progress (const char *config, enum family family, uint64_t n,
               uint64_t count)
{
  static time_t last;

  if (time (NULL) - last < 20)
    return;
  last = time (NULL);
  printf ("%s %s: %llu of %llu; %llu cases so far, %u wrong\n", config,
          family_names[family], (unsigned long long) n,
          (unsigned long long) count, (unsigned long long) stats.cases,
          wrong);
  fflush (stdout);
}

/* The healthy image must pass as well, and all of its files be served. */
static bool
run_healthy (struct victim *v)
{
  struct damage_stats healthy = { .cases = 0 };
  struct memdev *md = memdev_copy (v->md);
  char why[400];
  bool ok;

  snprintf (current, sizeof current, "./test-damage %s", v->config->name);
  ok = judge_image (md, 1, false, &healthy, why, sizeof why);
  memdev_free (md);
  if (ok && healthy.served == 1 &&
      healthy.unchanged == (v->config->readonly ? 1 : 0))
    return true;
  printf ("WRONG: %s, undamaged: %s\n", v->config->name,
          ok ? "not served as expected" : why);
  return false;
}

static bool
run_family (struct victim *v, enum family family)
{
  const uint64_t count = damage_count (v, family);
  uint64_t n = opt.only == UINT64_MAX ? opt.seed % opt.every : opt.only;

  for (; n < count && !out_of_time () && wrong < opt.most;
       n += opt.only == UINT64_MAX ? opt.every : count) {
    wrong += !run_case (v, family, n, opt.seed);
    show_progress (v->config->name, family, n, count);
  }
  return wrong < opt.most && !out_of_time ();
}

static void
run_config (const struct damage_config *c)
{
  struct victim v;
  int family;

  victim_init (&v, c);
  wrong += !run_healthy (&v);
  for (family = 0; family < FAMILIES; family++)
    if (opt.family == -1 || opt.family == family)
      if (!run_family (&v, (enum family) family))
        break;
  victim_free (&v);
}

static void
show_stats (void)
{
  printf ("seed %llu: %llu cases, %u wrong; read-only %llu were refused; "
          "writable %llu were refused, %llu served (%llu of them not "
          "changed, %llu judged); at most %llu calls of the device "
          "and %llu KiB of memory more than at first\n",
          (unsigned long long) opt.seed, (unsigned long long) stats.cases,
          wrong, (unsigned long long) stats.refused_readonly,
          (unsigned long long) stats.refused,
          (unsigned long long) stats.served,
          (unsigned long long) stats.unchanged,
          (unsigned long long) stats.judged,
          (unsigned long long) stats.most_calls,
          (unsigned long long) stats.most_memory);
}

static int
run_names (char *const *names)
{
  const struct damage_config *c;
  bool found = false;
  char *const *name;

  for (c = damage_configs; c->name && !out_of_time (); c++) {
    bool wanted = opt.all;

    for (name = names; *name; name++)
      wanted = wanted || strcmp (*name, c->name) == 0;
    if (wanted && wrong < opt.most)
      run_config (c);
    found = found || wanted;
  }
  if (!found) {
    fputs (usage, stderr);
    return 1;
  }
  show_stats ();
  return wrong > 0;
}

/* Images from elsewhere. */

static struct memdev *
read_image (const char *name)
{
  FILE *f = fopen (name, "r");
  struct memdev *md;
  long size;

  if (f == NULL || fseek (f, 0, SEEK_END) == -1 || (size = ftell (f)) <= 0 ||
      fseek (f, 0, SEEK_SET) == -1) {
    perror (name);
    exit (1);
  }
  md = memdev_new (size);
  must (fread (md->mem, 1, size, f) == (size_t) size);
  fclose (f);
  return md;
}

static int
judge_images (char *const *names)
{
  char why[400];

  for (; *names; names++) {
    struct memdev *md = read_image (*names);

    snprintf (current, sizeof current, "./test-damage --image %s", *names);
    if (getenv ("V"))
      fprintf (stderr, "# %s\n", current);
    alarm (HANG);
    if (!judge_image (md, opt.seed, true, &stats, why, sizeof why)) {
      printf ("WRONG: %s: %s\n", *names, why);
      wrong++;
    }
    alarm (0);
    memdev_free (md);
  }
  show_stats ();
  return wrong > 0;
}

static int
judge_files (int argc, char *const *argv)
{
  ext2_ino_t *targets = calloc (argc, sizeof *targets);
  struct memdev *before, *after;
  char why[400];
  int i;

  must (argc >= 2 && targets != NULL);
  before = read_image (argv[0]);
  after = read_image (argv[1]);
  must (before->dev.size == after->dev.size);
  for (i = 2; i < argc; i++)
    targets[i - 2] = strtoul (argv[i], NULL, 10);
  if (!judge_served (before->mem, after, targets, why, sizeof why)) {
    printf ("WRONG: %s: %s\n", argv[1], why);
    wrong++;
  }
  memdev_free (before);
  memdev_free (after);
  free (targets);
  return wrong > 0;
}

/* make check. */

/* So many of each family, from all over it. */
#define STRIDE UINT64_C (1000003)       /* a prime */
static const unsigned samples[FAMILIES] = {
  [FLIP] = 14, [WORD] = 14, [SUPER] = 10, [CROSS] = 12, [CUT] = 4,
  [LOOP] = 6, [MIX] = 6,
};

static void
test_config (void **state)
{
  const struct damage_config *c = *state;
  struct victim v;
  uint64_t count;
  int family;
  unsigned i;

  victim_init (&v, c);
  wrong = !run_healthy (&v);
  for (family = 0; family < FAMILIES; family++) {
    count = damage_count (&v, (enum family) family);
    for (i = 1; i <= image_scale (samples[family]); i++)
      wrong += !run_case (&v, (enum family) family, i * STRIDE % count, 1);
  }
  victim_free (&v);
  assert_int_equal (wrong, 0);
}

static int
make_check (void)
{
  struct CMUnitTest tests[32];
  const struct damage_config *c;
  size_t n = 0;
  int r;

  for (c = damage_configs; c->name; c++) {
    /* e2fsck waits 11 seconds for a server that may be at work there. */
    if (strstr (c->args, "mmp") && image_stride () > 1)
      continue;
    tests[n++] = (struct CMUnitTest) {
      .name = c->name, .test_func = test_config,
      .initial_state = (void *) (uintptr_t) c,
    };
  }
  r = _cmocka_run_group_tests ("damage", tests, n, NULL, NULL);
  show_stats ();
  return r;
}

static void
list (void)
{
  const struct damage_config *c;
  struct victim v;
  int f;

  for (c = damage_configs; c->name; c++) {
    victim_init (&v, c);
    printf ("%-14s", c->name);
    for (f = 0; f < FAMILIES; f++)
      printf (" %s %llu", family_names[f],
              (unsigned long long) damage_count (&v, (enum family) f));
    putchar ('\n');
    victim_free (&v);
  }
}

static int
family_named (const char *name)
{
  int f;

  for (f = 0; f < FAMILIES; f++)
    if (strcmp (family_names[f], name) == 0)
      return f;
  return -2;
}

static bool
parse (int argc, char **argv)
{
  static const struct option options[] = {
    { "list", 0, NULL, 'l' }, { "seed", 1, NULL, 's' },
    { "family", 1, NULL, 'f' }, { "every", 1, NULL, 'e' },
    { "only", 1, NULL, 'o' }, { "minutes", 1, NULL, 'm' },
    { "most", 1, NULL, 'M' }, { "keep", 1, NULL, 'k' }, { "all", 0, NULL, 'a' },
    { "image", 0, NULL, 'i' }, { "served", 0, NULL, 'S' },
    { "help", 0, NULL, 'h' }, { NULL, 0, NULL, 0 },
  };
  int o;

  while ((o = getopt_long (argc, argv, "", options, NULL)) != -1)
    switch (o) {
    case 'l': list (); exit (0);
    case 's': opt.seed = strtoull (optarg, NULL, 0); break;
    case 'f': opt.family = family_named (optarg); break;
    case 'e': opt.every = strtoull (optarg, NULL, 0); break;
    case 'o': opt.only = strtoull (optarg, NULL, 0); break;
    case 'm': opt.minutes = atoi (optarg); break;
    case 'M': opt.most = atoi (optarg); break;
    case 'k': opt.keep = optarg; break;
    case 'a': opt.all = true; break;
    case 'i': opt.image = true; break;
    case 'S': opt.served = true; break;
    case 'h': fputs (usage, stdout); exit (0);
    default: return false;
    }
  return opt.every > 0 && opt.family != -2;
}

int
main (int argc, char **argv)
{
  image_init ();
  if (!parse (argc, argv)) {
    fputs (usage, stderr);
    return 1;
  }
  tell_signals ();
  if (argc == 1)
    return make_check ();
  alarm (0);
  if (opt.minutes)
    end = time (NULL) + 60 * opt.minutes;
  if (opt.served)
    return judge_files (argc - optind, argv + optind);
  if (opt.image)
    return judge_images (argv + optind);
  return run_names (argv + optind);
}

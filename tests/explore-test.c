/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What makes tests of scenarios: names, and the source made wrong on purpose,
 * which must be found.
 */

#include <config.h>

#include <time.h>

#include "explore-impl.h"

/* Names. */

#define NAMES 200

static struct {
  const char *p;
  size_t size;
  const char *name;
} named[NAMES];

static unsigned nnamed;

void
explore_forget_names (void)
{
  nnamed = 0;
}

void
explore_name (const void *p, size_t size, const char *name)
{
  if (nnamed == NAMES)
    explore_fail ("more names than the explorer can have");
  named[nnamed].p = p;
  named[nnamed].size = size;
  named[nnamed++].name = name;
}

static const char *
only_name (const void *object, size_t *offset)
{
  const char *p = object;
  unsigned i;

  for (i = nnamed; i-- > 0; )
    if (p >= named[i].p && p < named[i].p + named[i].size) {
      *offset = (size_t) (p - named[i].p);
      return named[i].name;
    }
  return NULL;
}

const char *
name_of (const void *object)
{
  static char buffer[2][60];
  static unsigned n;
  size_t offset = 0;
  const char *name = only_name (object, &offset);

  n = !n;
  if (name)
    snprintf (buffer[n], sizeof buffer[n], offset ? "%s+%zu" : "%s", name,
              offset);
  else
    snprintf (buffer[n], sizeof buffer[n], "%p", object);
  return buffer[n];
}

/* Mutations. */

static const struct explore_mutation *mutation;
static bool mutated;

bool
explore_mutate (struct op *op)
{
  static const enum explore_kind kind_of[] = {
    [OP_LOAD] = EXPLORE_LOAD, [OP_STORE] = EXPLORE_STORE,
    [OP_RMW] = EXPLORE_RMW, [OP_CAS] = EXPLORE_CAS,
  };
  const bool wake = op->kind == OP_WAKE || op->kind == OP_WAKE_ALL;
  const char *name;
  size_t offset;

  if (mutation == NULL || (op->kind > OP_CAS && !wake) ||
      (wake ? EXPLORE_WAKE : kind_of[op->kind]) != mutation->kind ||
      (!wake && op->order != mutation->from))
    return true;
  name = only_name (op->object, &offset);
  if (name == NULL || strcmp (name, mutation->object) != 0)
    return true;
  mutated = true;
  if (mutation->to == EXPLORE_OMIT)
    return false;
  op->order = mutation->to;
  if (op->kind == OP_CAS && op->order == memory_order_relaxed)
    op->order_failed = memory_order_relaxed;
  return true;
}

/* Tests. */

static const char *
order_name (int order)
{
  static const char *const name[] = {
    "relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst",
  };

  return order == EXPLORE_OMIT ? "omitted" : name[order];
}

static bool
explore_mutant (const struct explore_scenario *s,
                const struct explore_mutation *m)
{
  static const char *const kind[] = {
    "load", "store", "modify", "exchange", "wake",
  };
  struct explore_result r;
  bool ok;

  mutation = m;
  mutated = false;
  ok = !explore (s, true, &r) && mutated;
  mutation = NULL;

  printf ("%s  %s %s", ok ? "  " : "NOT FOUND", m->object, kind[m->kind]);
  if (m->kind != EXPLORE_WAKE)
    printf (" %s", order_name (m->from));
  printf (" -> %s: %s\n", order_name (m->to),
          ok ? explore_failure () : mutated ? "it holds"
          : "there is no such operation");
  return ok;
}

bool
explore_all (const struct explore_scenario *s,
             const struct explore_mutation *m, size_t mutations)
{
  const clock_t began = clock ();
  struct explore_result r;
  bool ok = explore (s, false, &r);
  size_t i;

  printf ("%s: %s, %lu executions, %lu states, %ld ms\n", s->name,
          ok ? "holds" : "FAILS", r.executions, r.states,
          (long) ((clock () - began) * 1000 / CLOCKS_PER_SEC));
  for (i = 0; i < mutations; i++)
    ok &= explore_mutant (s, &m[i]);
  fflush (stdout);
  return ok;
}

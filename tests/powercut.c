/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a power cut leaves of a log: see powercut.h. */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "powercut.h"

struct replay {
  const struct memdev_entry *log;
  size_t count;
  uint64_t size;
  uint32_t unit;                /* bytes */
  uint8_t *base;
  uint8_t *stable;              /* base and the first SETTLED entries */
  size_t settled;               /* all durable at the last cut */
  uint64_t at;                  /* the last cut */
};

static void *
must_alloc (size_t size)
{
  void *p = malloc (size ? size : 1);

  if (p == NULL)
    abort ();
  return p;
}

struct replay *
replay_new (const uint8_t *base, uint64_t size,
            const struct memdev_entry *log, size_t count, uint32_t unit)
{
  struct replay *r = must_alloc (sizeof *r);

  *r = (struct replay) {
    .log = log, .count = count, .size = size, .unit = unit,
    .base = must_alloc (size), .stable = must_alloc (size),
  };
  memcpy (r->base, base, size);
  memcpy (r->stable, base, size);
  return r;
}

void
replay_free (struct replay *r)
{
  free (r->base);
  free (r->stable);
  free (r);
}

/* Applies [FROM, TO) of the device, part of the entry's range. */
static void
apply (const struct memdev_entry *e, uint64_t from, uint64_t to,
       uint8_t *mem)
{
  switch (e->call) {
  case MEMDEV_WRITE:
    memcpy (mem + from, e->data + (from - e->offset), to - from);
    break;
  case MEMDEV_ZERO:
    memset (mem + from, 0, to - from);
    break;
  case MEMDEV_TRIM:
    memset (mem + from, MEMDEV_TRIMMED, to - from);
    break;
  default:
    break;
  }
}

static void
apply_all (const struct memdev_entry *e, uint8_t *mem)
{
  apply (e, e->offset, e->offset + e->count, mem);
}

/* End of the unit that AT is in. */
static uint64_t
unit_end (uint64_t at, uint32_t unit)
{
  if (at >= SUPER_START && at < SUPER_END)
    unit = SECTOR;
  return (at / unit + 1) * unit;
}

/* Each unit with even odds. */
static void
apply_torn (const struct memdev_entry *e, uint32_t unit, struct rng *rng,
            uint8_t *mem)
{
  uint64_t at, next;

  for (at = e->offset; at < e->offset + e->count; at = next) {
    next = unit_end (at, unit);
    if (next > e->offset + e->count)
      next = e->offset + e->count;
    if (rng_next (rng) % 2)
      apply (e, at, next, mem);
  }
}

/* When did the last flush begin that had ended before the cut?  0: there
 * was none.
 */
static uint64_t
last_flush (const struct replay *r, uint64_t at)
{
  uint64_t begin = 0;
  size_t i;

  for (i = 0; i < r->count && r->log[i].begin < at; i++)
    if (r->log[i].call == MEMDEV_FLUSH && r->log[i].end < at)
      begin = r->log[i].begin;
  return begin;
}

static bool
durable (const struct memdev_entry *e, uint64_t flushed, uint64_t at)
{
  return e->end < flushed || ((e->flags & DEVICE_FUA) && e->end < at) ||
    e->call == MEMDEV_FLUSH;
}

/* The I-th of N calls that are not durable; CHOSEN is one of them. */
static void
apply_lost (const struct memdev_entry *e, const struct replay *r,
            enum powercut_mode mode, size_t i, size_t chosen,
            struct rng *rng, uint8_t *mem)
{
  bool keep = false;

  switch (mode) {
  case POWERCUT_ALL: keep = true; break;
  case POWERCUT_SOME: keep = rng_next (rng) % 2; break;
  case POWERCUT_LOSE_ONE: keep = i != chosen; break;
  case POWERCUT_KEEP_ONE: keep = i == chosen; break;
  case POWERCUT_LATE: keep = i >= chosen; break;
  case POWERCUT_TEAR_ONE: keep = i != chosen; break;
  case POWERCUT_NONE: case POWERCUT_UNITS: case POWERCUT_MODES: break;
  }
  if (mode == POWERCUT_UNITS || (mode == POWERCUT_TEAR_ONE && !keep))
    apply_torn (e, r->unit, rng, mem);
  else if (keep)
    apply_all (e, mem);
}

void
replay_cut (struct replay *r, const struct powercut *cut, uint8_t *mem)
{
  const uint64_t flushed = last_flush (r, cut->at);
  struct rng rng = { cut->seed };
  size_t i, lost = 0, chosen, n = 0;

  if (cut->at < r->at) {
    memcpy (r->stable, r->base, r->size);
    r->settled = 0;
  }
  r->at = cut->at;
  while (r->settled < r->count && r->log[r->settled].begin < cut->at &&
         durable (&r->log[r->settled], flushed, cut->at))
    apply_all (&r->log[r->settled++], r->stable);
  memcpy (mem, r->stable, r->size);

  for (i = r->settled; i < r->count && r->log[i].begin < cut->at; i++)
    lost += !durable (&r->log[i], flushed, cut->at);
  chosen = lost ? rng_below (&rng, lost) : 0;
  for (i = r->settled; i < r->count && r->log[i].begin < cut->at; i++)
    if (durable (&r->log[i], flushed, cut->at))
      apply_all (&r->log[i], mem);
    else
      apply_lost (&r->log[i], r, cut->mode, n++, chosen, &rng, mem);
}

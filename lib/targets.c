/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The targets of a log.
 *
 * Notes on the design: what is added goes to the end.  When the table is
 * full, it is sorted and what is there twice thrown out; only if that has
 * not made a quarter of it free it grows.  So a log that has a million
 * copies of one block needs the smallest table, and the sorting costs some
 * comparisons for each copy.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "targets.h"

#define SMALLEST 256u

static int
compare (const void *av, const void *bv)
{
  const struct target *a = av, *b = bv;

  return (a->blkno > b->blkno) - (a->blkno < b->blkno);
}

errcode_t
targets_sort (struct targets *ts)
{
  size_t i, n = 0;

  if (ts->count == 0)
    return 0;
  qsort (ts->t, ts->count, sizeof *ts->t, compare);
  for (i = 0; i < ts->count; i++)
    if (n == 0 || ts->t[i].blkno != ts->t[n - 1].blkno)
      ts->t[n++] = ts->t[i];
  ts->count = n;
  return n > ts->most ? EFBIG : 0;
}

/* Room for another one. */
static errcode_t
make_room (struct targets *ts)
{
  size_t n = ts->size ? ts->size + ts->size / 4 : SMALLEST;
  struct target *p;
  errcode_t err = targets_sort (ts);

  if (err || ts->count < ts->size - ts->size / 4)
    return err;
  p = realloc (ts->t, n * sizeof *p);
  if (p == NULL)
    return ENOMEM;
  ts->t = p;
  ts->size = n;
  return 0;
}

errcode_t
targets_add (struct targets *ts, uint64_t blkno)
{
  errcode_t err;

  if (ts->count > 0 && ts->t[ts->count - 1].blkno == blkno)
    return 0;
  if (ts->count == ts->size) {
    err = make_room (ts);
    if (err)
      return err;
  }
  ts->t[ts->count++] = (struct target) { .blkno = blkno };
  return 0;
}

void
targets_drop_unused (struct targets *ts)
{
  struct target *p;
  size_t i, n = 0;

  for (i = 0; i < ts->count; i++)
    if (ts->t[i].copy)
      ts->t[n++] = ts->t[i];
  ts->count = n;
  p = realloc (ts->t, (n ? n : 1) * sizeof *p);
  if (p) {
    ts->t = p;
    ts->size = n ? n : 1;
  }
}

size_t
targets_search (const struct targets *ts, uint64_t blkno)
{
  size_t lo = 0, hi = ts->count;

  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;

    if (ts->t[mid].blkno < blkno)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

struct target *
targets_find (const struct targets *ts, uint64_t blkno)
{
  const size_t i = targets_search (ts, blkno);

  return i < ts->count && ts->t[i].blkno == blkno ? &ts->t[i] : NULL;
}

void
targets_free (struct targets *ts)
{
  free (ts->t);
  memset (ts, 0, sizeof *ts);
}

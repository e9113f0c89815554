/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The long runs of a file. */

#include <config.h>

#include <stdlib.h>

#include "runs.h"

/* A part is so long, shorter in a file of less than LEAST_PARTS of them,
 * longer in one of more than MOST_PARTS.
 */
#define PART_BITS 11
#define LEAST_PARTS 8
#define MOST_PARTS 16384

void
runs_init (struct runs *r, uint64_t blocks)
{
  const size_t size = sizeof (struct run_slot);

  r->shift = PART_BITS;
  while (r->shift > 0 && blocks >> r->shift < LEAST_PARTS)
    r->shift--;
  while (blocks >> r->shift >= MOST_PARTS)
    r->shift++;
  r->count = (blocks >> r->shift) + 1;
  /* Zeros are slots without a run.  Those that are never used take no
   * memory, as calloc gets so much from the system.
   */
  r->memory = calloc (r->count + 1, size);
  if (r->memory == NULL)
    r->count = 0;
  r->slot = (struct run_slot *)
    (((uintptr_t) r->memory + size - 1) & ~(uintptr_t) (size - 1));
}

void
runs_destroy (struct runs *r)
{
  free (r->memory);
}

bool
runs_find (struct runs *r, uint64_t lblk, uint64_t *pblk, uint64_t *len)
{
  const uint64_t i = lblk >> r->shift;
  struct run_slot *s;
  uint64_t start, n, p;
  unsigned before;

  if (i >= r->count)
    return false;
  s = &r->slot[i];
  before = atomic_load_explicit (&s->sequence, memory_order_acquire);
  start = atomic_load_explicit (&s->lblk, memory_order_acquire);
  n = atomic_load_explicit (&s->len, memory_order_acquire);
  p = atomic_load_explicit (&s->pblk, memory_order_acquire);
  /* The loads above are not reordered with this one: they acquire. */
  if (before % 2 != 0 ||
      atomic_load_explicit (&s->sequence, memory_order_relaxed) != before ||
      lblk < start || lblk - start >= n)
    return false;
  *pblk = p + (lblk - start);
  *len = n - (lblk - start);
  return true;
}

static void
set (struct run_slot *s, uint64_t lblk, uint64_t len, uint64_t pblk)
{
  unsigned before = atomic_load_explicit (&s->sequence, memory_order_relaxed);

  /* If somebody else is at it, his run is as good. */
  if (before % 2 != 0 ||
      !atomic_compare_exchange_strong (&s->sequence, &before, before + 1))
    return;
  atomic_store_explicit (&s->lblk, lblk, memory_order_release);
  atomic_store_explicit (&s->len, len, memory_order_release);
  atomic_store_explicit (&s->pblk, pblk, memory_order_release);
  atomic_store_explicit (&s->sequence, before + 2, memory_order_release);
}

void
runs_note (struct runs *r, uint64_t at, uint64_t lblk, uint64_t len,
           uint64_t pblk)
{
  const uint64_t part = UINT64_C (1) << r->shift, i = at >> r->shift;
  const uint64_t first = i << r->shift;
  uint64_t start = lblk, end = lblk + len;

  if (start < first)
    start = first;
  if (end > first + 2 * part)
    end = first + 2 * part;
  if (i < r->count && end - start >= part / 2)
    set (&r->slot[i], start, end - start, pblk + (start - lblk));
}

void
runs_forget (struct runs *r, uint64_t lblk, uint64_t len)
{
  uint64_t i = lblk >> r->shift;

  /* The part before may have a run that reaches to here. */
  if (i > 0)
    i--;
  for (; i < r->count && i << r->shift < lblk + len; i++) {
    struct run_slot *s = &r->slot[i];
    uint64_t start = atomic_load_explicit (&s->lblk, memory_order_relaxed);
    uint64_t n = atomic_load_explicit (&s->len, memory_order_relaxed);

    if (lblk < start + n && start < lblk + len)
      set (s, 0, 0, 0);
  }
}

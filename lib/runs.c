/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The long runs of a file. */

#include <config.h>

#include <stddef.h>

#include "runs.h"

void
runs_init (struct runs *r, uint64_t blocks)
{
  unsigned i;

  r->shift = 0;
  while ((blocks >> r->shift) >= RUN_SLOTS)
    r->shift++;
  for (i = 0; i < RUN_SLOTS; i++) {
    atomic_init (&r->slot[i].sequence, 0);
    atomic_init (&r->slot[i].lblk, 0);
    atomic_init (&r->slot[i].len, 0);
    atomic_init (&r->slot[i].pblk, 0);
  }
}

static struct run_slot *
slot_of (struct runs *r, uint64_t lblk)
{
  uint64_t i = lblk >> r->shift;

  return i < RUN_SLOTS ? &r->slot[i] : NULL;
}

bool
runs_find (struct runs *r, uint64_t lblk, uint64_t *pblk, uint64_t *len)
{
  struct run_slot *s = slot_of (r, lblk);
  uint64_t start, n, p;
  unsigned before;

  if (s == NULL)
    return false;
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
  struct run_slot *s = slot_of (r, at);

  if (s && len >= (UINT64_C (1) << r->shift) / 2)
    set (s, lblk, len, pblk);
}

void
runs_forget (struct runs *r, uint64_t lblk, uint64_t len)
{
  unsigned i;

  for (i = 0; i < RUN_SLOTS; i++) {
    struct run_slot *s = &r->slot[i];
    uint64_t start = atomic_load_explicit (&s->lblk, memory_order_relaxed);
    uint64_t n = atomic_load_explicit (&s->len, memory_order_relaxed);

    if (lblk < start + n && start < lblk + len)
      set (s, 0, 0, 0);
  }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Where the windows of a file have been placed. */

#include <config.h>

#include <stddef.h>

#include "window.h"

static struct window *
find (struct windows *ws, uint64_t lblk)
{
  unsigned i;

  for (i = 0; i < WINDOWS; i++)
    if (ws->window[i].lblk == lblk && ws->window[i].pblk != 0)
      return &ws->window[i];
  return NULL;
}

void
window_recall (struct windows *ws, struct goal *goal)
{
  const uint32_t in = goal_in (goal, goal->window);
  const struct window *w = find (ws, goal->lblk - in);

  if (w) {
    goal->at = w->pblk + in;
    goal->fresh = false;
  }
}

void
window_note (struct windows *ws, const struct goal *goal, uint64_t pblk)
{
  const uint32_t in = goal_in (goal, goal->window);
  struct window *w = find (ws, goal->lblk - in);

  if (w == NULL)
    w = &ws->window[ws->next++ % WINDOWS];
  w->lblk = goal->lblk - in;
  w->pblk = pblk > in ? pblk - in : 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Where the windows of a file have been placed. */

#include <config.h>

#include "window.h"

/* WINDOWS if it is not there. */
static unsigned
find (const struct windows *ws, uint64_t first)
{
  unsigned i;

  for (i = 0; i < WINDOWS; i++)
    if (ws->window[i].lblk == first && ws->window[i].pblk != 0)
      break;
  return i;
}

bool
window_recall (const struct windows *ws, uint64_t lblk, uint32_t size,
               uint64_t *pblk)
{
  const uint64_t in = lblk & (size - 1);
  unsigned i = find (ws, lblk - in);

  if (i == WINDOWS)
    return false;
  *pblk = ws->window[i].pblk + in;
  return true;
}

void
window_note (struct windows *ws, uint64_t lblk, uint32_t size, uint64_t pblk)
{
  const uint64_t in = lblk & (size - 1);
  unsigned i = find (ws, lblk - in);

  if (size <= 1 || pblk <= in)
    return;
  if (i == WINDOWS)
    i = ws->next++ % WINDOWS;
  ws->window[i].lblk = lblk - in;
  ws->window[i].pblk = pblk - in;
}

void
window_forget (struct windows *ws, uint64_t start, uint64_t end,
               uint32_t size)
{
  unsigned i;

  for (i = 0; i < WINDOWS; i++)
    if (ws->window[i].lblk < end && start < ws->window[i].lblk + size)
      ws->window[i].pblk = 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Where the windows of a file (alloc-find.c) that are being written have
 * been placed: a few of them, to be remembered between the placing of
 * their first blocks and the time when the tree tells.  Only hints.
 *
 * Locks: FS.
 */

#ifndef EXT2SERVE_WINDOW_H
#define EXT2SERVE_WINDOW_H

#include <stdint.h>

#include "alloc.h"

#define WINDOWS 64

struct windows {
  struct window {
    uint64_t lblk;              /* its first logical block */
    uint64_t pblk;              /* where that is, or would be; 0: unknown */
  } window[WINDOWS];
  unsigned next;                /* to be forgotten */
};

/* If the window of GOAL->lblk has a place, GOAL is to go there. */
extern void window_recall (struct windows *ws, struct goal *goal);

/* A run that begins at PBLK was reserved for GOAL. */
extern void window_note (struct windows *ws, const struct goal *goal,
                         uint64_t pblk);

#endif /* EXT2SERVE_WINDOW_H */

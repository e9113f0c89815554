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

#include <stdbool.h>
#include <stdint.h>

#define WINDOWS 64

struct windows {
  struct window {
    uint64_t lblk;              /* its first logical block */
    uint64_t pblk;              /* where that is, or would be; 0: unknown */
  } window[WINDOWS];
  unsigned next;                /* to be forgotten */
};

/* Where LBLK would be in its window of SIZE blocks, which is the same for
 * all of a file's; false: not known.
 */
extern bool window_recall (const struct windows *ws, uint64_t lblk,
                           uint32_t size, uint64_t *pblk);

/* Forgets those with any of the blocks [START, END). */
extern void window_forget (struct windows *ws, uint64_t start, uint64_t end,
                           uint32_t size);

/* LBLK's window of SIZE blocks has been placed so that LBLK is at PBLK. */
extern void window_note (struct windows *ws, uint64_t lblk, uint32_t size,
                         uint64_t pblk);

#endif /* EXT2SERVE_WINDOW_H */

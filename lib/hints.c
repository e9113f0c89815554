/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Hints: which cached block of a file's tree maps a logical block. */

#include <config.h>

#include <stdlib.h>

#include "hints.h"

/* A part is at least so many blocks, and there are at most so many: 64 KiB
 * of slots, for a file that has more than the inode to look in.
 */
#define PART_BITS 7
#define MOST_PARTS 8192

struct hints {
  unsigned shift;               /* [constant] log2 of a part, in blocks */
  size_t count;                 /* [constant] */
  struct mbuf *_Atomic slot[];  /* [atomic] */
};

static struct hints *
make (const struct inode *inode)
{
  uint64_t blocks = inode->size / inode->fs->block_size;
  unsigned shift = PART_BITS;
  struct hints *h;
  size_t count;

  while (blocks >> shift >= MOST_PARTS)
    shift++;
  count = (blocks >> shift) + 1;
  h = calloc (1, sizeof *h + count * sizeof h->slot[0]);
  if (h) {
    h->shift = shift;
    h->count = count;
  }
  return h;
}

void
hints_free (struct hints *h)
{
  free (h);
}

/* What has been said before MB's maps were is known too then. */
static bool
maps (const struct mbuf *mb, uint64_t lblk)
{
  uint64_t m = atomic_load_explicit (&mb->maps, memory_order_acquire);

  return lblk >= (uint32_t) m && lblk < m >> 32;
}

static struct mbuf *
slot (struct hints *h, uint64_t i)
{
  return i < h->count ? atomic_load_explicit (&h->slot[i],
                                              memory_order_acquire) : NULL;
}

struct mbuf *
hints_find (struct inode *inode, uint64_t lblk)
{
  struct hints *h = atomic_load_explicit (&inode->hints,
                                          memory_order_acquire);
  struct mbuf *mb;
  uint64_t i;

  if (h == NULL)
    return NULL;
  i = lblk >> h->shift;
  mb = slot (h, i);
  /* Where two meet in one part, the next part has the other. */
  if (mb && !maps (mb, lblk))
    mb = slot (h, lblk < hints_first (mb) ? i - 1 : i + 1);
  if (mb == NULL || !mbuf_try_pin (mb))
    return NULL;
  if (atomic_load_explicit (&mb->owner, memory_order_acquire) == inode->ino
      && maps (mb, lblk)) {
    mcache_note_use (mb);
    return mb;
  }
  mcache_unpin (inode->fs->mc, mb);
  return NULL;
}

void
hints_note (struct inode *inode, uint64_t lblk, struct mbuf *mb)
{
  struct hints *h = atomic_load_explicit (&inode->hints,
                                          memory_order_acquire);
  struct hints *none = NULL;
  uint64_t i;

  if (!maps (mb, lblk))
    return;                     /* around the ends of a leaf */
  if (h == NULL) {
    h = make (inode);
    if (h == NULL)
      return;                   /* it goes without, more slowly */
    if (!atomic_compare_exchange_strong (&inode->hints, &none, h)) {
      free (h);
      h = none;
    }
  }
  i = lblk >> h->shift;
  if (i < h->count && slot (h, i) != mb)
    atomic_store_explicit (&h->slot[i], mb, memory_order_release);
}

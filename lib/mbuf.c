/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Buffers of the metadata cache, and how long they live. */

#include <config.h>

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mbuf.h"
#include "spread-lock.h"

static_assert (offsetof (struct mbuf, dirty) <= CACHE_LINE,
               "a lookup takes more than one cache line of a buffer");

/* In whole cache lines. */
#define MBUF_SIZE ((sizeof (struct mbuf) + CACHE_LINE - 1) & -CACHE_LINE)

/* One out of the pool.  As nobody else takes any out now, the first one's
 * successor stays its successor.
 */
static struct mbuf *
take (struct mbuf_pool *pool)
{
  struct mbuf *mb = atomic_load (&pool->first);

  while (mb && !atomic_compare_exchange_weak (&pool->first, &mb, mb->next))
    ;
  return mb;
}

static struct mbuf *
make (void)
{
  struct mbuf *mb = aligned_alloc (CACHE_LINE, MBUF_SIZE);

  if (mb) {
    memset (mb, 0, sizeof *mb);
    atomic_init (&mb->pins, MBUF_DEAD);
  }
  return mb;
}

struct mbuf *
mbuf_new (struct mbuf_pool *pool, uint64_t blkno, uint32_t block_size)
{
  struct mbuf *mb = take (pool);

  if (mb == NULL && (mb = make ()) == NULL)
    return NULL;
  assert (atomic_load (&mb->pins) == MBUF_DEAD);
  mb->data = calloc (1, block_size);
  if (mb->data == NULL) {
    mbuf_put_back (pool, mb);
    return NULL;
  }
  mb->blkno = blkno;
  atomic_store (&mb->owner, 0);
  atomic_store (&mb->maps, 0);
  atomic_store (&mb->entries, 0);
  atomic_store (&mb->loading, false);
  atomic_store (&mb->used, false);
  atomic_store (&mb->seal, 0);
  mb->error = 0;
  mb->next = NULL;
  mb->dirty = mb->fresh = false;
  mb->copies = 0;
  mb->lru_prev = mb->lru_next = NULL;
  /* Alive from here on, for whoever still knows it as another block. */
  atomic_store_explicit (&mb->pins, 1, memory_order_release);
  return mb;
}

void
mbuf_put_back (struct mbuf_pool *pool, struct mbuf *mb)
{
  struct mbuf *first = atomic_load (&pool->first);

  assert (atomic_load (&mb->pins) == MBUF_DEAD);
  free (mb->data);
  mb->data = NULL;
  do {
    mb->next = first;
  } while (!atomic_compare_exchange_weak (&pool->first, &first, mb));
}

void
mbuf_bury (struct mbuf_pool *pool, struct mbuf *mb)
{
  if (atomic_fetch_or (&mb->pins, MBUF_DEAD) == 0)
    mbuf_put_back (pool, mb);
}

void
mbuf_free (struct mbuf *mb)
{
  free (mb->data);
  free (mb);
}

void
mbuf_pool_destroy (struct mbuf_pool *pool)
{
  struct mbuf *mb;

  while ((mb = take (pool)) != NULL)
    mbuf_free (mb);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The metadata cache for scenarios of the explorer: lib/mbuf.c and
 * lib/mcache.c, over a device that is a function.  Its spread-locks are
 * simple ones here, which promise no more than they do (of the spread-lock
 * itself: test-explore-spread-lock.c): that makes room for other things.
 */

#ifndef EXPLORE_CACHE_H
#define EXPLORE_CACHE_H

#include <ext2fs/ext2fs.h>

#include "explore.h"

#include "locks.h"
#undef LOCK_SPINS
#define LOCK_SPINS 0

#include "spread-lock.h"

void spread_lock_init (struct spread_lock *l, unsigned spins) { }
void spread_lock_destroy (struct spread_lock *l) { }

void
spread_lock_shared (struct spread_lock *l)
{
  explore_lock (l, false);
}

void
spread_unlock_shared (struct spread_lock *l)
{
  explore_unlock (l, false);
}

void
spread_lock_exclusive (struct spread_lock *l)
{
  explore_lock (l, true);
}

void
spread_unlock_exclusive (struct spread_lock *l)
{
  explore_unlock (l, true);
}

#include "locks.c"
#include "mbuf.c"
#include "mcache.c"

#define BLOCK 64                /* bytes */

static struct mcache *cache;
static struct lock fs_lock = LOCK_INITIALIZER (LOCK_FS);

/* What the device has, and what it returns: the scenario's. */
static errcode_t device_block (uint8_t *data, uint64_t blkno);

errcode_t
device_pread (struct device *dev, void *data, uint64_t count, uint64_t offset)
{
  return device_block (data, offset / BLOCK);
}

/* The N-th block of those in the first shard, from 0 on. */
static uint64_t
block_number (unsigned n)
{
  uint64_t b;

  for (b = 1; mix (b) >> 60 != 0 || n-- > 0; b++)
    ;
  return b;
}

static void
name_buffer (const struct mbuf *mb, const char *pins, const char *owner,
             const char *maps)
{
  explore_name (mb, sizeof *mb, "buffer");
  explore_name (&mb->pins, sizeof mb->pins, pins);
  explore_name (&mb->owner, sizeof mb->owner, owner);
  explore_name (&mb->maps, sizeof mb->maps, maps);
  explore_name (&mb->entries, sizeof mb->entries, "entries");
  explore_name (&mb->loading, sizeof mb->loading, "loading");
  explore_name (&mb->used, sizeof mb->used, "used");
  explore_name (mb->data, BLOCK, "data");
}

/* Reads a block in setup, where nothing fails: in the cache it is from now
 * on the least likely to be evicted.
 */
static struct mbuf *
put_into_cache (uint64_t blkno)
{
  struct mbuf *mb;

  if (mcache_read (cache, blkno, &mb) != 0)
    explore_fail ("setup");
  mcache_unpin (cache, mb);
  name_buffer (mb, "pins", "owner", "maps");
  return mb;
}

/* A full cache, of which the FIRST block is evicted first; its buffer.  Others
 * are the block_numbers from 10 on.
 */
static struct mbuf *
setup_cache (uint64_t first)
{
  struct mbuf *mb;
  unsigned i;

  cache = mcache_new (NULL, BLOCK, 0);
  explore_name (&cache->shards[0].lock, sizeof cache->shards[0].lock,
                "MCACHE");
  explore_name (&cache->shards[0].pool, sizeof cache->shards[0].pool, "pool");
  explore_name (&cache->shards[0].load_lock,
                sizeof cache->shards[0].load_lock, "load_lock");
  explore_name (&cache->shards[0].loaded, sizeof cache->shards[0].loaded,
                "loaded");
  explore_name (&fs_lock, sizeof fs_lock, "FS");
  mb = put_into_cache (first);
  for (i = 0; i < 3; i++)
    put_into_cache (block_number (10 + i));
  return mb;
}

/* As a scenario's finish: nothing is pinned, cached twice, or lost. */
static void
check_cache (void)
{
  const struct shard *sh = &cache->shards[0];
  const struct mbuf *mb, *other;
  size_t clean = 0, i;

  for (i = 0; i < cache->buckets; i++)
    for (mb = sh->buckets[i]; mb; mb = mb->next) {
      explore_check (atomic_load (&mb->pins) == 0);
      for (other = mb->next; other; other = other->next)
        explore_check (other->blkno != mb->blkno);
      if (!mb->dirty)
        clean++;
    }
  explore_check (clean == sh->clean);
  for (mb = atomic_load (&sh->pool.first); mb; mb = mb->next)
    explore_check (atomic_load (&mb->pins) == MBUF_DEAD && mb->data == NULL);
}

#endif /* EXPLORE_CACHE_H */

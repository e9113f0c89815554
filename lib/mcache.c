/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The metadata cache.
 *
 * Notes on the design: a hash table in SHARDS parts, each with its own
 * lock and its own list of clean buffers in order of use, so that many
 * clients looking up tree blocks do not meet on one lock.  The running
 * set is an array of dirty buffers under FS, which every change of
 * metadata holds anyway.  A commit copies the set (a memcpy of what
 * changed, tens of blocks) instead of locking buffers against change
 * while they are written.
 *
 * Dirty and committing buffers are not on the list and thus cannot be
 * evicted.  There is deliberately no write-back from here.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ext2fs/ext2fs.h>

#include "locks.h"
#include "mcache.h"

#define SHARDS 16

/* How many pinned buffers an eviction looks past before it gives up. */
#define EVICT_SCAN 16

struct shard {
  struct lock lock;             /* protects all of this */
  pthread_cond_t loaded;        /* some buffer is no longer loading */
  struct mbuf **buckets;
  struct mbuf lru;              /* list head: lru_next is the newest */
  size_t clean;                 /* buffers on the list */
};

struct mcache {
  struct device *dev;           /* [constant] */
  uint32_t block_size;          /* [constant] bytes */
  size_t buckets;               /* [constant] per shard, power of 2 */
  size_t limit;                 /* [constant] clean buffers per shard */
  struct shard shards[SHARDS];

  struct mbuf **dirty;          /* [FS] the running set */
  size_t ndirty, dirty_size;    /* [FS] */
};

static uint64_t
mix (uint64_t blkno)
{
  return blkno * UINT64_C (0x9e3779b97f4a7c15);
}

static struct shard *
shard_of (struct mcache *mc, uint64_t blkno)
{
  return &mc->shards[mix (blkno) >> 60];
}

static struct mbuf **
bucket_of (struct mcache *mc, struct shard *sh, uint64_t blkno)
{
  return &sh->buckets[(mix (blkno) >> 20) & (mc->buckets - 1)];
}

static void
lru_remove (struct shard *sh, struct mbuf *mb)
{
  if (mb->lru_next == NULL)
    return;
  mb->lru_prev->lru_next = mb->lru_next;
  mb->lru_next->lru_prev = mb->lru_prev;
  mb->lru_prev = mb->lru_next = NULL;
  sh->clean--;
}

static void
lru_add_newest (struct shard *sh, struct mbuf *mb)
{
  mb->lru_next = sh->lru.lru_next;
  mb->lru_prev = &sh->lru;
  sh->lru.lru_next->lru_prev = mb;
  sh->lru.lru_next = mb;
  sh->clean++;
}

static void
mbuf_free (struct mbuf *mb)
{
  free (mb->data);
  free (mb);
}

struct mcache *
mcache_new (struct device *dev, uint32_t block_size, size_t limit)
{
  struct mcache *mc = calloc (1, sizeof *mc);
  size_t i;

  if (mc == NULL)
    return NULL;
  mc->dev = dev;
  mc->block_size = block_size;
  mc->limit = limit / block_size / SHARDS;
  if (mc->limit < 4)
    mc->limit = 4;
  for (mc->buckets = 16; mc->buckets < mc->limit; mc->buckets *= 2)
    ;
  for (i = 0; i < SHARDS; i++) {
    struct shard *sh = &mc->shards[i];

    lock_init (&sh->lock, LOCK_MCACHE);
    pthread_cond_init (&sh->loaded, NULL);
    sh->lru.lru_next = sh->lru.lru_prev = &sh->lru;
    sh->buckets = calloc (mc->buckets, sizeof *sh->buckets);
  }
  for (i = 0; i < SHARDS; i++) {
    if (mc->shards[i].buckets == NULL) {
      mcache_free (mc);
      return NULL;
    }
  }
  return mc;
}

void
mcache_free (struct mcache *mc)
{
  size_t i, j;

  if (mc == NULL)
    return;
  for (i = 0; i < SHARDS; i++) {
    struct shard *sh = &mc->shards[i];

    for (j = 0; sh->buckets && j < mc->buckets; j++) {
      struct mbuf *mb, *next;

      for (mb = sh->buckets[j]; mb; mb = next) {
        next = mb->hash_next;
        mbuf_free (mb);
      }
    }
    free (sh->buckets);
    pthread_cond_destroy (&sh->loaded);
    lock_destroy (&sh->lock);
  }
  free (mc->dirty);
  free (mc);
}

uint32_t
mcache_block_size (const struct mcache *mc)
{
  return mc->block_size;
}

static struct mbuf *
hash_find (struct mcache *mc, struct shard *sh, uint64_t blkno)
{
  struct mbuf *mb;

  for (mb = *bucket_of (mc, sh, blkno); mb; mb = mb->hash_next)
    if (mb->blkno == blkno)
      return mb;
  return NULL;
}

static void
hash_remove (struct mcache *mc, struct shard *sh, struct mbuf *mb)
{
  struct mbuf **p;

  for (p = bucket_of (mc, sh, mb->blkno); *p != mb; p = &(*p)->hash_next)
    ;
  *p = mb->hash_next;
}

static void
evict (struct mcache *mc, struct shard *sh)
{
  struct mbuf *mb = sh->lru.lru_prev, *prev;
  unsigned scan = 0;

  for (; sh->clean > mc->limit && mb != &sh->lru && scan < EVICT_SCAN;
       mb = prev) {
    prev = mb->lru_prev;
    if (mb->pins > 0) {
      scan++;
      continue;
    }
    lru_remove (sh, mb);
    hash_remove (mc, sh, mb);
    mbuf_free (mb);
  }
}

/* Add a pinned buffer for BLKNO.  Locks: the shard. */
static struct mbuf *
hash_add (struct mcache *mc, struct shard *sh, uint64_t blkno)
{
  struct mbuf **bucket = bucket_of (mc, sh, blkno);
  struct mbuf *mb = calloc (1, sizeof *mb);

  if (mb == NULL)
    return NULL;
  mb->data = calloc (1, mc->block_size);
  if (mb->data == NULL) {
    free (mb);
    return NULL;
  }
  mb->blkno = blkno;
  mb->pins = 1;
  mb->hash_next = *bucket;
  *bucket = mb;
  lru_add_newest (sh, mb);
  evict (mc, sh);
  return mb;
}

/* Drop a pin; the last one of a dead buffer frees it.  Locks: the shard. */
static void
unpin_locked (struct mbuf *mb)
{
  assert (mb->pins > 0);
  if (--mb->pins == 0 && mb->dead && !mb->committing)
    mbuf_free (mb);
}

/* Take a pin, and wait while somebody else reads the block. */
static errcode_t
pin_loaded_locked (struct shard *sh, struct mbuf *mb)
{
  errcode_t err;

  mb->pins++;
  if (mb->lru_next && sh->lru.lru_next != mb) {
    lru_remove (sh, mb);
    lru_add_newest (sh, mb);
  }
  while (mb->loading)
    lock_wait (&sh->loaded, &sh->lock);
  err = mb->error;
  if (err)
    unpin_locked (mb);
  return err;
}

/* Somebody else's reading failed; that may have been about him (a
 * client's connection that broke), so it says nothing to us.
 */
#define OTHERS_ERROR EAGAIN

static errcode_t
read_once (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb;
  errcode_t err;

  lock_acquire (&sh->lock);
  mb = hash_find (mc, sh, blkno);
  if (mb) {
    err = pin_loaded_locked (sh, mb);
    lock_release (&sh->lock);
    *mbp = err ? NULL : mb;
    return err ? OTHERS_ERROR : 0;
  }
  mb = hash_add (mc, sh, blkno);
  if (mb == NULL) {
    lock_release (&sh->lock);
    return ENOMEM;
  }
  mb->loading = true;
  lock_release (&sh->lock);

  /* Nobody but us touches the data while it is loading. */
  if (blkno > UINT64_MAX / mc->block_size)
    err = EIO;
  else
    err = device_pread (mc->dev, mb->data, mc->block_size,
                        blkno * mc->block_size);

  lock_acquire (&sh->lock);
  mb->loading = false;
  mb->error = err == OTHERS_ERROR ? EIO : err;
  pthread_cond_broadcast (&sh->loaded);
  if (err) {
    lru_remove (sh, mb);
    hash_remove (mc, sh, mb);
    mb->dead = true;
    err = mb->error;
    unpin_locked (mb);
    mb = NULL;
  }
  lock_release (&sh->lock);
  *mbp = mb;
  return err;
}

errcode_t
mcache_read (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  errcode_t err;

  do
    err = read_once (mc, blkno, mbp);
  while (err == OTHERS_ERROR);
  return err;
}

struct mbuf *
mcache_find (struct mcache *mc, uint64_t blkno)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb;

  lock_acquire (&sh->lock);
  mb = hash_find (mc, sh, blkno);
  if (mb && pin_loaded_locked (sh, mb) != 0)
    mb = NULL;
  lock_release (&sh->lock);
  return mb;
}

errcode_t
mcache_zeroed (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb;
  errcode_t err = 0;

  lock_assert_held (LOCK_FS);
  lock_acquire (&sh->lock);
  mb = hash_find (mc, sh, blkno);
  if (mb)
    err = pin_loaded_locked (sh, mb);
  else if ((mb = hash_add (mc, sh, blkno)) == NULL)
    err = ENOMEM;
  lock_release (&sh->lock);
  if (err)
    return err;
  memset (mb->data, 0, mc->block_size);
  mb->owner = 0;
  *mbp = mb;
  return 0;
}

void
mcache_unpin (struct mcache *mc, struct mbuf *mb)
{
  struct shard *sh = shard_of (mc, mb->blkno);

  lock_acquire (&sh->lock);
  unpin_locked (mb);
  lock_release (&sh->lock);
}

errcode_t
mcache_dirty (struct mcache *mc, struct mbuf *mb, enum mclass mclass,
              bool fresh)
{
  struct shard *sh = shard_of (mc, mb->blkno);

  lock_assert_held (LOCK_FS);
  if (mb->dirty)                /* only ever changed under FS */
    return 0;
  if (mc->ndirty == mc->dirty_size) {
    size_t n = mc->dirty_size ? mc->dirty_size * 2 : 64;
    struct mbuf **p = realloc (mc->dirty, n * sizeof *p);

    if (p == NULL)
      return ENOMEM;
    mc->dirty = p;
    mc->dirty_size = n;
  }
  mb->dirty_index = mc->ndirty;
  mc->dirty[mc->ndirty++] = mb;
  mb->mclass = mclass;
  mb->fresh = fresh;
  lock_acquire (&sh->lock);
  assert (mb->pins > 0 && !mb->dead);
  mb->dirty = true;
  lru_remove (sh, mb);
  lock_release (&sh->lock);
  return 0;
}

errcode_t
mcache_new_block (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  struct mbuf *mb = mcache_find (mc, blkno);
  errcode_t err;

  if (mb) {
    mcache_unpin (mc, mb);
    return EXT2_FILSYS_CORRUPTED;
  }
  err = mcache_zeroed (mc, blkno, &mb);
  if (err)
    return err;
  err = mcache_dirty (mc, mb, MCLASS_TREE, true);
  if (err) {
    mcache_unpin (mc, mb);
    mcache_forget (mc, blkno);
    return err;
  }
  *mbp = mb;
  return 0;
}

bool
mcache_is_fresh (const struct mbuf *mb)
{
  lock_assert_held (LOCK_FS);
  return mb->dirty && mb->fresh;
}

static void
dirty_array_remove (struct mcache *mc, struct mbuf *mb)
{
  struct mbuf *last = mc->dirty[--mc->ndirty];

  mc->dirty[mb->dirty_index] = last;
  last->dirty_index = mb->dirty_index;
}

void
mcache_forget (struct mcache *mc, uint64_t blkno)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb;

  lock_assert_held (LOCK_FS);
  lock_acquire (&sh->lock);
  mb = hash_find (mc, sh, blkno);
  if (mb) {
    while (mb->loading) {
      mb->pins++;
      lock_wait (&sh->loaded, &sh->lock);
      if (mb->error) {
        unpin_locked (mb);
        lock_release (&sh->lock);
        return;
      }
      mb->pins--;
    }
    if (mb->dirty) {
      dirty_array_remove (mc, mb);
      mb->dirty = false;
    }
    lru_remove (sh, mb);
    hash_remove (mc, sh, mb);
    mb->dead = true;
    if (mb->pins == 0 && !mb->committing)
      mbuf_free (mb);
  }
  lock_release (&sh->lock);
}

size_t
mcache_dirty_count (const struct mcache *mc)
{
  return mc->ndirty;
}

static int
compare_frozen (const void *av, const void *bv)
{
  const struct frozen_block *a = av, *b = bv;

  return a->blkno < b->blkno ? -1 : a->blkno > b->blkno;
}

errcode_t
mcache_freeze (struct mcache *mc, struct frozen_set *set)
{
  size_t i;

  lock_assert_held (LOCK_FS);
  set->count = 0;
  set->blocks = NULL;
  if (mc->ndirty == 0)
    return 0;
  set->blocks = calloc (mc->ndirty, sizeof *set->blocks);
  if (set->blocks == NULL)
    return ENOMEM;
  for (i = 0; i < mc->ndirty; i++) {
    struct frozen_block *fb = &set->blocks[i];

    fb->data = malloc (mc->block_size);
    if (fb->data == NULL) {
      while (i-- > 0)
        free (set->blocks[i].data);
      free (set->blocks);
      set->blocks = NULL;
      return ENOMEM;
    }
  }
  for (i = 0; i < mc->ndirty; i++) {
    struct frozen_block *fb = &set->blocks[i];
    struct mbuf *mb = mc->dirty[i];
    struct shard *sh = shard_of (mc, mb->blkno);

    fb->mb = mb;
    fb->blkno = mb->blkno;
    fb->mclass = mb->mclass;
    fb->fresh = mb->fresh;
    memcpy (fb->data, mb->data, mc->block_size);
    mb->fresh = false;
    lock_acquire (&sh->lock);
    /* Commits are one at a time, so this one is not yet committing. */
    assert (!mb->committing);
    mb->committing = true;
    mb->dirty = false;
    lock_release (&sh->lock);
  }
  set->count = mc->ndirty;
  mc->ndirty = 0;
  qsort (set->blocks, set->count, sizeof *set->blocks, compare_frozen);
  return 0;
}

void
mcache_thaw (struct mcache *mc, struct frozen_set *set, bool written)
{
  size_t i;

  for (i = 0; i < set->count; i++) {
    struct mbuf *mb = set->blocks[i].mb;
    struct shard *sh = shard_of (mc, mb->blkno);

    free (set->blocks[i].data);
    lock_acquire (&sh->lock);
    if (mb->dead) {
      mb->committing = false;
      if (mb->pins == 0)
        mbuf_free (mb);
    }
    else if (written) {
      mb->committing = false;
      if (!mb->dirty) {
        lru_add_newest (sh, mb);
        evict (mc, sh);
      }
    }
    lock_release (&sh->lock);
  }
  free (set->blocks);
  set->blocks = NULL;
  set->count = 0;
}

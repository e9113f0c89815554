/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The metadata cache.
 *
 * Notes on the design: a hash table in SHARDS parts, each with its own
 * lock and its own list of clean buffers.  Many clients look up the same
 * few tree blocks, so finding a buffer must not make them wait for each
 * other: it takes the lock shared, pins by an atomic counter and marks
 * the buffer used; unpinning takes no lock.  Eviction goes round the
 * list and gives used buffers a second chance.  The running
 * set is an array of dirty buffers under FS, which every change of
 * metadata holds anyway.  A commit copies the set (a memcpy of what
 * changed, tens of blocks) instead of locking buffers against change
 * while they are written.
 *
 * A buffer that is off the hash table (evicted or forgotten) is dead, and
 * goes back to its shard's pool with its last pin: see mbuf.h.  Pins come
 * by way of the hash table or, at any time, of somebody's hint: so who
 * evicts kills the buffer first, which fails if it has a pin.
 *
 * Buffers that are dirty, or have a frozen copy on its way, are not on
 * the list and thus cannot be evicted.  There is deliberately no write-back from here.
 *
 * All executions of a few threads: tests/test-explore-mbuf.c.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <ext2fs/ext2fs.h>

#include "locks.h"
#include "mcache.h"
#include "spread-lock.h"

#define SHARDS 16

/* How many buffers an eviction looks at before it gives up. */
#define EVICT_SCAN 32

struct shard {
  struct spread_lock lock;      /* MCACHE: shared to find, else exclusive */
  struct mbuf **buckets;
  struct mbuf lru;              /* list head: lru_next is the newest */
  size_t clean;                 /* buffers on the list */
  struct mbuf_pool pool;        /* taken from under the exclusive lock */

  /* For those who wait for a buffer that somebody else is reading; the
   * innermost lock of all.
   */
  pthread_mutex_t load_lock;
  pthread_cond_t loaded;
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
shard_lock_shared (struct shard *sh)
{
  lock_note_acquire (LOCK_MCACHE);
  spread_lock_shared (&sh->lock);
}

static void
shard_unlock_shared (struct shard *sh)
{
  lock_note_release (LOCK_MCACHE);
  spread_unlock_shared (&sh->lock);
}

static void
shard_lock (struct shard *sh)
{
  lock_note_acquire (LOCK_MCACHE);
  spread_lock_exclusive (&sh->lock);
}

static void
shard_unlock (struct shard *sh)
{
  lock_note_release (LOCK_MCACHE);
  spread_unlock_exclusive (&sh->lock);
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

struct mcache *
mcache_new (struct device *dev, uint32_t block_size, size_t limit)
{
  struct mcache *mc = aligned_alloc (CACHE_LINE, sizeof *mc);
  size_t i;

  if (mc == NULL)
    return NULL;
  memset (mc, 0, sizeof *mc);
  mc->dev = dev;
  mc->block_size = block_size;
  mc->limit = limit / block_size / SHARDS;
  if (mc->limit < 4)
    mc->limit = 4;
  for (mc->buckets = 16; mc->buckets < mc->limit; mc->buckets *= 2)
    ;
  for (i = 0; i < SHARDS; i++) {
    struct shard *sh = &mc->shards[i];

    spread_lock_init (&sh->lock, LOCK_SPINS);
    pthread_mutex_init (&sh->load_lock, NULL);
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
        next = mb->next;
        mbuf_free (mb);
      }
    }
    free (sh->buckets);
    mbuf_pool_destroy (&sh->pool);
    pthread_cond_destroy (&sh->loaded);
    pthread_mutex_destroy (&sh->load_lock);
    spread_lock_destroy (&sh->lock);
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

  for (mb = *bucket_of (mc, sh, blkno); mb; mb = mb->next)
    if (mb->blkno == blkno)
      return mb;
  return NULL;
}

static void
hash_remove (struct mcache *mc, struct shard *sh, struct mbuf *mb)
{
  struct mbuf **p;

  for (p = bucket_of (mc, sh, mb->blkno); *p != mb; p = &(*p)->next)
    ;
  *p = mb->next;
}

static void
evict (struct mcache *mc, struct shard *sh)
{
  struct mbuf *mb = sh->lru.lru_prev, *prev;
  unsigned scan;

  for (scan = 0; sh->clean > mc->limit && mb != &sh->lru &&
         scan < EVICT_SCAN; mb = prev, scan++) {
    prev = mb->lru_prev;
    if (atomic_load (&mb->pins) > 0)
      continue;
    if (atomic_exchange (&mb->used, false)) {
      lru_remove (sh, mb);
      lru_add_newest (sh, mb);
    }
    else if (mbuf_try_kill (mb)) {
      lru_remove (sh, mb);
      hash_remove (mc, sh, mb);
      mbuf_put_back (&sh->pool, mb);
    }
  }
}

/* Add a pinned buffer for BLKNO.  Locks: the shard exclusively. */
static struct mbuf *
hash_add (struct mcache *mc, struct shard *sh, uint64_t blkno)
{
  struct mbuf **bucket = bucket_of (mc, sh, blkno);
  struct mbuf *mb = mbuf_new (&sh->pool, blkno, mc->block_size);

  if (mb == NULL)
    return NULL;
  mb->next = *bucket;
  *bucket = mb;
  lru_add_newest (sh, mb);
  evict (mc, sh);
  return mb;
}

/* The buffer, pinned, if it is cached; perhaps still loading. */
static struct mbuf *
find_and_pin (struct mcache *mc, struct shard *sh, uint64_t blkno)
{
  struct mbuf *mb;

  shard_lock_shared (sh);
  mb = hash_find (mc, sh, blkno);
  if (mb) {
    mbuf_pin (mb);
    mcache_note_use (mb);
  }
  shard_unlock_shared (sh);
  return mb;
}

/* Wait while somebody else reads MB, pinned.  On error the pin is gone. */
static errcode_t
wait_loaded (struct shard *sh, struct mbuf *mb)
{
  errcode_t err;

  if (atomic_load (&mb->loading)) {
    pthread_mutex_lock (&sh->load_lock);
    while (atomic_load (&mb->loading))
      pthread_cond_wait (&sh->loaded, &sh->load_lock);
    pthread_mutex_unlock (&sh->load_lock);
  }
  err = mb->error;
  if (err)
    mbuf_unpin (&sh->pool, mb);
  return err;
}

static void
end_load (struct shard *sh, struct mbuf *mb, errcode_t err)
{
  pthread_mutex_lock (&sh->load_lock);
  mb->error = err;
  atomic_store (&mb->loading, false);
  pthread_cond_broadcast (&sh->loaded);
  pthread_mutex_unlock (&sh->load_lock);
}

/* Somebody else's reading failed; that may have been about him (a
 * client's connection that broke), so it says nothing to us.
 */
#define OTHERS_ERROR EAGAIN

/* Reads block BLKNO, which was not cached a moment ago. */
static errcode_t
load (struct mcache *mc, struct shard *sh, uint64_t blkno, struct mbuf **mbp)
{
  struct mbuf *mb;
  errcode_t err;

  shard_lock (sh);
  if (hash_find (mc, sh, blkno)) {
    shard_unlock (sh);
    return OTHERS_ERROR;        /* somebody was faster: look again */
  }
  mb = hash_add (mc, sh, blkno);
  if (mb)
    atomic_store (&mb->loading, true);
  shard_unlock (sh);
  if (mb == NULL)
    return ENOMEM;

  /* Nobody but us touches the data while it is loading. */
  if (blkno > UINT64_MAX / mc->block_size)
    err = EIO;
  else
    err = device_pread (mc->dev, mb->data, mc->block_size,
                        blkno * mc->block_size);
  if (err == OTHERS_ERROR)
    err = EIO;
  if (err) {
    shard_lock (sh);
    if (!mbuf_is_dead (mb)) {   /* not forgotten */
      lru_remove (sh, mb);
      hash_remove (mc, sh, mb);
      mbuf_bury (&sh->pool, mb);
    }
    shard_unlock (sh);
  }
  end_load (sh, mb, err);
  if (err)
    mbuf_unpin (&sh->pool, mb);
  *mbp = err ? NULL : mb;
  return err;
}

errcode_t
mcache_read (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb;
  errcode_t err;

  do {
    mb = find_and_pin (mc, sh, blkno);
    if (mb == NULL)
      err = load (mc, sh, blkno, mbp);
    else {
      err = wait_loaded (sh, mb) ? OTHERS_ERROR : 0;
      *mbp = err ? NULL : mb;
    }
  } while (err == OTHERS_ERROR);
  return err;
}

struct mbuf *
mcache_find (struct mcache *mc, uint64_t blkno)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb = find_and_pin (mc, sh, blkno);

  return mb && wait_loaded (sh, mb) == 0 ? mb : NULL;
}

errcode_t
mcache_zeroed (struct mcache *mc, uint64_t blkno, struct mbuf **mbp)
{
  struct shard *sh = shard_of (mc, blkno);
  struct mbuf *mb;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  shard_lock (sh);
  mb = hash_find (mc, sh, blkno);
  if (mb)
    mbuf_pin (mb);
  else
    mb = hash_add (mc, sh, blkno);
  shard_unlock (sh);
  if (mb == NULL)
    return ENOMEM;
  err = wait_loaded (sh, mb);
  if (err)
    return err;
  memset (mb->data, 0, mc->block_size);
  atomic_store (&mb->owner, 0);
  atomic_store (&mb->maps, 0);
  atomic_store (&mb->seal, 0);
  *mbp = mb;
  return 0;
}

void
mcache_unpin (struct mcache *mc, struct mbuf *mb)
{
  mbuf_unpin (&shard_of (mc, mb->blkno)->pool, mb);
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
  assert (atomic_load (&mb->pins) > 0 && !mbuf_is_dead (mb));
  shard_lock (sh);
  mb->dirty = true;
  lru_remove (sh, mb);
  shard_unlock (sh);
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

bool
mcache_is_dirty (const struct mbuf *mb)
{
  lock_assert_held (LOCK_FS);
  return mb->dirty;
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
  shard_lock (sh);
  /* If it is being read, the reader gets what he asked for, and frees it:
   * nobody will find it again.
   */
  mb = hash_find (mc, sh, blkno);
  if (mb) {
    if (mb->dirty) {
      dirty_array_remove (mc, mb);
      mb->dirty = false;
    }
    lru_remove (sh, mb);
    hash_remove (mc, sh, mb);
    mbuf_bury (&sh->pool, mb);
  }
  shard_unlock (sh);
}

bool
mcache_forget_free (struct mcache *mc, uint64_t blkno)
{
  struct shard *sh = shard_of (mc, blkno);
  const struct mbuf *mb;
  bool unused;

  lock_assert_held (LOCK_FS);
  shard_lock_shared (sh);
  mb = hash_find (mc, sh, blkno);
  unused = mb == NULL || (!mb->dirty && mb->copies == 0);
  shard_unlock_shared (sh);
  if (mb && unused)
    mcache_forget (mc, blkno);
  return unused;
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
    fb->seal = mb->seal;
    memcpy (fb->data, mb->data, mc->block_size);
    mb->fresh = false;
    shard_lock (sh);
    mb->copies++;
    mb->dirty = false;
    mbuf_pin (mb);
    shard_unlock (sh);
  }
  set->count = mc->ndirty;
  mc->ndirty = 0;
  qsort (set->blocks, set->count, sizeof *set->blocks, compare_frozen);
  return 0;
}

void
mcache_thaw_block (struct mcache *mc, struct frozen_block *fb)
{
  struct mbuf *mb = fb->mb;
  struct shard *sh = shard_of (mc, mb->blkno);

  free (fb->data);
  fb->data = NULL;
  shard_lock (sh);
  assert (mb->copies > 0);
  mb->copies--;
  if (mb->copies == 0 && !mb->dirty && !mbuf_is_dead (mb)) {
    lru_add_newest (sh, mb);
    evict (mc, sh);
  }
  shard_unlock (sh);
  mbuf_unpin (&sh->pool, mb);
}

void
mcache_thaw (struct mcache *mc, struct frozen_set *set, bool written)
{
  size_t i;

  for (i = 0; i < set->count; i++) {
    struct frozen_block *fb = &set->blocks[i];

    /* One that was forgotten since is nobody's any more. */
    if (written || mbuf_is_dead (fb->mb))
      mcache_thaw_block (mc, fb);
    else {
      free (fb->data);          /* and it counts as a copy for ever */
      mcache_unpin (mc, fb->mb);
    }
  }
  free (set->blocks);
  set->blocks = NULL;
  set->count = 0;
}

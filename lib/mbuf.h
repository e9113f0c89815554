/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Buffers of the metadata cache, and how long they live.
 *
 * A buffer holds one block.  It is dead once it is off the cache's hash
 * table: nobody gets a pin any more, and with the last one its data are
 * freed.  The struct itself goes back to its pool and may become another
 * block's, but remains a struct mbuf as long as the cache exists.  So
 * whoever has kept a pointer without a pin (hints.h) may ask for one at any
 * time: he gets it only if the buffer is alive, and then looks whether it
 * still is what he took it for.
 *
 * All executions of a few threads: tests/test-explore-mbuf.c.
 */

#ifndef EXT2SERVE_MBUF_H
#define EXT2SERVE_MBUF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <et/com_err.h>

/* Order of writing at a commit; see commit.c. */
enum mclass {
  MCLASS_TREE,                  /* extent and indirect blocks */
  MCLASS_BITMAP,                /* block bitmaps and group descriptors */
  MCLASS_INODE,                 /* inode tables and all the rest */
};

struct mbuf {
  /* What a lookup needs, in one cache line. */

  /* Pins, and MBUF_DEAD: not on the hash table any more.  [atomic] A
   * commit's copy on its way counts as a pin.
   */
  _Atomic uint32_t pins;

  /* Inode whose tree this block has been found, and verified, in; 0 =
   * none.  A second one means a damaged image: two locks for one block.
   * [atomic: verifying twice is harmless]
   */
  _Atomic uint32_t owner;

  uint8_t *data;                /* [FS, or FS + MAP; see mcache.h] */
  uint64_t blkno;               /* [constant while alive] */

  /* For hints.h: the logical blocks that are looked up in this block of
   * the owner's tree and nowhere else, and the number of its entries.
   * [atomic; set by who became the owner, under MAP or FS, and changed
   * with the content] 0 = none, or not said yet.  Of a table of pointers it
   * is what tells its place in the tree (indirect.c).
   */
  _Atomic uint64_t maps;
  _Atomic uint32_t entries;

  atomic_bool loading;          /* [atomic] content not there yet */
  atomic_bool used;             /* [atomic] since eviction last looked */
  errcode_t error;              /* of the read; before loading ends */
  struct mbuf *next;            /* [MCACHE] of the bucket; the pool's */

  /* How to make its checksum (extent-node.h), 0 = it has none.  That is
   * left to the copies which go to the device: a node is often changed a
   * thousand times between two commits.  [atomic; constant once owner is]
   */
  _Atomic uint64_t seal;

  /* The rest is mcache.c's. */
  bool dirty;                   /* in the running set; changed under FS */
  unsigned copies;              /* [MCACHE] frozen ones not yet in place */
  bool fresh;                   /* [FS] new in the running set */
  enum mclass mclass;           /* [FS] meaningful while dirty */
  struct mbuf *lru_prev, *lru_next;   /* [MCACHE] clean buffers only */
  size_t dirty_index;           /* [FS] position in the dirty array */
};

#define MBUF_DEAD (UINT32_C (1) << 31)

/* Buffers that are not in use.  Put in by any thread, taken out by one at
 * a time, or what is taken out could be put back meanwhile.
 */
struct mbuf_pool {
  struct mbuf *_Atomic first;
};

/* A buffer with one pin for block BLKNO, with BLOCK_SIZE bytes of zeros;
 * NULL: no memory.  Locks: who may take from the pool is the caller's.
 */
extern struct mbuf *mbuf_new (struct mbuf_pool *pool, uint64_t blkno,
                              uint32_t block_size);

/* Frees MB, which nobody uses, and what is in the pool. */
extern void mbuf_free (struct mbuf *mb);
extern void mbuf_pool_destroy (struct mbuf_pool *pool);

/* One more pin for a buffer that is on the hash table, which the caller
 * has locked, or pinned already.
 */
static inline void
mbuf_pin (struct mbuf *mb)
{
  atomic_fetch_add_explicit (&mb->pins, 1, memory_order_acquire);
}

/* A pin for what MB is now, be that what it may; false if it is dead.
 * Locks: none.
 */
static inline bool
mbuf_try_pin (struct mbuf *mb)
{
  uint32_t pins = atomic_load_explicit (&mb->pins, memory_order_relaxed);

  /* Acquires what was set before it came to life. */
  do {
    if (pins & MBUF_DEAD)
      return false;
  } while (!atomic_compare_exchange_weak_explicit (
             &mb->pins, &pins, pins + 1, memory_order_acquire,
             memory_order_relaxed));
  return true;
}

/* MB is dead and has no pin: frees its data. */
extern void mbuf_put_back (struct mbuf_pool *pool, struct mbuf *mb);

static inline void
mbuf_unpin (struct mbuf_pool *pool, struct mbuf *mb)
{
  if (atomic_fetch_sub (&mb->pins, 1) == (MBUF_DEAD | 1))
    mbuf_put_back (pool, mb);
}

/* MB has been taken off the hash table: kills it, with pins or without. */
extern void mbuf_bury (struct mbuf_pool *pool, struct mbuf *mb);

/* Kills MB, which is on the hash table, if it has no pin; take it off, and
 * give it to mbuf_put_back.  Locks: the hash table exclusively, as others
 * get pins there without asking.
 */
static inline bool
mbuf_try_kill (struct mbuf *mb)
{
  uint32_t none = 0;

  return atomic_compare_exchange_strong (&mb->pins, &none, MBUF_DEAD);
}

static inline bool
mbuf_is_dead (const struct mbuf *mb)
{
  return atomic_load (&mb->pins) & MBUF_DEAD;
}

#endif /* EXT2SERVE_MBUF_H */

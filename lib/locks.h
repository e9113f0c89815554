/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The locks of the project, their order, and the helpers that check it.
 *
 * This is the one place where the order stands.  A thread that holds a
 * lock may only take locks further down:
 *
 *   REGISTRY  which filesystem is open, being opened, being closed
 *             (filters/ext2/share.c)
 *   ICACHE    the table of inodes in use and their reference counts
 *   INODE     reader/writer, one per inode, had for a range of the file:
 *             which blocks belong there.
 *             Shared: I/O on its blocks, and adding blocks; what a lookup
 *             said of the range stays true while it is held.
 *             Exclusive: taking blocks away (trim, zero by unmapping).
 *   FILL      per inode: the list of fills in progress
 *   SYNC      who waits for which sync (sync.h).  The sync thread itself
 *             works without it, and without any of those above: so they
 *             may be held while waiting for it.
 *   MAP       reader/writer, one per inode: its tree.  Shared: one
 *             lookup.  Exclusive: one edit.  No data I/O under it.
 *   FS        libext2fs handle, allocator, in-memory superblock and
 *             descriptors, dirty metadata.  No *data* I/O under it.
 *   SUPER     the superblock being written, errors to be recorded in it
 *   MCACHE    one shard of the metadata cache
 *   DEVICE    only for plugins that must be entered by one thread
 *
 * Two rules go with it:
 *
 * - The content of a metadata block is changed only by a thread that
 *   holds FS, and also MAP exclusively where the block belongs to an
 *   inode's tree.  So either lock is enough for reading it: data
 *   requests look up under MAP alone, a commit copies under FS alone.
 *
 * - Waiting for other requests is done on condition variables: for a
 *   filesystem that is being opened or closed with no other lock held;
 *   for a fill in progress with at most INODE shared, which that fill
 *   has too and does not need more of; for space that other requests have
 *   reserved with no other lock held (reclaim.c); for a sync as said above.
 *
 * In debug builds (EXT2_DEBUG_CHECKS) every acquisition is checked
 * against the order, and functions named *_locked assert their lock.
 */

#ifndef EXT2SERVE_LOCKS_H
#define EXT2SERVE_LOCKS_H

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

enum lock_rank {
  LOCK_REGISTRY,
  LOCK_ICACHE,
  LOCK_INODE,
  LOCK_FILL,
  LOCK_SYNC,
  LOCK_MAP,
  LOCK_FS,
  LOCK_SUPER,
  LOCK_MCACHE,
  LOCK_DEVICE,
};

#ifdef EXT2_DEBUG_CHECKS
/* Bit N: this thread holds a lock of rank N. */
extern _Thread_local unsigned locks_held;
#define LOCK_DEBUG(...) do { __VA_ARGS__; } while (0)
#else
#define LOCK_DEBUG(...) do { } while (0)
#endif

static inline void
lock_note_acquire (enum lock_rank rank)
{
  (void) rank;
  /* Nothing of the same or a later rank may be held. */
  LOCK_DEBUG (if (locks_held >> rank) abort (); locks_held |= 1u << rank);
}

static inline void
lock_note_release (enum lock_rank rank)
{
  (void) rank;
  LOCK_DEBUG (if (!(locks_held & (1u << rank))) abort ();
              locks_held &= ~(1u << rank));
}

/* Assert that this thread holds a lock of this rank (debug builds). */
static inline void
lock_assert_held (enum lock_rank rank)
{
  (void) rank;
  LOCK_DEBUG (if (!(locks_held & (1u << rank))) abort ());
}

/* Assert that this thread holds no lock of this rank or a later one. */
static inline void
lock_assert_can_take (enum lock_rank rank)
{
  (void) rank;
  LOCK_DEBUG (if (locks_held >> rank) abort ());
}

/* How often to look again before going to sleep over a lock, and what to
 * do in between.  MAP and FS are held for a few microseconds, as long as
 * this takes; sleeping and being woken costs several times that.  (For
 * FS the C library has a number of its own.)
 */
#define LOCK_SPINS 200

static inline void
lock_relax (void)
{
#if defined __x86_64__ || defined __i386__
  __builtin_ia32_pause ();
#elif defined __aarch64__
  __asm__ __volatile__ ("isb" ::: "memory");
#else
  __asm__ __volatile__ ("" ::: "memory");
#endif
}

struct lock {
  pthread_mutex_t mutex;
  enum lock_rank rank;          /* [constant] */
};

#define LOCK_INITIALIZER(r) { .mutex = PTHREAD_MUTEX_INITIALIZER, .rank = (r) }

static inline void
lock_init (struct lock *l, enum lock_rank rank)
{
  pthread_mutexattr_t attr;

  pthread_mutexattr_init (&attr);
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
  /* It spins for a while. */
  pthread_mutexattr_settype (&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
  pthread_mutex_init (&l->mutex, &attr);
  pthread_mutexattr_destroy (&attr);
  l->rank = rank;
}

static inline void
lock_destroy (struct lock *l)
{
  pthread_mutex_destroy (&l->mutex);
}

static inline void
lock_acquire (struct lock *l)
{
  lock_note_acquire (l->rank);
  pthread_mutex_lock (&l->mutex);
}

static inline void
lock_release (struct lock *l)
{
  lock_note_release (l->rank);
  pthread_mutex_unlock (&l->mutex);
}

/* Wait on COND; the lock is not held while waiting. */
static inline void
lock_wait (pthread_cond_t *cond, struct lock *l)
{
  lock_note_release (l->rank);
  pthread_cond_wait (cond, &l->mutex);
  lock_note_acquire (l->rank);
}

/* For a COND that is waited on by lock_wait_until. */
static inline void
lock_cond_init (pthread_cond_t *cond)
{
  pthread_condattr_t attr;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (cond, &attr);
  pthread_condattr_destroy (&attr);
}

/* The same until then (clock.h) at the latest; false: it is later. */
static inline bool
lock_wait_until (pthread_cond_t *cond, struct lock *l, uint64_t until)
{
  const struct timespec ts = {
    (time_t) (until / 1000000), (long) (until % 1000000 * 1000),
  };
  int r;

  lock_note_release (l->rank);
  r = pthread_cond_timedwait (cond, &l->mutex, &ts);
  lock_note_acquire (l->rank);
  return r == 0;
}

static inline void
lock_release_cleanup (struct lock **l)
{
  lock_release (*l);
}

#define LOCKS_CAT2(a, b) a##b
#define LOCKS_CAT(a, b) LOCKS_CAT2 (a, b)

/* Hold L to the end of the enclosing block. */
#define LOCK_FOR_SCOPE(l)                                               \
  __attribute__ ((__cleanup__ (lock_release_cleanup), __unused__))      \
  struct lock *LOCKS_CAT (scoped_lock_, __LINE__) = (l);                \
  lock_acquire (LOCKS_CAT (scoped_lock_, __LINE__))

#endif /* EXT2SERVE_LOCKS_H */

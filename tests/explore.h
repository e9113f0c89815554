/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Explores all that the lock-free code of lib/ can do, on processors and
 * with compilers that reorder, in scenarios of a few threads.
 *
 * A scenario includes this, and then the source files of lib/ as they are.
 * They are compiled as for ThreadSanitizer, but linked without its library:
 * so each atomic operation and each access to memory is a call of ours
 * (explore-memory.c, explore-plain.c).  Locks and memory come from here by
 * the macros below.  The threads are coroutines, of which one runs up to its
 * next operation at a time (explore.c).
 *
 * The model is C11's in the repaired form known as RC11:
 *
 *   - All operations on one atomic object have a modification order.  A load
 *     returns any store, but none that is older than one which, for the
 *     loading thread, happened before, or was read before.  A store gets any
 *     place in that order that is allowed, not only the last one.
 *   - A read-modify-write follows immediately the store that it has read; a
 *     weak compare-exchange may also fail without a reason.
 *   - Release and acquire, by operations, by read-modify-writes in between
 *     (but not by later stores of the same thread: as of C++20), and fences.
 *   - Sequentially consistent operations: no cycle in RC11's psc order.
 *   - Happens-before of locks as POSIX has it.  Waiting on a condition may
 *     end without a signal.
 *   - Two accesses to one byte of which one is plain and one writes, and none
 *     happens before the other, are an error; so is any access to memory that
 *     was freed, and a plain access to an atomic object.
 *
 * Every execution of a scenario is looked at: there is no bound on switches
 * of threads or on what is read.  Executions that are equal, as graphs of who
 * has read what, are looked at once.  Bounds are the scenario itself, and
 * WHIMS: how often each thread's weak compare-exchange or waiting may end for
 * no reason.
 *
 * Not in it: values out of thin air and other load buffering (a load does not
 * return a store that comes after it in every order of execution), fences
 * that are sequentially consistent (refused), memory_order_consume (taken
 * for acquire, as compilers do), time, signals, cancellation.
 *
 * Each part of lib/ that is without locks has one file of scenarios,
 * test-explore-NAME.c; test-explore-litmus.c shows that the model allows and
 * forbids what it should.
 */

#ifndef EXPLORE_H
#define EXPLORE_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPLORE_THREADS 4

struct explore_scenario {
  const char *name;
  void (*setup) (void);         /* before each execution; may be NULL */
  void (*thread[EXPLORE_THREADS]) (void);       /* from 0 on; NULL: no more */
  void (*finish) (void);        /* after all of them have ended, as a thread
                                   that joins them; may be NULL */
  unsigned whims;
  bool unmerged;                /* executions that are equal as well: only
                                   to show that this finds the same */
};

enum explore_kind {
  EXPLORE_LOAD, EXPLORE_STORE, EXPLORE_RMW, EXPLORE_CAS, EXPLORE_WAKE,
};

/* Makes the source wrong on purpose: all operations of that kind and order on
 * objects of that name (explore_name) have the order TO; or, stores and
 * wake-ups (which have no order), are omitted.
 */
#define EXPLORE_OMIT 99

struct explore_mutation {
  const char *object;
  enum explore_kind kind;
  int from, to;
};

struct explore_result {
  unsigned long executions, states;     /* complete ones; graphs */
  uint64_t outcomes;            /* bit N: explore_outcome (N) */
};

/* Explores S.  False if an execution fails, which is printed unless that is
 * expected, QUIETLY.
 */
extern bool explore (const struct explore_scenario *s, bool quietly,
                     struct explore_result *r);

/* A test's whole work: S holds, and fails with each of the mutations.  Says
 * so on stdout; false if not.
 */
extern bool explore_all (const struct explore_scenario *s,
                         const struct explore_mutation *m, size_t mutations);

/* In setup: the bytes at P are called that; of arrays, with an index. */
extern void explore_name (const void *p, size_t size, const char *name);

/* In threads: one of the things that can happen, N below 64. */
extern void explore_outcome (unsigned n);

/* In threads: this execution is wrong. */
extern void explore_fail (const char *format, ...)
  __attribute__ ((__noreturn__, __format__ (__printf__, 1, 2)));

#define explore_check(c)                                                \
  ((c) ? (void) 0 : explore_fail ("%s:%d: not so: %s", __FILE__, __LINE__, #c))

/* What lib/ calls instead. */

extern void explore_lock (void *lock, bool exclusive);
extern void explore_unlock (void *lock, bool exclusive);
extern void explore_wait (pthread_cond_t *cond, pthread_mutex_t *mutex);
extern void explore_wake (pthread_cond_t *cond, bool all);
extern void *explore_alloc (size_t size, bool zero);
extern void *explore_realloc (void *p, size_t size);
extern void explore_free (void *p);
extern void explore_set (void *p, int byte, size_t size);
extern void explore_copy (void *to, const void *from, size_t size);

#define pthread_mutex_init(m, a) ((void) (m), (void) (a))
#define pthread_mutex_destroy(m) ((void) (m))
#define pthread_mutex_lock(m) explore_lock (m, true)
#define pthread_mutex_unlock(m) explore_unlock (m, true)
#define pthread_cond_init(c, a) ((void) (c), (void) (a))
#define pthread_cond_destroy(c) ((void) (c))
#define pthread_cond_wait(c, m) explore_wait (c, m)
#define pthread_cond_signal(c) explore_wake (c, false)
#define pthread_cond_broadcast(c) explore_wake (c, true)

#define malloc(n) explore_alloc (n, false)
#define calloc(n, size) explore_alloc ((n) * (size), true)
#define aligned_alloc(a, n) explore_alloc (n, false)
#define realloc(p, n) explore_realloc (p, n)
#define free(p) explore_free (p)
#define memset(p, c, n) explore_set (p, c, n)
#define memcpy(to, from, n) explore_copy (to, from, n)

#define abort() explore_fail ("%s:%d: abort", __FILE__, __LINE__)
#define __assert_fail(what, file, line, function)                       \
  explore_fail ("%s:%d: not so: %s", file, (int) (line), what)

/* Each coroutine has its own. */
#define _Thread_local __attribute__ ((__section__ ("explore_tls")))

#endif /* EXPLORE_H */

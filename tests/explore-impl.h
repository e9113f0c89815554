/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What the parts of the explorer know of each other: see explore.h. */

#ifndef EXPLORE_IMPL_H
#define EXPLORE_IMPL_H

/* Among themselves they use the real ones. */
#include "explore.h"
#undef malloc
#undef calloc
#undef aligned_alloc
#undef realloc
#undef free
#undef memset
#undef memcpy
#undef abort
#undef _Thread_local

#define THREADS (EXPLORE_THREADS + 1)   /* the last one is finish */
#define SETUP THREADS                   /* neither of them */
#define EVENTS 200              /* of a thread, in one execution */
#define CHOICES 100             /* of all threads, at one time */

/* A vector clock: what happened before, of each thread, by event number.
 * A thread's first event is 1.  Plain accesses have the number of the event
 * that comes next.
 */
struct clock {
  uint16_t of[THREADS];
};

#define NEVER UINT16_MAX

static inline void
clock_join (struct clock *c, const struct clock *other)
{
  unsigned i;

  for (i = 0; i < THREADS; i++)
    if (c->of[i] < other->of[i])
      c->of[i] = other->of[i];
}

enum op_kind {
  OP_LOAD, OP_STORE, OP_RMW, OP_CAS, OP_FENCE,
  OP_LOCK, OP_UNLOCK, OP_LOCK_SHARED, OP_UNLOCK_SHARED,
  OP_WAIT, OP_WAKE, OP_WAKE_ALL,
};

enum rmw { RMW_SET, RMW_ADD, RMW_SUB, RMW_AND, RMW_OR, RMW_XOR };

/* What a thread is about to do; then, what it got. */
struct op {
  enum op_kind kind;
  void *object;
  void *mutex;                  /* OP_WAIT */
  unsigned size;                /* in bytes */
  int order, order_failed;
  enum rmw rmw;
  bool weak, waiting;           /* OP_WAIT: begun */
  uint64_t operand, expected;
  uint64_t result;
  bool success;                 /* OP_CAS */
};

/* One way to go on. */
enum how { HOW_SIMPLY, HOW_FAILING, HOW_FOR_NO_REASON };

struct choice {
  uint8_t thread, how;
  uint8_t at;                   /* place in the modification order of what is
                                   read, or the new store's predecessor; the
                                   thread that is woken */
};

struct thread {
  unsigned number;
  uint16_t events;
  struct clock clock;
  struct clock to_acquire;      /* by the next acquire fence */
  struct clock fence;           /* of the last release fence */
  uint64_t hash;                /* of all its events */
  unsigned whims;               /* that it may still have */
  struct op *op;                /* pending; NULL: has ended */
  struct event {
    void *object;
    struct clock clock;
  } event[EVENTS];
};

/* explore.c */
extern struct thread threads[THREADS];
extern struct thread *current;  /* NULL: none of them */
extern void explore_do (struct op *op);
/* Where _Thread_local variables are, if there are any. */
extern char __start_explore_tls[] __attribute__ ((__weak__));
extern char __stop_explore_tls[] __attribute__ ((__weak__));

/* Is P a local of a thread? */
extern bool explore_on_stack (const void *p);
extern const char *explore_failure (void);

static inline uint64_t
mix (uint64_t h, uint64_t v)
{
  h = (h ^ v) * UINT64_C (0x9e3779b97f4a7c15);
  h ^= h >> 29;
  h *= UINT64_C (0xbf58476d1ce4e5b9);
  return h ^ h >> 32;
}

/* explore-test.c */
extern const char *name_of (const void *object);
extern void explore_forget_names (void);
/* Makes OP wrong if it is to be.  False: it is not done at all. */
extern bool explore_mutate (struct op *op);

/* explore-memory.c: atomic objects. */
extern void memory_reset (void);
extern unsigned memory_choices (const struct thread *t, struct choice *c);
extern void memory_perform (struct thread *t, const struct choice *c);
extern uint64_t memory_hash (void);
/* What OP makes of a value. */
extern uint64_t memory_modify (const struct op *op, uint64_t value);
extern uint64_t memory_real_value (const void *p, unsigned size);
extern void memory_set_real_value (void *p, unsigned size, uint64_t value);
extern void memory_print (const struct thread *t, const struct choice *c);

/* explore-sync.c: locks and conditions. */
extern void sync_reset (void);
extern unsigned sync_choices (const struct thread *t, struct choice *c);
extern void sync_perform (struct thread *t, const struct choice *c);
extern uint64_t sync_hash (void);

/* explore-plain.c: other memory. */
extern void plain_reset (void);
extern void plain_access (const void *p, size_t size, bool write);
/* T's pending operation on an atomic object, before it is performed. */
extern void plain_atomic (const struct thread *t, const void *p, size_t size,
                          bool write);

#endif /* EXPLORE_IMPL_H */

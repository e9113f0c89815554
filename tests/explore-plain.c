/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Memory that is not atomic: of each byte, who has written and read it last.
 * What the compiler calls for ThreadSanitizer is here too.
 */

#include <config.h>

#include "explore-impl.h"

/* Of the last accesses of each kind: event numbers as in a clock. */
struct byte {
  uint16_t written[THREADS], read[THREADS];
  uint16_t set[THREADS], loaded[THREADS];       /* by atomic operations */
  bool atomic, freed;
};

#define WORDS (1u << 14)        /* power of 2, not full */

struct word {
  uintptr_t at;                 /* of 8 bytes, / 8; 0: unused */
  struct byte byte[8];
};

static struct word word[WORDS];
static unsigned in_use[WORDS], nin_use;

/* Each thread, and setup, has memory of its own, so that addresses do not
 * depend on the order of things.  It is not used twice in an execution.
 */
#define HEAP (size_t) (1 << 18)

static _Alignas (64) uint8_t heap[THREADS + 1][HEAP];
static size_t heap_used[THREADS + 1];

void
plain_reset (void)
{
  while (nin_use > 0)
    memset (&word[in_use[--nin_use]], 0, sizeof word[0]);
  memset (heap_used, 0, sizeof heap_used);
}

static struct byte *
byte_at (uintptr_t p)
{
  unsigned i = mix (0, p / 8) % WORDS;

  while (word[i].at && word[i].at != p / 8)
    i = (i + 1) % WORDS;
  if (word[i].at == 0) {
    if (nin_use == WORDS / 2)
      explore_fail ("more memory than the explorer can watch");
    word[i].at = p / 8;
    in_use[nin_use++] = i;
  }
  return &word[i].byte[p % 8];
}

static void
check_order (const struct thread *t, const uint16_t *others, uintptr_t p,
             const char *what)
{
  unsigned i;

  for (i = 0; i < THREADS; i++)
    if (others[i] > t->clock.of[i] && i != t->number)
      explore_fail ("data race: T%u %s %s, T%u did so before", t->number, what,
                    name_of ((void *) p), i);
}

static void
check_freed (const struct byte *b, uintptr_t p)
{
  if (b->freed)
    explore_fail ("%s is used after it was freed", name_of ((void *) p));
}

void
plain_atomic (const struct thread *t, const void *at, size_t size, bool write)
{
  const uint16_t next = t->events + 1;
  uintptr_t p;

  for (p = (uintptr_t) at; p < (uintptr_t) at + size; p++) {
    struct byte *b = byte_at (p);

    check_freed (b, p);
    check_order (t, b->written, p, "uses atomically");
    if (write)
      check_order (t, b->read, p, "writes atomically");
    b->atomic = true;
    b->loaded[t->number] = next;
    if (write)
      b->set[t->number] = next;
  }
}

/* Locals of the threads, and of setup, are nobody else's. */
static bool
is_watched (const void *p)
{
  const char *c = p;

  return current && !explore_on_stack (p) &&
    !(c >= __start_explore_tls && c < __stop_explore_tls);
}

void
plain_access (const void *at, size_t size, bool write)
{
  struct thread *t = current;
  uintptr_t p;

  if (!is_watched (at))
    return;
  for (p = (uintptr_t) at; p < (uintptr_t) at + size; p++) {
    struct byte *b = byte_at (p);

    if (b->read[t->number] == t->events + 1 &&
        (!write || b->written[t->number] == t->events + 1))
      continue;
    check_freed (b, p);
    if (b->atomic)
      explore_fail ("%s: used plainly, and by atomic operations",
                    name_of ((void *) p));
    check_order (t, b->written, p, write ? "writes" : "reads");
    if (write)
      check_order (t, b->read, p, "writes what is read:");
    b->read[t->number] = t->events + 1;
    if (write)
      b->written[t->number] = t->events + 1;
  }
}

/* Memory from the heap. */

void *
explore_alloc (size_t size, bool zero)
{
  const unsigned n = current ? current->number : SETUP;
  /* The size stands in front. */
  const size_t need = (size + 64 + 63) & ~(size_t) 63;
  uint8_t *p = &heap[n][heap_used[n]];

  if (need > HEAP - heap_used[n])
    explore_fail ("more memory than the explorer has");
  heap_used[n] += need;
  memcpy (p, &size, sizeof size);
  p += 64;
  memset (p, zero ? 0 : 0xa5, size);
  if (zero)
    plain_access (p, size, true);
  return p;
}

void *
explore_realloc (void *p, size_t size)
{
  void *to = explore_alloc (size, false);

  if (p) {
    explore_copy (to, p, ((size_t *) p)[-8]);
    explore_free (p);
  }
  return to;
}

/* Whatever anybody has done with it has happened before. */
void
explore_free (void *at)
{
  struct thread *t = current;
  uintptr_t p = (uintptr_t) at;
  size_t size;

  if (at == NULL || t == NULL)
    return;
  for (size = ((size_t *) at)[-8]; size > 0; size--, p++) {
    struct byte *b = byte_at (p);

    check_freed (b, p);
    check_order (t, b->written, p, "frees");
    check_order (t, b->read, p, "frees");
    check_order (t, b->loaded, p, "frees");
    b->freed = true;
  }
}

void
explore_set (void *p, int byte, size_t size)
{
  plain_access (p, size, true);
  memset (p, byte, size);
}

void
explore_copy (void *to, const void *from, size_t size)
{
  plain_access (from, size, false);
  plain_access (to, size, true);
  memcpy (to, from, size);
}

/* What the compiler calls. */

#define ACCESS(n)                                                       \
  void __tsan_read##n (void *p);                                        \
  void __tsan_write##n (void *p);                                       \
  void __tsan_unaligned_read##n (void *p);                              \
  void __tsan_unaligned_write##n (void *p);                             \
  void __tsan_read##n (void *p) { plain_access (p, n, false); }         \
  void __tsan_write##n (void *p) { plain_access (p, n, true); }         \
  void __tsan_unaligned_read##n (void *p) { plain_access (p, n, false); } \
  void __tsan_unaligned_write##n (void *p) { plain_access (p, n, true); }

ACCESS (1)
ACCESS (2)
ACCESS (4)
ACCESS (8)
ACCESS (16)

void __tsan_read_range (void *p, size_t size);
void __tsan_write_range (void *p, size_t size);
void *__tsan_memset (void *p, int byte, size_t size);
void *__tsan_memcpy (void *to, const void *from, size_t size);
void __tsan_init (void);
void __tsan_func_entry (void *from);
void __tsan_func_exit (void *from);

void __tsan_read_range (void *p, size_t n) { plain_access (p, n, false); }
void __tsan_write_range (void *p, size_t n) { plain_access (p, n, true); }

void *
__tsan_memset (void *p, int byte, size_t size)
{
  explore_set (p, byte, size);
  return p;
}

void *
__tsan_memcpy (void *to, const void *from, size_t size)
{
  explore_copy (to, from, size);
  return to;
}

void __tsan_init (void) { }
void __tsan_func_entry (void *from) { (void) from; }
void __tsan_func_exit (void *from) { (void) from; }

#define ATOMIC(bits, type)                                              \
  type __tsan_atomic##bits##_load (const volatile void *, int);         \
  void __tsan_atomic##bits##_store (volatile void *, type, int);        \
  type                                                                  \
  __tsan_atomic##bits##_load (const volatile void *p, int order)        \
  {                                                                     \
    struct op op = {                                                    \
      .kind = OP_LOAD, .object = (void *) (uintptr_t) p,                \
      .size = sizeof (type), .order = order,                            \
    };                                                                  \
    explore_do (&op);                                                   \
    return (type) op.result;                                            \
  }                                                                     \
  void                                                                  \
  __tsan_atomic##bits##_store (volatile void *p, type v, int order)     \
  {                                                                     \
    struct op op = {                                                    \
      .kind = OP_STORE, .object = (void *) (uintptr_t) p,               \
      .size = sizeof (type), .order = order, .operand = v,              \
    };                                                                  \
    explore_do (&op);                                                   \
  }                                                                     \
  MODIFY (bits, type, exchange, RMW_SET)                                \
  MODIFY (bits, type, fetch_add, RMW_ADD)                               \
  MODIFY (bits, type, fetch_sub, RMW_SUB)                               \
  MODIFY (bits, type, fetch_and, RMW_AND)                               \
  MODIFY (bits, type, fetch_or, RMW_OR)                                 \
  MODIFY (bits, type, fetch_xor, RMW_XOR)                               \
  EXCHANGE (bits, type, strong, false)                                  \
  EXCHANGE (bits, type, weak, true)                                     \
  EXCHANGE_VALUE (bits, type)

#define MODIFY(bits, type, name, what)                                  \
  type __tsan_atomic##bits##_##name (volatile void *, type, int);       \
  type                                                                  \
  __tsan_atomic##bits##_##name (volatile void *p, type v, int order)    \
  {                                                                     \
    struct op op = {                                                    \
      .kind = OP_RMW, .object = (void *) (uintptr_t) p, .rmw = what,    \
      .size = sizeof (type), .order = order, .operand = v,              \
    };                                                                  \
    explore_do (&op);                                                   \
    return (type) op.result;                                            \
  }

#define EXCHANGE(bits, type, name, is_weak)                             \
  _Bool __tsan_atomic##bits##_compare_exchange_##name                   \
    (volatile void *, void *, type, int, int);                          \
  _Bool                                                                 \
  __tsan_atomic##bits##_compare_exchange_##name                         \
    (volatile void *p, void *expected, type v, int order, int failed)   \
  {                                                                     \
    type *e = expected;                                                 \
    struct op op = {                                                    \
      .kind = OP_CAS, .object = (void *) (uintptr_t) p, .weak = is_weak, \
      .size = sizeof (type), .order = order, .order_failed = failed,    \
      .operand = v, .expected = *e,                                     \
    };                                                                  \
    explore_do (&op);                                                   \
    *e = (type) op.result;                                              \
    return op.success;                                                  \
  }

/* clang's, for both of them: so a weak one is a strong one there. */
#define EXCHANGE_VALUE(bits, type)                                      \
  type __tsan_atomic##bits##_compare_exchange_val                       \
    (volatile void *, type, type, int, int);                            \
  type                                                                  \
  __tsan_atomic##bits##_compare_exchange_val                            \
    (volatile void *p, type expected, type v, int order, int failed)    \
  {                                                                     \
    __tsan_atomic##bits##_compare_exchange_strong (p, &expected, v,     \
                                                   order, failed);      \
    return expected;                                                    \
  }

ATOMIC (8, uint8_t)
ATOMIC (16, uint16_t)
ATOMIC (32, uint32_t)
ATOMIC (64, uint64_t)

void __tsan_atomic_thread_fence (int order);
void __tsan_atomic_signal_fence (int order);

void
__tsan_atomic_thread_fence (int order)
{
  struct op op = { .kind = OP_FENCE, .order = order };

  explore_do (&op);
}

void
__tsan_atomic_signal_fence (int order)
{
  (void) order;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Atomic objects: what each operation may read, and where it may write.
 *
 * Each object has its stores in modification order.  Those that a thread
 * must not go behind are the ones that have been written or read by an event
 * that happened before: that is all of coherence.
 */

#include <config.h>

#include "explore-impl.h"

#define OBJECTS 256             /* power of 2, not full */
#define STORES 100              /* to one object */
#define ORDERED 192             /* sequentially consistent events */

struct store {
  unsigned thread, event;       /* that wrote it; SETUP: initial */
  uint64_t value;
  unsigned at;                  /* in the modification order */
  bool rmw;                     /* has read the one before */
  struct clock release;         /* what an acquiring reader gets */
  uint16_t seen[THREADS];       /* first event that wrote or read it */
};

struct object {
  void *address;
  unsigned size, stores;
  struct store store[STORES];
  struct store *order[STORES];
};

static struct object *objects[OBJECTS];
static struct object *used[OBJECTS];
static unsigned nused, nfree;

/* Sequentially consistent events. */
struct ordered {
  const struct thread *thread;
  unsigned event;
  const struct object *object;
  const struct store *reads, *writes;   /* or NULL */
  uint64_t next[ORDERED / 64];  /* a set: those that come after it */
};

static struct ordered ordered[ORDERED];
static unsigned nordered;

void
memory_reset (void)
{
  memset (objects, 0, sizeof objects);
  nused = nordered = 0;
}

static bool
acquires (int order)
{
  return order != memory_order_relaxed && order != memory_order_release;
}

static bool
releases (int order)
{
  return order == memory_order_release || order == memory_order_acq_rel ||
    order == memory_order_seq_cst;
}

/* Objects are as setup, or calloc, has left them, until the first store. */
uint64_t
memory_real_value (const void *p, unsigned size)
{
  return size == 8 ? *(const uint64_t *) p : size == 4 ? *(const uint32_t *) p
    : size == 2 ? *(const uint16_t *) p : *(const uint8_t *) p;
}

void
memory_set_real_value (void *p, unsigned size, uint64_t value)
{
  switch (size) {
  case 1: *(uint8_t *) p = (uint8_t) value; break;
  case 2: *(uint16_t *) p = (uint16_t) value; break;
  case 4: *(uint32_t *) p = (uint32_t) value; break;
  default: *(uint64_t *) p = value;
  }
}

static struct object *
new_object (const struct op *op)
{
  struct object *o;
  unsigned i;

  if (nused == OBJECTS * 3 / 4)
    explore_fail ("more atomic objects than the explorer can have");
  if (nused == nfree) {
    o = calloc (1, sizeof *o);
    if (o == NULL)
      explore_fail ("no memory");
    used[nfree++] = o;
  }
  o = used[nused++];
  o->address = op->object;
  o->size = op->size;
  o->stores = 1;
  o->order[0] = &o->store[0];
  o->store[0] = (struct store) {
    .thread = SETUP, .value = memory_real_value (op->object, op->size),
  };
  for (i = 0; i < THREADS; i++)
    o->store[0].seen[i] = 0;
  return o;
}

static struct object *
object_of (const struct op *op)
{
  unsigned i = mix (0, (uintptr_t) op->object) % OBJECTS;

  while (objects[i] && objects[i]->address != op->object)
    i = (i + 1) % OBJECTS;
  if (objects[i] == NULL)
    objects[i] = new_object (op);
  if (objects[i]->size != op->size)
    explore_fail ("%s: atomic operations of several sizes",
                  name_of (op->object));
  return objects[i];
}

/* The place that T must not go behind. */
static unsigned
oldest (const struct thread *t, const struct object *o)
{
  unsigned at, i;

  for (at = o->stores - 1; at > 0; at--)
    for (i = 0; i < THREADS; i++)
      if (o->order[at]->seen[i] <= t->clock.of[i])
        return at;
  return 0;
}

/* Nothing comes between a read-modify-write and what it has read. */
static bool
may_follow (const struct object *o, unsigned at)
{
  return at + 1 == o->stores || !o->order[at + 1]->rmw;
}

/* What an operation would be. */
struct plan {
  const struct thread *t;
  const struct object *o;
  int order;
  const struct store *reads;    /* or NULL */
  unsigned writes;              /* its place; 0: it does not write */
};

static struct plan
make_plan (const struct thread *t, const struct object *o,
           const struct choice *c)
{
  const struct op *op = t->op;
  struct plan p = { .t = t, .o = o, .order = op->order };

  if (op->kind != OP_STORE)
    p.reads = o->order[c->at];
  if (op->kind != OP_LOAD && c->how == HOW_SIMPLY)
    p.writes = c->at + 1;
  if (c->how != HOW_SIMPLY)
    p.order = op->order_failed;
  return p;
}

/* The events before and after P in RC11's psc order: po, happens-before on
 * the same object, or by way of others (po to another object, then
 * happens-before, then po from another object), modification order, and reads
 * before what was stored after that which they have read.
 */

/* T's clock after the last of its events that was not on O. */
static const struct clock *
clock_elsewhere (const struct thread *t, const struct object *o)
{
  unsigned i = t->events;

  while (i > 0 && t->event[i].object == o->address)
    i--;
  return i > 0 ? &t->event[i].clock : NULL;
}

/* The number of the first event after A that is not on its object. */
static unsigned
next_elsewhere (const struct ordered *a)
{
  unsigned i = a->event + 1;

  while (i <= a->thread->events &&
         a->thread->event[i].object == a->object->address)
    i++;
  return i <= a->thread->events ? i : NEVER;
}

static bool
comes_before (const struct ordered *a, const struct plan *p,
              const struct clock *clock, const struct clock *elsewhere)
{
  const unsigned n = a->thread->number;

  if (a->thread == p->t)
    return true;
  if (elsewhere && next_elsewhere (a) <= elsewhere->of[n])
    return true;
  if (a->object != p->o)
    return false;
  return a->event <= clock->of[n] ||
    (p->writes && a->writes && a->writes->at < p->writes) ||
    (p->writes && a->reads && a->reads->at < p->writes);
}

static bool
comes_after (const struct ordered *a, const struct plan *p)
{
  return a->object == p->o && a->writes &&
    ((p->writes && a->writes->at >= p->writes) ||
     (p->reads && p->reads->at < a->writes->at));
}

static void
add_to_set (uint64_t *set, unsigned i)
{
  set[i / 64] |= UINT64_C (1) << i % 64;
}

static bool
in_set (const uint64_t *set, unsigned i)
{
  return set[i / 64] >> i % 64 & 1;
}

/* BEFORE and AFTER become sets of events. */
static void
psc_neighbours (const struct plan *p, uint64_t *before, uint64_t *after)
{
  const struct clock *elsewhere = clock_elsewhere (p->t, p->o);
  struct clock clock = p->t->clock;
  unsigned i;

  if (p->reads && acquires (p->order))
    clock_join (&clock, &p->reads->release);
  for (i = 0; i < nordered; i++) {
    if (comes_before (&ordered[i], p, &clock, elsewhere))
      add_to_set (before, i);
    if (comes_after (&ordered[i], p))
      add_to_set (after, i);
  }
}

/* Would P, sequentially consistent, make a cycle? */
static bool
psc_cycle (const struct plan *p)
{
  uint64_t before[ORDERED / 64] = { 0 }, reached[ORDERED / 64] = { 0 };
  bool more = true;
  unsigned i, j;

  psc_neighbours (p, before, reached);
  while (more) {
    more = false;
    for (i = 0; i < nordered; i++) {
      if (!in_set (reached, i))
        continue;
      if (in_set (before, i))
        return true;
      for (j = 0; j < ORDERED / 64; j++) {
        more |= ordered[i].next[j] & ~reached[j];
        reached[j] |= ordered[i].next[j];
      }
    }
  }
  return false;
}

static void
psc_add (const struct plan *p, const struct store *written)
{
  uint64_t before[ORDERED / 64] = { 0 };
  struct ordered *a = &ordered[nordered];
  unsigned i;

  if (nordered == ORDERED)
    explore_fail ("more events than the explorer can have");
  memset (a->next, 0, sizeof a->next);
  psc_neighbours (p, before, a->next);
  for (i = 0; i < nordered; i++)
    if (in_set (before, i))
      add_to_set (ordered[i].next, nordered);
  a->thread = p->t;
  a->event = p->t->events + 1u;
  a->object = p->o;
  a->reads = p->reads;
  a->writes = written;
  nordered++;
}

/* Choosing. */

static bool
possible (const struct thread *t, const struct object *o,
          const struct choice *c)
{
  const struct op *op = t->op;
  const uint64_t value = o->order[c->at]->value;
  struct plan p;

  if (op->kind == OP_CAS && c->how == HOW_SIMPLY && value != op->expected)
    return false;
  if (c->how == HOW_FAILING && value == op->expected)
    return false;
  if (c->how == HOW_FOR_NO_REASON && value != op->expected)
    return false;
  p = make_plan (t, o, c);
  if (p.writes && !may_follow (o, c->at))
    return false;
  return p.order != memory_order_seq_cst || !psc_cycle (&p);
}

unsigned
memory_choices (const struct thread *t, struct choice *c)
{
  const struct op *op = t->op;
  unsigned n = 0, how, last = HOW_SIMPLY;
  struct object *o;
  int at;

  if (op->kind == OP_FENCE) {
    *c = (struct choice) { .thread = (uint8_t) t->number };
    return 1;
  }
  if (op->kind == OP_CAS)
    last = op->weak && t->whims > 0 ? HOW_FOR_NO_REASON : HOW_FAILING;
  o = object_of (op);
  /* The newest first: what one would expect. */
  for (at = (int) o->stores - 1; at >= (int) oldest (t, o); at--)
    for (how = HOW_SIMPLY; how <= last; how++) {
      c[n] = (struct choice) {
        .thread = (uint8_t) t->number, .how = (uint8_t) how,
        .at = (uint8_t) at,
      };
      if (possible (t, o, &c[n]) && ++n == CHOICES / EXPLORE_THREADS)
        explore_fail ("more choices than the explorer can have");
    }
  return n;
}

/* Doing. */

uint64_t
memory_modify (const struct op *op, uint64_t v)
{
  const uint64_t mask = op->size < 8 ? (UINT64_C (1) << 8 * op->size) - 1
    : UINT64_MAX;

  switch (op->kind == OP_RMW ? op->rmw : RMW_SET) {
  case RMW_ADD: return (v + op->operand) & mask;
  case RMW_SUB: return (v - op->operand) & mask;
  case RMW_AND: return v & op->operand & mask;
  case RMW_OR: return (v | op->operand) & mask;
  case RMW_XOR: return (v ^ op->operand) & mask;
  case RMW_SET: break;
  }
  return op->operand & mask;
}

static struct store *
insert (struct object *o, unsigned at)
{
  struct store *s = &o->store[o->stores];
  unsigned i;

  if (o->stores == STORES)
    explore_fail ("more stores than the explorer can have");
  for (i = o->stores++; i > at; i--) {
    o->order[i] = o->order[i - 1];
    o->order[i]->at = i;
  }
  o->order[at] = s;
  memset (s, 0, sizeof *s);
  memset (s->seen, 0xff, sizeof s->seen);
  s->at = at;
  return s;
}

static void
do_read (struct thread *t, const struct plan *p, struct store *s)
{
  t->op->result = s->value;
  if (s->seen[t->number] > t->events)
    s->seen[t->number] = t->events;
  if (acquires (p->order))
    clock_join (&t->clock, &s->release);
  else
    clock_join (&t->to_acquire, &s->release);
}

static void
do_write (struct thread *t, const struct plan *p, struct store *s)
{
  s->thread = t->number;
  s->event = t->events;
  s->seen[t->number] = t->events;
  s->release = releases (p->order) ? t->clock : t->fence;
  s->rmw = p->reads != NULL;
  if (p->reads) {
    clock_join (&s->release, &p->reads->release);
    s->value = memory_modify (t->op, p->reads->value);
  }
  else
    s->value = memory_modify (t->op, 0);
}

static void
do_fence (struct thread *t)
{
  if (t->op->order == memory_order_seq_cst)
    explore_fail ("sequentially consistent fences are not in the model");
  if (acquires (t->op->order))
    clock_join (&t->clock, &t->to_acquire);
  if (releases (t->op->order))
    t->fence = t->clock;
}

void
memory_perform (struct thread *t, const struct choice *c)
{
  struct store *read = NULL, *written = NULL;
  struct op *op = t->op;
  struct object *o;
  struct plan p;

  if (op->kind != OP_FENCE) {
    o = object_of (op);
    p = make_plan (t, o, c);
    plain_atomic (t, op->object, op->size, p.writes > 0);
    read = (struct store *) p.reads;
    if (read)
      t->hash = mix (t->hash, mix (read->thread * 1000 + read->event, c->how));
    if (p.writes)
      written = insert (o, p.writes);
    if (p.order == memory_order_seq_cst)
      psc_add (&p, written);
  }
  t->clock.of[t->number] = ++t->events;
  if (op->kind == OP_FENCE)
    do_fence (t);
  if (read)
    do_read (t, &p, read);
  if (written)
    do_write (t, &p, written);
  op->success = c->how == HOW_SIMPLY;
  if (c->how == HOW_FOR_NO_REASON)
    t->whims--;
}

/* The modification orders; who has read what is in the threads' hashes. */
uint64_t
memory_hash (void)
{
  uint64_t sum = 0, h;
  unsigned i, j;

  for (i = 0; i < nused; i++) {
    h = (uintptr_t) used[i]->address;
    for (j = 1; j < used[i]->stores; j++)
      h = mix (h, used[i]->order[j]->thread * 1000 + used[i]->order[j]->event);
    if (j > 1)
      sum += h;
  }
  return sum;
}

void
memory_print (const struct thread *t, const struct choice *c)
{
  static const char *const order[] = {
    "relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst",
  };
  static const char *const kind[] = {
    "load", "store", "modify", "exchange", "fence",
  };
  const struct op *op = t->op;
  const struct object *o;
  const struct store *s;

  printf ("%s %s", kind[op->kind], order[op->order]);
  if (op->kind == OP_FENCE)
    return;
  o = object_of (op);
  s = o->order[c->at];
  printf (" %s", name_of (op->object));
  if (op->kind == OP_STORE)
    printf (" = %#llx%s", (unsigned long long) op->operand,
            c->at + 1u < o->stores ? ", before others" : "");
  else if (s->thread == SETUP)
    printf (": %#llx, initial", (unsigned long long) s->value);
  else
    printf (": %#llx of T%u's %u", (unsigned long long) s->value, s->thread,
            s->event);
  if (op->kind != OP_STORE && c->at + 1u < o->stores)
    printf (", not the last");
  if (op->kind == OP_CAS)
    printf (c->how == HOW_SIMPLY ? ", done" :
            c->how == HOW_FAILING ? ", another" : ", failed for no reason");
  if (op->kind == OP_RMW || (op->kind == OP_CAS && c->how == HOW_SIMPLY))
    printf (" -> %#llx", (unsigned long long) memory_modify (op, s->value));
}

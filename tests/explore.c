/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The search: all executions of a scenario, depth first.
 *
 * An execution is a list of choices: which thread does its next operation,
 * and how (what it reads, for instance).  Each is run from the start: first
 * the choices of the one before up to the last that has an alternative, then
 * that, and then the first choice at each step.
 *
 * The state after each step is a graph: the events of each thread, what they
 * have read, and the modification orders.  As there are no data races, all
 * else depends on it alone.  Where a state is reached that was reached
 * before, in another order of independent steps, that is not followed again.
 * States are known by 64 bits made of the graph; that any two of a million
 * are taken for one has a chance of 1 : 36,000,000.
 */

#undef _FORTIFY_SOURCE          /* it refuses to change stacks */

#include <config.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <ucontext.h>

#include "explore-impl.h"

#define STEPS (THREADS * EVENTS)
#define STACK (size_t) (1 << 16)
#define TLS 256

/* The threads. */

struct thread threads[THREADS];
struct thread *current;

static struct coroutine {
  jmp_buf begin, here;
  bool made;
  char tls[TLS];
} coroutine[THREADS];

static _Alignas (64) char stack_of[THREADS][STACK];
static jmp_buf search_env, fail_env;
static ucontext_t search_context;
static const struct explore_scenario *scenario;
static struct explore_result *result;
static char failure[400];

bool
explore_on_stack (const void *p)
{
  const char *c = p;

  return c >= stack_of[0] && c < stack_of[0] + sizeof stack_of;
}

/* The first time, only so far that it can be begun. */
static void
run_thread (int n)
{
  if (_setjmp (coroutine[n].begin) == 0)
    setcontext (&search_context);
  (n == EXPLORE_THREADS ? scenario->finish : scenario->thread[n]) ();
  threads[n].op = NULL;
  _longjmp (search_env, 1);
}

static void
make_coroutine (int n)
{
  ucontext_t context;

  if (coroutine[n].made)
    return;
  getcontext (&context);
  context.uc_stack.ss_sp = stack_of[n];
  context.uc_stack.ss_size = STACK;
  makecontext (&context, (void (*) (void)) run_thread, 1, n);
  swapcontext (&search_context, &context);
  coroutine[n].made = true;
}

static size_t
tls_size (void)
{
  return (size_t) (__stop_explore_tls - __start_explore_tls);
}

/* T runs up to its next operation, or its end. */
static void
go_on (struct thread *t, jmp_buf from)
{
  const size_t size = tls_size ();

  current = t;
  memcpy (__start_explore_tls, coroutine[t->number].tls, size);
  if (_setjmp (search_env) == 0)
    _longjmp (from, 1);
  t = current;
  memcpy (coroutine[t->number].tls, __start_explore_tls, size);
  current = NULL;
}

static void
begin (unsigned n)
{
  struct thread *t = &threads[n];

  make_coroutine ((int) n);
  if (tls_size () > TLS)
    explore_fail ("more thread-local variables than the explorer can have");
  memset (coroutine[n].tls, 0, TLS);
  t->whims = scenario->whims;
  go_on (t, coroutine[n].begin);
}

/* In a thread: waits for its operation to be done. */
static void
perform_in_thread (struct op *op)
{
  struct thread *t = current;

  t->op = op;
  if (_setjmp (coroutine[t->number].here) == 0)
    _longjmp (search_env, 1);
}

/* In setup: does it to memory at once. */
static void
perform_in_setup (struct op *op)
{
  const uint64_t value = op->kind < OP_FENCE
    ? memory_real_value (op->object, op->size) : 0;

  op->result = value;
  op->success = value == op->expected;
  if (op->kind == OP_STORE || op->kind == OP_RMW ||
      (op->kind == OP_CAS && op->success))
    memory_set_real_value (op->object, op->size, memory_modify (op, value));
}

void
explore_do (struct op *op)
{
  if (current == NULL)
    perform_in_setup (op);
  else if (explore_mutate (op))
    perform_in_thread (op);
}

/* Locks and conditions are operations too. */

static void
do_sync (enum op_kind kind, void *object, void *mutex)
{
  struct op op = { .kind = kind, .object = object, .mutex = mutex };

  explore_do (&op);
}

void
explore_lock (void *lock, bool exclusive)
{
  do_sync (exclusive ? OP_LOCK : OP_LOCK_SHARED, lock, NULL);
}

void
explore_unlock (void *lock, bool exclusive)
{
  do_sync (exclusive ? OP_UNLOCK : OP_UNLOCK_SHARED, lock, NULL);
}

void
explore_wait (pthread_cond_t *cond, pthread_mutex_t *mutex)
{
  do_sync (OP_WAIT, cond, mutex);
}

void
explore_wake (pthread_cond_t *cond, bool all)
{
  do_sync (all ? OP_WAKE_ALL : OP_WAKE, cond, NULL);
}

/* The states that were reached. */

static uint64_t *known;
static size_t nknown, known_size;

static bool
insert_known (uint64_t state)
{
  size_t i = state & (known_size - 1);

  for (; known[i] != 0; i = (i + 1) & (known_size - 1))
    if (known[i] == state)
      return false;
  known[i] = state;
  return true;
}

static void
grow_known (void)
{
  uint64_t *old = known;
  size_t old_size = known_size, i;

  known_size = old_size ? 2 * old_size : 1 << 16;
  known = calloc (known_size, sizeof *known);
  if (known == NULL)
    explore_fail ("no memory for more states");
  for (i = 0; i < old_size; i++)
    if (old[i] != 0)
      insert_known (old[i]);
  free (old);
}

/* The state that has been reached; is it a new one? */
static bool
is_new_state (void)
{
  uint64_t sum = memory_hash () + sync_hash ();
  unsigned i;

  if (2 * nknown >= known_size)
    grow_known ();
  for (i = 0; i < THREADS; i++)
    sum += mix (i + 1, threads[i].hash);
  if (!insert_known (sum ? sum : 1))
    return false;
  nknown++;
  return true;
}

/* Executions. */

struct step {
  struct choice choice[CHOICES];
  unsigned n, at;
};

static struct step path[STEPS];
static unsigned length;         /* of path */
static bool printing;

static void
reset (void)
{
  unsigned i;

  memory_reset ();
  sync_reset ();
  plain_reset ();
  explore_forget_names ();
  for (i = 0; i < THREADS; i++) {
    struct thread *t = &threads[i];

    t->number = i;
    t->events = 0;
    t->hash = 0;
    t->op = NULL;
    memset (&t->clock, 0, sizeof t->clock);
    memset (&t->to_acquire, 0, sizeof t->to_acquire);
    memset (&t->fence, 0, sizeof t->fence);
  }
}

static void
start (void)
{
  unsigned i;

  reset ();
  current = NULL;
  memset (__start_explore_tls, 0, tls_size ());
  if (scenario->setup)
    scenario->setup ();
  for (i = 0; i < EXPLORE_THREADS && scenario->thread[i]; i++)
    begin (i);
}

/* Who has joined all others knows all that they have done, since their last
 * operation too.
 */
static void
start_finish (void)
{
  struct thread *t = &threads[EXPLORE_THREADS];
  unsigned i;

  for (i = 0; i < EXPLORE_THREADS; i++)
    t->clock.of[i] = threads[i].events + 1;
  t->hash = 1;
  begin (EXPLORE_THREADS);
}

static bool
all_ended (void)
{
  unsigned i;

  for (i = 0; i < THREADS; i++)
    if (threads[i].op)
      return false;
  return true;
}

static void
fail_deadlock (void)
{
  char text[200];
  size_t n = 0;
  unsigned i;

  for (i = 0; i < THREADS; i++)
    if (threads[i].op)
      n += (size_t) snprintf (text + n, sizeof text - n,
                              " T%u waits for %s;", i,
                              name_of (threads[i].op->object));
  explore_fail ("deadlock:%s", text);
}

/* Giving back a lock does not depend on what others do, nor they on when it
 * is done but for those who wait for it: so that comes first if there is one,
 * and then there is no other choice.
 */
static unsigned
choices_unlock (struct choice *c)
{
  unsigned i;

  for (i = 0; i < THREADS; i++)
    if (threads[i].op && (threads[i].op->kind == OP_UNLOCK ||
                          threads[i].op->kind == OP_UNLOCK_SHARED))
      return sync_choices (&threads[i], c);
  return 0;
}

static unsigned
choices_all (struct choice *c)
{
  unsigned n = 0, i;

  for (i = 0; i < THREADS; i++)
    if (threads[i].op)
      n += threads[i].op->kind <= OP_FENCE
        ? memory_choices (&threads[i], &c[n])
        : sync_choices (&threads[i], &c[n]);
  return n;
}

/* The ways to go on from here become the next step of the path; false: this
 * was the end.
 */
static bool
find_choices (void)
{
  struct step *s = &path[length];

  if (all_ended () && scenario->finish && threads[EXPLORE_THREADS].hash == 0)
    start_finish ();
  if (all_ended ())
    return false;
  if (length == STEPS - 1)
    explore_fail ("an execution without an end");
  s->at = 0;
  s->n = scenario->unmerged ? 0 : choices_unlock (s->choice);
  if (s->n == 0)
    s->n = choices_all (s->choice);
  if (s->n == 0)
    fail_deadlock ();
  length++;
  return true;
}

static void
print_step (const struct thread *t, const struct choice *c)
{
  static const char *const kind[] = {
    [OP_LOCK] = "lock", [OP_UNLOCK] = "unlock",
    [OP_LOCK_SHARED] = "lock shared", [OP_UNLOCK_SHARED] = "unlock shared",
    [OP_WAIT] = "wait for", [OP_WAKE] = "wake one of",
    [OP_WAKE_ALL] = "wake all of",
  };

  printf ("  T%u %3u: ", t->number, t->events + 1u);
  if (t->op->kind <= OP_FENCE)
    memory_print (t, c);
  else
    printf ("%s%s %s", t->op->waiting ? "woken from " : "",
            kind[t->op->kind], name_of (t->op->object));
  printf ("\n");
}

static void
do_step (const struct choice *c)
{
  struct thread *t = &threads[c->thread];
  struct op *op = t->op;

  if (printing)
    print_step (t, c);
  if (t->events + 2 >= EVENTS)
    explore_fail ("an execution without an end");
  if (op->kind <= OP_FENCE)
    memory_perform (t, c);
  else
    sync_perform (t, c);
  t->hash = mix (t->hash, op->kind);
  t->event[t->events].object = op->object;
  t->event[t->events].clock = t->clock;
  if (!op->waiting)
    go_on (t, coroutine[t->number].here);
}

/* Follows the path, and goes on to a state that is known or the end. */
static void
execute (void)
{
  unsigned i;

  start ();
  for (i = 0; ; i++) {
    if (i == length) {
      if (i > 0 && !is_new_state () && !scenario->unmerged)
        return;
      if (!find_choices ())
        break;
    }
    do_step (&path[i].choice[path[i].at]);
  }
  result->executions++;
}

/* To the next path; false: there is none. */
static bool
next_path (void)
{
  while (length > 0 && ++path[length - 1].at == path[length - 1].n)
    length--;
  return length > 0;
}

/* The execution that has failed once more. */
static void
print_failure (void)
{
  unsigned i;

  printf ("%s: %s\n", scenario->name, failure);
  printing = true;
  if (_setjmp (fail_env) == 0) {
    start ();
    for (i = 0; i < length; i++)
      do_step (&path[i].choice[path[i].at]);
  }
  printing = false;
}

void
explore_fail (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vsnprintf (failure, sizeof failure, format, args);
  va_end (args);
  current = NULL;
  _longjmp (fail_env, 1);
}

const char *
explore_failure (void)
{
  return failure;
}

void
explore_outcome (unsigned n)
{
  result->outcomes |= UINT64_C (1) << n;
}

/* By an access of a thread; or by its atomic operation, done for it. */
static void
crashed (int signal)
{
  explore_fail ("killed by signal %d", signal);
}

static void
catch_crashes (void)
{
  struct sigaction act = { .sa_handler = crashed, .sa_flags = SA_NODEFER };

  sigaction (SIGSEGV, &act, NULL);
  sigaction (SIGBUS, &act, NULL);
  sigaction (SIGFPE, &act, NULL);
}

bool
explore (const struct explore_scenario *s, bool quietly,
         struct explore_result *r)
{
  bool failed;

  scenario = s;
  result = r;
  memset (r, 0, sizeof *r);
  length = 0;
  free (known);
  known = NULL;
  nknown = known_size = 0;
  catch_crashes ();
  failed = _setjmp (fail_env) != 0;
  if (!failed)
    do
      execute ();
    while (next_path ());
  else if (!quietly)
    print_failure ();
  result->states = nknown;
  return !failed;
}

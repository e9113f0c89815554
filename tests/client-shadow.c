/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Many clients on one export, every byte checked against a shadow copy.
 *
 * Notes on the design: the export is cut into stripes of random odd
 * sizes, and every stripe belongs to one lane.  A lane has one command in
 * flight and changes only its own stripes, so it always knows what its
 * bytes must be, although its neighbours share its blocks.  A client is a
 * thread with one or more connections and several lanes, so that
 * connections carry commands in parallel as well.  The bytes a lane
 * writes carry its tag in their upper half: of foreign bytes in its reads
 * it can tell at least whether they can be there at all.
 *
 * What a failed write (ENOSPC, with -e) or a trim left behind is read back
 * and must be old or new, byte by byte.  With -k the server may go away at
 * any time: bytes of commands without a reply are marked in a mask.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#define MAX_LANES 256
#define MAX_CONNS 4
#define MAX_EXTENTS 512
#define HANG_MS 240000
#define AT_WORK 500             /* commands that have succeeded */

struct stripe {
  uint64_t start, len;
  unsigned lane;
};

enum op { READ, WRITE, ZERO, TRIM, FLUSH, CACHE, STATUS, NR_OPS };

static const char op_letters[] = "rwztfcb";
static const char *const op_names[] = {
  "read", "write", "zero", "trim", "flush", "cache", "block status",
};
static const unsigned op_weights[] = { 30, 36, 12, 10, 2, 1, 9 };

/* What a lane waits for; READBACK follows a command with two outcomes. */
enum phase { IDLE, BUSY, READBACK };

struct extent_list {
  unsigned n;
  uint32_t entry[MAX_EXTENTS * 2];
};

struct lane {                   /* [no locking: used by one thread] */
  unsigned id;
  uint64_t rng;
  uint32_t *own;                /* indices of its stripes */
  uint32_t nr_own;
  uint32_t ops_left;
  enum phase phase;
  enum op op;
  uint32_t flags;
  uint64_t offset, count;
  int64_t cookie;
  unsigned conn;                /* index of the connection it went out on */
  uint8_t *buf, *old;           /* data of the command; bytes before it */
  struct extent_list extents;
};

struct client {
  pthread_t thread;
  unsigned id;
  struct nbd_handle *conn[MAX_CONNS];
  struct lane *lanes;
  uint32_t issued;              /* since the last connect */
  bool gone;                    /* the server went away (-k) */
};

/* [constant] once the threads run, apart from the bytes of shadow and
 * mask, each of which belongs to one lane.
 */
static const char *uri;
static unsigned nr_clients = 12, nr_lanes = 2, nr_conns = 1;
static unsigned ops_per_lane = 300, seconds = 20, reconnect;
static uint64_t seed, max_stripe = 200000, max_request = 200000;
static bool allow_enospc, allow_gone;
static bool enabled[NR_OPS];
static bool can_fast_zero, can_fua;
static uint64_t size;
static uint8_t *shadow, *initial, *mask;
static struct stripe *stripes;
static uint32_t nr_stripes;
static struct timespec deadline;
static uint64_t nr_done[NR_OPS];        /* [atomic] */
static uint64_t nr_enospc;              /* [atomic] */
static uint64_t nr_succeeded;           /* [atomic] of any kind */
static const char *initial_file, *out_file, *mask_file, *at_work_file;

static void __attribute__ ((noreturn, format (printf, 1, 2)))
die (const char *fs, ...)
{
  va_list args;

  va_start (args, fs);
  fprintf (stderr, "client-shadow: ");
  vfprintf (stderr, fs, args);
  fprintf (stderr, " (seed %" PRIu64 ")\n", seed);
  va_end (args);
  exit (1);
}

static void *
xmalloc (size_t n)
{
  void *p = calloc (1, n ? n : 1);

  if (p == NULL)
    die ("out of memory");
  return p;
}

/* splitmix64 */
static uint64_t
mix (uint64_t x)
{
  x += UINT64_C (0x9e3779b97f4a7c15);
  x = (x ^ (x >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C (0x94d049bb133111eb);
  return x ^ (x >> 31);
}

static uint64_t
rnd (uint64_t *state, uint64_t n)
{
  *state += UINT64_C (0x9e3779b97f4a7c15);
  return n ? mix (*state) % n : 0;
}

/* Between 1 and max, each order of magnitude as likely as the others. */
static uint64_t
rnd_log (uint64_t *state, uint64_t max)
{
  unsigned bits = 0;
  uint64_t r;

  while (bits < 63 && (UINT64_C (1) << bits) < max)
    bits++;
  r = 1 + rnd (state, UINT64_C (1) << rnd (state, bits + 1));
  return r < max ? r : max;
}

static uint8_t
tag_of (unsigned lane)
{
  return (lane % 15 + 1) << 4;
}

static struct nbd_handle *
connected (void)
{
  struct nbd_handle *h = nbd_create ();

  if (h == NULL ||
      nbd_add_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == -1)
    die ("%s", nbd_get_error ());
  if (nbd_connect_uri (h, uri) == -1) {
    if (!allow_gone)
      die ("connect: %s", nbd_get_error ());
    nbd_close (h);
    return NULL;
  }
  return h;
}

static void
read_all (struct nbd_handle *h, uint8_t *buf)
{
  const uint64_t step = 1 << 20;
  uint64_t pos, n;

  for (pos = 0; pos < size; pos += n) {
    n = size - pos < step ? size - pos : step;
    if (nbd_pread (h, buf + pos, n, pos, 0) == -1)
      die ("reading all: %s", nbd_get_error ());
  }
}

static void
load_file (const char *name, uint8_t *buf)
{
  FILE *f = fopen (name, "rb");

  if (f == NULL || fread (buf, 1, size, f) != size || fgetc (f) != EOF)
    die ("%s: is not of the export's size", name);
  fclose (f);
}

static void
save_file (const char *name, const uint8_t *buf)
{
  FILE *f = fopen (name, "wb");

  if (f == NULL || fwrite (buf, 1, size, f) != size || fclose (f) != 0)
    die ("%s: cannot write", name);
}

static void
touch (const char *name)
{
  FILE *f = fopen (name, "wb");

  if (f == NULL || fclose (f) != 0)
    die ("%s: cannot make it", name);
}

/* --- stripes ------------------------------------------------------- */

static void
cut_stripes (void)
{
  uint64_t rng = mix (seed), pos, len;
  uint32_t allocated = 0;

  for (pos = 0; pos < size; pos += len) {
    len = rnd_log (&rng, max_stripe);
    if (len > size - pos)
      len = size - pos;
    if (nr_stripes == allocated) {
      allocated = allocated ? allocated * 2 : 1024;
      stripes = realloc (stripes, allocated * sizeof *stripes);
      if (stripes == NULL)
        die ("out of memory");
    }
    stripes[nr_stripes].start = pos;
    stripes[nr_stripes].len = len;
    stripes[nr_stripes].lane = rnd (&rng, nr_clients * nr_lanes);
    nr_stripes++;
  }
}

/* The stripe that holds an offset. */
static uint32_t
stripe_at (uint64_t offset)
{
  uint32_t lo = 0, hi = nr_stripes;

  while (hi - lo > 1) {
    uint32_t mid = lo + (hi - lo) / 2;

    if (stripes[mid].start <= offset)
      lo = mid;
    else
      hi = mid;
  }
  return lo;
}

static void
init_lane (struct lane *l, unsigned id)
{
  uint32_t i;

  l->id = id;
  l->rng = mix (seed + id + 1);
  l->ops_left = ops_per_lane;
  l->own = xmalloc (nr_stripes * sizeof *l->own);
  for (i = 0; i < nr_stripes; i++)
    if (stripes[i].lane == id)
      l->own[l->nr_own++] = i;
  l->buf = xmalloc (max_request);
  l->old = xmalloc (max_request);
}

/* A range inside one of the lane's own stripes. */
static void
choose_own_range (struct lane *l)
{
  const struct stripe *s = &stripes[l->own[rnd (&l->rng, l->nr_own)]];
  uint64_t start = 0, len = s->len;

  if (rnd (&l->rng, 3) != 0) {
    start = rnd (&l->rng, s->len);
    len = rnd_log (&l->rng, s->len - start);
  }
  l->offset = s->start + start;
  l->count = len < max_request ? len : max_request;
}

/* A range around one of its own stripes. */
static void
choose_any_range (struct lane *l)
{
  uint64_t before;

  choose_own_range (l);
  before = rnd_log (&l->rng, max_request) - 1;
  l->offset = l->offset > before ? l->offset - before : 0;
  l->count = rnd_log (&l->rng, max_request);
  if (l->count > size - l->offset)
    l->count = size - l->offset;
}

/* --- checks -------------------------------------------------------- */

static void __attribute__ ((noreturn))
wrong_byte (const struct lane *l, uint64_t pos, unsigned got, unsigned want,
            const char *whose)
{
  die ("lane %u: %s byte at %" PRIu64 " is 0x%02x, expected 0x%02x, "
       "in a read of %" PRIu64 "+%" PRIu64 " after %s",
       l->id, whose, pos, got, want, l->offset, l->count,
       op_names[l->op]);
}

static void
check_foreign (const struct lane *l, unsigned owner, uint64_t pos, uint8_t b)
{
  if (b != 0 && b != initial[pos] && (b & 0xf0) != tag_of (owner))
    wrong_byte (l, pos, b, tag_of (owner), "a foreign");
}

static void
check_read (const struct lane *l)
{
  uint64_t pos = l->offset, end = l->offset + l->count;
  uint32_t i = stripe_at (pos);

  for (; pos < end; i++) {
    const struct stripe *s = &stripes[i];
    uint64_t stop = s->start + s->len < end ? s->start + s->len : end;

    for (; pos < stop; pos++) {
      uint8_t b = l->buf[pos - l->offset];

      if (s->lane != l->id)
        check_foreign (l, s->lane, pos, b);
      else if (b != shadow[pos])
        wrong_byte (l, pos, b, shadow[pos], "its own");
    }
  }
}

/* Contiguous, and what is said to be zero is zero. */
static void
check_status (const struct lane *l)
{
  uint64_t pos = l->offset, end = l->offset + l->count;
  unsigned i;

  if (l->extents.n == 0)
    die ("lane %u: no extents", l->id);
  for (i = 0; i + 1 < l->extents.n && pos < end; i += 2) {
    uint64_t stop = pos + l->extents.entry[i];

    for (; pos < stop && pos < end; pos++)
      if ((l->extents.entry[i + 1] & LIBNBD_STATE_ZERO) &&
          stripes[stripe_at (pos)].lane == l->id && shadow[pos] != 0)
        die ("lane %u: byte %" PRIu64 " is 0x%02x, block status of %"
             PRIu64 "+%" PRIu64 " says zero",
             l->id, pos, shadow[pos], l->offset, l->count);
  }
}

/* After a command with two possible outcomes: l->old before it, shadow
 * the intended one, l->buf what is there now.
 */
static void
accept_readback (struct lane *l)
{
  uint64_t i;

  for (i = 0; i < l->count; i++) {
    uint8_t *s = &shadow[l->offset + i];

    if (l->buf[i] != l->old[i] && l->buf[i] != *s)
      wrong_byte (l, l->offset + i, l->buf[i], *s, "an uncertain");
    *s = l->buf[i];
  }
}

/* --- commands ------------------------------------------------------ */

static int
on_extents (void *user_data, const char *context, uint64_t offset,
            uint32_t *entries, size_t nr_entries, int *error)
{
  struct extent_list *list = user_data;

  (void) context;
  (void) offset;
  (void) error;
  list->n = nr_entries < MAX_EXTENTS * 2 ? nr_entries : MAX_EXTENTS * 2;
  memcpy (list->entry, entries, list->n * sizeof entries[0]);
  return 0;
}

static enum op
choose_op (struct lane *l)
{
  unsigned total = 0, i, r;

  for (i = 0; i < NR_OPS; i++)
    total += enabled[i] ? op_weights[i] : 0;
  r = rnd (&l->rng, total);
  for (i = 0; i < NR_OPS; i++) {
    if (!enabled[i])
      continue;
    if (r < op_weights[i])
      return i;
    r -= op_weights[i];
  }
  return READ;
}

static void
fill_pattern (struct lane *l)
{
  uint64_t version = rnd (&l->rng, UINT64_MAX), i;

  for (i = 0; i < l->count; i++) {
    if (i % 16 == 0)
      version = mix (version);
    l->buf[i] = tag_of (l->id) | ((version >> (i % 16 * 4)) & 15);
  }
}

static void
prepare (struct lane *l)
{
  l->op = choose_op (l);
  l->flags = 0;
  if (l->op == READ || l->op == STATUS || l->op == CACHE)
    choose_any_range (l);
  else if (l->op != FLUSH)
    choose_own_range (l);
  if (l->op == WRITE)
    fill_pattern (l);
  if (l->op == ZERO && rnd (&l->rng, 2))
    l->flags |= LIBNBD_CMD_FLAG_NO_HOLE;
  if (l->op == ZERO && can_fast_zero && rnd (&l->rng, 3) == 0)
    l->flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
  if ((l->op == WRITE || l->op == ZERO || l->op == TRIM) && can_fua &&
      rnd (&l->rng, 40) == 0)
    l->flags |= LIBNBD_CMD_FLAG_FUA;
}

static int64_t
submit (struct lane *l, struct nbd_handle *h)
{
  nbd_extent_callback cb = {
    .callback = on_extents, .user_data = &l->extents,
  };

  switch (l->phase == READBACK ? READ : l->op) {
  case WRITE:
    return nbd_aio_pwrite (h, l->buf, l->count, l->offset,
                           NBD_NULL_COMPLETION, l->flags);
  case ZERO:
    return nbd_aio_zero (h, l->count, l->offset, NBD_NULL_COMPLETION,
                         l->flags);
  case TRIM:
    return nbd_aio_trim (h, l->count, l->offset, NBD_NULL_COMPLETION,
                         l->flags);
  case FLUSH:
    return nbd_aio_flush (h, NBD_NULL_COMPLETION, 0);
  case CACHE:
    return nbd_aio_cache (h, l->count, l->offset, NBD_NULL_COMPLETION, 0);
  case STATUS:
    l->extents.n = 0;
    return nbd_aio_block_status (h, l->count, l->offset, cb,
                                 NBD_NULL_COMPLETION, 0);
  default:
    return nbd_aio_pread (h, l->buf, l->count, l->offset,
                          NBD_NULL_COMPLETION, 0);
  }
}

static void
forget_range (struct client *c, const struct lane *l)
{
  c->gone = true;
  if (l->op == WRITE || l->op == ZERO || l->op == TRIM)
    memset (mask + l->offset, 1, l->count);
}

static void
start_command (struct client *c, struct lane *l)
{
  struct nbd_handle *h;

  l->conn = rnd (&l->rng, nr_conns);
  h = c->conn[l->conn];
  l->cookie = submit (l, h);
  if (l->cookie != -1)
    return;
  if (!allow_gone)
    die ("lane %u: %s: %s", l->id, op_names[l->op], nbd_get_error ());
  forget_range (c, l);
  l->phase = IDLE;
}

/* The intended content goes to the shadow. */
static void
apply (struct lane *l)
{
  uint8_t *s = shadow + l->offset;

  memcpy (l->old, s, l->count);
  if (l->op == WRITE)
    memcpy (s, l->buf, l->count);
  else
    memset (s, 0, l->count);
}

static bool
gone_error (int err)
{
  return err == ESHUTDOWN || err == ENOTCONN || err == ECONNRESET ||
    err == EPIPE || err == EINVAL || err == 0;
}

static void
failed (struct client *c, struct lane *l, int err)
{
  if (l->phase == BUSY && err == ENOTSUP &&
      (l->flags & LIBNBD_CMD_FLAG_FAST_ZERO)) {
    l->phase = IDLE;            /* and the data must be as it was */
    return;
  }
  if (l->phase == BUSY && allow_enospc && err == ENOSPC &&
      (l->op == WRITE || l->op == ZERO || l->op == TRIM)) {
    __atomic_add_fetch (&nr_enospc, 1, __ATOMIC_RELAXED);
    apply (l);
    l->phase = READBACK;
    start_command (c, l);
    return;
  }
  if (allow_gone && gone_error (err)) {
    forget_range (c, l);
    l->phase = IDLE;
    return;
  }
  die ("lane %u: %s %" PRIu64 "+%" PRIu64 " flags %" PRIu32 "%s: %s",
       l->id, op_names[l->op], l->offset, l->count, l->flags,
       l->phase == READBACK ? " (reading back)" : "", strerror (err));
}

static void
succeeded (struct client *c, struct lane *l)
{
  if (l->phase == READBACK) {
    accept_readback (l);
    l->phase = IDLE;
    return;
  }
  __atomic_add_fetch (&nr_done[l->op], 1, __ATOMIC_RELAXED);
  if (at_work_file &&
      __atomic_add_fetch (&nr_succeeded, 1, __ATOMIC_RELAXED) == AT_WORK)
    touch (at_work_file);
  if (l->op == READ)
    check_read (l);
  else if (l->op == STATUS)
    check_status (l);
  else if (l->op == WRITE || l->op == ZERO || l->op == TRIM) {
    apply (l);
    if (l->op != TRIM)          /* the one outcome, twice */
      memcpy (l->old, shadow + l->offset, l->count);
    if (l->op == TRIM || rnd (&l->rng, 3) == 0) {
      l->phase = READBACK;
      start_command (c, l);
      return;
    }
  }
  l->phase = IDLE;
}

/* --- clients ------------------------------------------------------- */

static bool
out_of_time (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec > deadline.tv_sec ||
    (now.tv_sec == deadline.tv_sec && now.tv_nsec >= deadline.tv_nsec);
}

static void
disconnect (struct client *c, bool politely)
{
  unsigned i;

  for (i = 0; i < nr_conns; i++) {
    if (c->conn[i] != NULL && politely)
      nbd_shutdown (c->conn[i], 0);
    nbd_close (c->conn[i]);
    c->conn[i] = NULL;
  }
}

static void
reconnected (struct client *c)
{
  unsigned i;

  for (i = 0; i < nr_conns; i++) {
    c->conn[i] = connected ();
    if (c->conn[i] == NULL)
      c->gone = true;
  }
  c->issued = 0;
}

/* One round of the event loop on all connections. */
static void
wait_for_replies (struct client *c)
{
  struct pollfd fds[MAX_CONNS];
  unsigned i, dir;
  int r;

  for (i = 0; i < nr_conns; i++) {
    dir = nbd_aio_get_direction (c->conn[i]);
    fds[i].fd = dir ? nbd_aio_get_fd (c->conn[i]) : -1;
    fds[i].events = (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
      (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
    fds[i].revents = 0;
  }
  r = poll (fds, nr_conns, HANG_MS);
  if (r == 0)
    die ("client %u: no reply for %d ms", c->id, HANG_MS);
  for (i = 0; i < nr_conns; i++) {
    dir = fds[i].fd >= 0 ? nbd_aio_get_direction (c->conn[i]) : 0;
    /* Failures show in the commands they end. */
    if ((dir & LIBNBD_AIO_DIRECTION_READ) &&
        (fds[i].revents & (POLLIN | POLLHUP | POLLERR)))
      nbd_aio_notify_read (c->conn[i]);
    else if ((dir & LIBNBD_AIO_DIRECTION_WRITE) &&
             (fds[i].revents & (POLLOUT | POLLHUP | POLLERR)))
      nbd_aio_notify_write (c->conn[i]);
  }
}

static void
collect (struct client *c)
{
  unsigned i;

  for (i = 0; i < nr_lanes; i++) {
    struct lane *l = &c->lanes[i];
    int r;

    if (l->phase == IDLE)
      continue;
    r = nbd_aio_command_completed (c->conn[l->conn], l->cookie);
    if (r == 1)
      succeeded (c, l);
    else if (r == -1)
      failed (c, l, nbd_get_errno ());
    else if (nbd_aio_is_dead (c->conn[l->conn]) ||
             nbd_aio_is_closed (c->conn[l->conn]))
      failed (c, l, ENOTCONN);
  }
}

/* Starts what may be started; returns the number of lanes in flight. */
static unsigned
start_lanes (struct client *c)
{
  bool pause = reconnect && c->issued >= reconnect;
  unsigned i, busy = 0;

  for (i = 0; i < nr_lanes; i++) {
    struct lane *l = &c->lanes[i];

    if (l->phase == IDLE && l->ops_left > 0 && l->nr_own > 0 && !pause &&
        !c->gone) {
      l->ops_left = out_of_time () ? 0 : l->ops_left - 1;
      prepare (l);
      l->phase = BUSY;
      start_command (c, l);
      c->issued++;
    }
    if (l->phase != IDLE)
      busy++;
  }
  return busy;
}

static bool
has_work (const struct client *c)
{
  unsigned i;

  for (i = 0; i < nr_lanes; i++)
    if (c->lanes[i].ops_left > 0 && c->lanes[i].nr_own > 0)
      return true;
  return false;
}

static void *
run_client (void *arg)
{
  struct client *c = arg;
  uint64_t rng = mix (seed ^ c->id);

  reconnected (c);
  for (;;) {
    if (start_lanes (c) > 0) {
      wait_for_replies (c);
      collect (c);
    }
    else if (c->gone || !has_work (c))
      break;
    else if (reconnect && c->issued >= reconnect) {
      disconnect (c, rnd (&rng, 2));
      reconnected (c);
    }
  }
  disconnect (c, !c->gone);
  return NULL;
}

/* --- the run ------------------------------------------------------- */

static void
start (void)
{
  struct nbd_handle *h = connected ();
  int64_t r = h ? nbd_get_size (h) : -1;

  if (r <= 0)
    die ("no size: %s", nbd_get_error ());
  size = r;
  shadow = xmalloc (size);
  initial = xmalloc (size);
  mask = xmalloc (size);
  read_all (h, initial);
  if (initial_file) {
    load_file (initial_file, shadow);
    if (memcmp (shadow, initial, size) != 0)
      die ("the export is not like %s at the start", initial_file);
  }
  memcpy (shadow, initial, size);
  if (nbd_can_multi_conn (h) != 1 && nr_clients * nr_conns > 1)
    fprintf (stderr, "client-shadow: multi-conn is not advertised\n");
  can_fua = nbd_can_fua (h) == 1;
  can_fast_zero = nbd_can_fast_zero (h) == 1;
  enabled[ZERO] &= nbd_can_zero (h) == 1;
  enabled[TRIM] &= nbd_can_trim (h) == 1;
  enabled[FLUSH] &= nbd_can_flush (h) == 1;
  enabled[CACHE] &= nbd_can_cache (h) == 1;
  enabled[STATUS] &=
    nbd_can_meta_context (h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
  nbd_shutdown (h, 0);
  nbd_close (h);
}

static void
run (void)
{
  struct client *clients = xmalloc (nr_clients * sizeof *clients);
  unsigned i, j;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += seconds;
  for (i = 0; i < nr_clients; i++) {
    clients[i].id = i;
    clients[i].lanes = xmalloc (nr_lanes * sizeof (struct lane));
    for (j = 0; j < nr_lanes; j++)
      init_lane (&clients[i].lanes[j], i * nr_lanes + j);
  }
  for (i = 0; i < nr_clients; i++)
    if (pthread_create (&clients[i].thread, NULL, run_client,
                        &clients[i]) != 0)
      die ("cannot start a thread");
  for (i = 0; i < nr_clients; i++)
    pthread_join (clients[i].thread, NULL);
}

static void
check_end (void)
{
  struct nbd_handle *h = connected ();
  uint8_t *buf = xmalloc (size);
  uint64_t i;

  if (h == NULL)
    die ("connect: %s", nbd_get_error ());
  read_all (h, buf);
  for (i = 0; i < size; i++)
    if (buf[i] != shadow[i])
      die ("at the end byte %" PRIu64 " is 0x%02x, expected 0x%02x (lane %u)",
           i, buf[i], shadow[i], stripes[stripe_at (i)].lane);
  nbd_shutdown (h, 0);
  nbd_close (h);
  free (buf);
}

static void
report (void)
{
  unsigned i;

  printf ("seed %" PRIu64 ": %u clients x %u lanes, %" PRIu32 " stripes:",
          seed, nr_clients, nr_lanes, nr_stripes);
  for (i = 0; i < NR_OPS; i++)
    if (nr_done[i])
      printf (" %" PRIu64 " %s,", nr_done[i], op_names[i]);
  printf (" %" PRIu64 " ENOSPC\n", nr_enospc);
}

static void
usage (void)
{
  fputs ("client-shadow [OPTIONS] URI\n"
         "  -c N     clients (12)          -l N     lanes per client (2)\n"
         "  -2 N     connections per client (1)\n"
         "  -n N     commands per lane (300)\n"
         "  -t N     seconds, at most (20) -s N     seed\n"
         "  -f OPS   of r(ead) w(rite) z(ero) t(rim) f(lush) c(ache)\n"
         "           b(lock status); all that the server offers\n"
         "  -S N     largest stripe        -M N     largest request\n"
         "  -R N     reconnect after N commands\n"
         "  -e       ENOSPC is allowed     -k       the server may go away\n"
         "  -i FILE  the export's bytes at the start\n"
         "  -o FILE  gets the bytes at the end\n"
         "  -m FILE  gets 1 for each byte that is not certain (-k)\n"
         "  -w FILE  is made when all are at work\n",
         stderr);
  exit (2);
}

static void
parse_options (int argc, char **argv)
{
  const char *ops = op_letters, *env = getenv ("NBD_TEST_SEED");
  unsigned i;
  int c;

  seed = env ? strtoull (env, NULL, 0)
    : ((uint64_t) time (NULL) << 16 | (getpid () & 0xffff));
  while ((c = getopt (argc, argv, "c:l:2:n:t:s:f:S:M:R:eki:o:m:w:")) != -1) {
    switch (c) {
    case 'c': nr_clients = atoi (optarg); break;
    case 'l': nr_lanes = atoi (optarg); break;
    case '2': nr_conns = atoi (optarg); break;
    case 'n': ops_per_lane = atoi (optarg); break;
    case 't': seconds = atoi (optarg); break;
    case 's': seed = strtoull (optarg, NULL, 0); break;
    case 'f': ops = optarg; break;
    case 'S': max_stripe = strtoull (optarg, NULL, 0); break;
    case 'M': max_request = strtoull (optarg, NULL, 0); break;
    case 'R': reconnect = atoi (optarg); break;
    case 'e': allow_enospc = true; break;
    case 'k': allow_gone = true; break;
    case 'i': initial_file = optarg; break;
    case 'o': out_file = optarg; break;
    case 'm': mask_file = optarg; break;
    case 'w': at_work_file = optarg; break;
    default: usage ();
    }
  }
  for (i = 0; i < NR_OPS; i++)
    enabled[i] = strchr (ops, op_letters[i]) != NULL;
  if (optind != argc - 1 || nr_clients < 1 || nr_lanes < 1 ||
      nr_conns < 1 || nr_conns > MAX_CONNS || max_stripe < 1 ||
      max_request < 1 || nr_clients * nr_lanes > MAX_LANES)
    usage ();
  uri = argv[optind];
}

int
main (int argc, char **argv)
{
  parse_options (argc, argv);
  printf ("seed %" PRIu64 "\n", seed);
  fflush (stdout);
  start ();
  cut_stripes ();
  run ();
  if (!allow_gone)
    check_end ();
  if (out_file)
    save_file (out_file, shadow);
  if (mask_file)
    save_file (mask_file, mask);
  report ();
  return 0;
}

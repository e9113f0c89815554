/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Load over NBD where fio does not serve: FUA, trims, a flush every so many
 * requests.  One thread and one connection each; prints one JSON object.
 * SIGTERM ends it early, with the result so far. */

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#define MAX_DEPTH 256
#define MAX_CONNECTIONS 256

enum kind { READ, WRITE, TRIM, FLUSH, NR_KINDS };
enum order { SEQUENTIAL, RANDOM, PERMUTED };

static const char *const kind_name[NR_KINDS] = {
  "read", "write", "trim", "flush"
};

/* The command line; [constant] once the threads run. */
static const char *uri;
static const char *ops = "r";   /* one letter a request, cycled */
static unsigned connections = 1;
static unsigned depth = 1;
static double seconds;          /* 0: until every block was visited once */
static uint64_t block = 4096;
static uint64_t step;           /* distance of blocks, by default as above */
static uint64_t start;
static uint64_t length;         /* 0: to the end */
static unsigned flush_every;    /* requests of a connection; 0: never */
static double rate;             /* at most, a second and connection; 0: any */
static enum order order = SEQUENTIAL;

struct samples {
  uint32_t *us;
  size_t nr, allocated;
};

struct slot {
  struct connection *conn;
  enum kind kind;
  bool busy;
  uint64_t begin;               /* ns */
  void *buf;
};

/* All of it belongs to one thread until that has been joined. */
struct connection {
  unsigned number;
  struct nbd_handle *nbd;
  pthread_t thread;
  struct slot slots[MAX_DEPTH];
  unsigned in_flight;
  uint64_t first, blocks;       /* the part of the range that is its own */
  uint64_t visited;             /* how many blocks it has gone to */
  uint64_t offset;              /* the latest */
  uint64_t stride;              /* of the permutation: prime to blocks */
  uint64_t random;
  uint64_t requests, bytes;
  size_t op;                    /* next in ops */
  unsigned since_flush;
  struct samples samples[NR_KINDS];
};

static struct connection conns[MAX_CONNECTIONS];
static pthread_barrier_t ready;
static volatile sig_atomic_t stopped;

static void __attribute__ ((noreturn, format (printf, 1, 2)))
die (const char *fmt, ...)
{
  va_list ap;

  fputs ("client-load: ", stderr);
  va_start (ap, fmt);
  vfprintf (stderr, fmt, ap);
  va_end (ap);
  fputc ('\n', stderr);
  exit (EXIT_FAILURE);
}

static uint64_t
now (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000000 + (uint64_t) ts.tv_nsec;
}

static void
add_sample (struct samples *s, uint64_t ns)
{
  if (s->nr == s->allocated) {
    s->allocated = s->allocated ? s->allocated * 2 : 4096;
    s->us = realloc (s->us, s->allocated * sizeof s->us[0]);
    if (s->us == NULL)
      die ("out of memory");
  }
  s->us[s->nr++] = (uint32_t) (ns / 1000);
}

static uint64_t
next_random (struct connection *c)
{
  /* xorshift64 */
  c->random ^= c->random << 13;
  c->random ^= c->random >> 7;
  c->random ^= c->random << 17;
  return c->random;
}

static uint64_t
gcd (uint64_t a, uint64_t b)
{
  while (b != 0) {
    uint64_t t = a % b;
    a = b;
    b = t;
  }
  return a;
}

/* Goes to the next block; false when there is none left. */
static bool
advance (struct connection *c)
{
  uint64_t n;

  if (seconds == 0 && c->visited >= c->blocks)
    return false;
  switch (order) {
  case RANDOM:
    n = next_random (c) % c->blocks;
    break;
  case PERMUTED:
    n = (uint64_t) ((unsigned __int128) c->visited * c->stride % c->blocks);
    break;
  case SEQUENTIAL:
  default:
    n = c->visited % c->blocks;
    break;
  }
  c->visited++;
  c->offset = c->first + n * step;
  return true;
}

static int
done (void *opaque, int *error)
{
  struct slot *s = opaque;
  struct connection *c = s->conn;

  if (*error != 0)
    die ("%s: %s", kind_name[s->kind], strerror (*error));
  add_sample (&c->samples[s->kind], now () - s->begin);
  s->busy = false;
  c->in_flight--;
  return 1;
}

/* Sends the next request in a free slot; false when all have been sent. */
static bool
send_request (struct connection *c, struct slot *s)
{
  nbd_completion_callback cb = { .callback = done, .user_data = s };
  int64_t r;
  char op;

  if (flush_every > 0 && c->since_flush == flush_every) {
    op = 'f';
    c->since_flush = 0;
  }
  else {
    op = ops[c->op];
    /* A trim after another request is of the same block. */
    if (op != 'f' && (op != 't' || c->op == 0) && !advance (c))
      return false;
    if (ops[++c->op] == '\0')
      c->op = 0;
    c->since_flush++;
  }

  s->begin = now ();
  switch (op) {
  case 'r':
    s->kind = READ;
    r = nbd_aio_pread (c->nbd, s->buf, block, c->offset, cb, 0);
    break;
  case 'w':
  case 'W':
    s->kind = WRITE;
    r = nbd_aio_pwrite (c->nbd, s->buf, block, c->offset, cb,
                        op == 'W' ? LIBNBD_CMD_FLAG_FUA : 0);
    break;
  case 't':
    s->kind = TRIM;
    r = nbd_aio_trim (c->nbd, block, c->offset, cb, 0);
    break;
  case 'f':
    s->kind = FLUSH;
    r = nbd_aio_flush (c->nbd, cb, 0);
    break;
  default:
    die ("no operation '%c'", op);
  }
  if (r == -1)
    die ("%s", nbd_get_error ());
  s->busy = true;
  c->in_flight++;
  if (op != 'f') {
    c->requests++;
    c->bytes += block;
  }
  return true;
}

static void
stop (int signum)
{
  stopped = 1;
}

/* Is it too early for another request?  Waits a while, if nothing else
 * will end the waiting.
 */
static bool
is_early (struct connection *c, uint64_t begin)
{
  const uint64_t sent = c->requests + c->samples[FLUSH].nr;
  uint64_t due, t;

  if (rate == 0)
    return false;
  due = begin + (uint64_t) ((double) sent / rate * 1e9);
  t = now ();
  if (t >= due)
    return false;
  if (c->in_flight == 0)
    usleep ((useconds_t) ((due - t) / 1000 % 10000 + 1));
  return true;
}

static void *
run (void *opaque)
{
  struct connection *c = opaque;
  uint64_t begin, end;
  bool more = true;
  unsigned i;

  pthread_barrier_wait (&ready);
  begin = now ();
  end = begin + (uint64_t) (seconds * 1e9);
  do {
    if (stopped || (seconds > 0 && now () >= end))
      more = false;
    for (i = 0; more && i < depth; i++)
      if (!c->slots[i].busy && !is_early (c, begin))
        more = send_request (c, &c->slots[i]);
    if (c->in_flight > 0 && nbd_poll (c->nbd, -1) == -1)
      die ("%s", nbd_get_error ());
  } while (more || c->in_flight > 0);
  return NULL;
}

static void
open_connection (struct connection *c)
{
  uint64_t blocks, prime;
  int64_t size;
  unsigned i;
  size_t j;

  c->nbd = nbd_create ();
  if (c->nbd == NULL || nbd_connect_uri (c->nbd, uri) == -1)
    die ("%s", nbd_get_error ());
  size = nbd_get_size (c->nbd);
  if (size == -1)
    die ("%s", nbd_get_error ());
  if (length == 0 && (uint64_t) size > start)
    length = (uint64_t) size - start;
  if (start + length > (uint64_t) size)
    die ("the range ends behind the export, which has %" PRId64 " bytes",
         size);

  /* Random requests go anywhere, all others into a part of one's own. */
  blocks = length / step;
  c->first = start;
  if (order != RANDOM) {
    blocks /= connections;
    c->first += c->number * blocks * step;
  }
  if (blocks == 0)
    die ("the range is too small");
  c->blocks = blocks;
  prime = (uint64_t) ((double) blocks * 0.6180339887);
  for (c->stride = prime | 1; gcd (c->stride, blocks) != 1; c->stride++)
    ;
  c->random = 88172645463325252u + c->number * 2654435761u;

  for (i = 0; i < depth; i++) {
    c->slots[i].conn = c;
    if (posix_memalign (&c->slots[i].buf, 4096, block) != 0)
      die ("out of memory");
    for (j = 0; j < block; j++)
      ((unsigned char *) c->slots[i].buf)[j] = (unsigned char) (j % 251 + 1);
  }
}

static int
compare (const void *ap, const void *bp)
{
  const uint32_t a = *(const uint32_t *) ap, b = *(const uint32_t *) bp;

  return a < b ? -1 : a > b;
}

static void
print_kind (enum kind kind)
{
  struct samples all = { NULL };
  unsigned i;
  size_t j;

  for (i = 0; i < connections; i++)
    for (j = 0; j < conns[i].samples[kind].nr; j++)
      add_sample (&all, (uint64_t) conns[i].samples[kind].us[j] * 1000);
  if (all.nr == 0)
    return;
  qsort (all.us, all.nr, sizeof all.us[0], compare);
  printf (", \"%s\": { \"requests\": %zu, \"p50\": %" PRIu32
          ", \"p99\": %" PRIu32 ", \"max\": %" PRIu32 " }",
          kind_name[kind], all.nr, all.us[all.nr / 2],
          all.us[all.nr - 1 - all.nr / 100], all.us[all.nr - 1]);
  free (all.us);
}

static void
options (int argc, char *argv[])
{
  int opt;

  while ((opt = getopt (argc, argv, "b:c:d:f:l:o:p:r:s:S:t:")) != -1) {
    switch (opt) {
    case 'b': block = strtoull (optarg, NULL, 0); break;
    case 'c': connections = (unsigned) strtoul (optarg, NULL, 0); break;
    case 'd': depth = (unsigned) strtoul (optarg, NULL, 0); break;
    case 'f': flush_every = (unsigned) strtoul (optarg, NULL, 0); break;
    case 'l': length = strtoull (optarg, NULL, 0); break;
    case 'o': ops = optarg; break;
    case 'p':
      order = optarg[0] == 's' ? SEQUENTIAL
        : optarg[0] == 'r' ? RANDOM : PERMUTED;
      break;
    case 'r': rate = strtod (optarg, NULL); break;
    case 's': start = strtoull (optarg, NULL, 0); break;
    case 'S': step = strtoull (optarg, NULL, 0); break;
    case 't': seconds = strtod (optarg, NULL); break;
    default: exit (EXIT_FAILURE);
    }
  }
  if (optind + 1 != argc || connections == 0 || depth == 0 ||
      connections > MAX_CONNECTIONS || depth > MAX_DEPTH || block == 0 ||
      *ops == '\0')
    die ("usage: client-load [-c CONNECTIONS] [-d IN-FLIGHT] [-o OPERATIONS]\n"
         "  [-b BLOCK] [-S STEP] [-s START] [-l LENGTH] [-f FLUSH-EVERY]\n"
         "  [-p seq|random|permuted] [-t SECONDS] URI\n"
         "operations: r read, w write, W write with FUA, t trim, f flush");
  if (step == 0)
    step = block;
  uri = argv[optind];
}

int
main (int argc, char *argv[])
{
  uint64_t begin, requests = 0, bytes = 0;
  double elapsed;
  unsigned i;

  options (argc, argv);
  signal (SIGTERM, stop);
  pthread_barrier_init (&ready, NULL, connections + 1);
  for (i = 0; i < connections; i++) {
    conns[i].number = i;
    open_connection (&conns[i]);
    if (pthread_create (&conns[i].thread, NULL, run, &conns[i]) != 0)
      die ("no more threads");
  }
  pthread_barrier_wait (&ready);
  begin = now ();
  for (i = 0; i < connections; i++) {
    pthread_join (conns[i].thread, NULL);
    requests += conns[i].requests;
    bytes += conns[i].bytes;
  }
  elapsed = (double) (now () - begin) / 1e9;

  printf ("{ \"seconds\": %.6f, \"requests\": %" PRIu64
          ", \"bytes\": %" PRIu64, elapsed, requests, bytes);
  for (i = 0; i < NR_KINDS; i++)
    print_kind ((enum kind) i);
  printf (" }\n");
  for (i = 0; i < connections; i++) {
    nbd_shutdown (conns[i].nbd, 0);
    nbd_close (conns[i].nbd);
  }
  return EXIT_SUCCESS;
}

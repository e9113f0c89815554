/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* An NBD client for the crash tests: changes a file over several
 * connections at once and writes down what it asked for, when, and when
 * it was answered; see crash-log.h.  oracle.h says what may be there
 * after a crash.
 *
 * Without -k every request must succeed, or fail with ENOSPC.  With -k
 * the server may go away at any time, and the client then ends.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libnbd.h>

#include "crash-log.h"

#define LONGEST 40000           /* bytes: of a request */

/* [constant] once the threads run. */
static const char *uri;
static unsigned connections = 4, requests = 200, first_id = 1, file;
static uint64_t seed = 1;
static bool may_go;
static FILE *logfile;           /* stdio has its own lock */

struct client {
  pthread_t thread;
  unsigned number;
  uint64_t rng, size;
  struct nbd_handle *nbd;
};

static void __attribute__ ((__noreturn__))
die (const char *what, const char *why)
{
  fprintf (stderr, "client-crash: %s: %s\n", what, why);
  exit (1);
}

static uint64_t
below (struct client *c, uint64_t n)
{
  c->rng = c->rng * UINT64_C (6364136223846793005) + 1442695040888963407u;
  return (c->rng >> 33) % n;
}

/* As the load within the process does: see crash-load.c. */
static void
choose (struct client *c, unsigned i, struct crash_record *q)
{
  static const unsigned grains[] = { 4096, 1024, 512, 1 };
  static const enum crash_kind kinds[] = {
    CRASH_WRITE, CRASH_WRITE, CRASH_WRITE, CRASH_WRITE, CRASH_WRITE,
    CRASH_ZERO, CRASH_TRIM,
  };
  uint64_t grain = grains[below (c, 4)], at = below (c, c->size);

  *q = (struct crash_record) {
    .kind = kinds[below (c, 7)], .file = file,
    .id = first_id + c->number * requests + i, .end = UINT64_MAX,
  };
  if (below (c, 12) == 0) {
    q->kind = CRASH_FLUSH;
    return;
  }
  if (below (c, 2))
    at = (i / 8 * 70001 + below (c, 60000)) % c->size;
  q->offset = at / grain * grain;
  q->count = 1 + below (c, below (c, 4) ? 5000 : LONGEST);
  if (q->count > grain)
    q->count = q->count / grain * grain;
  if (q->kind != CRASH_WRITE && below (c, 6) == 0)
    q->count = c->size / 2;
  if (q->count > c->size - q->offset)
    q->count = c->size - q->offset;
  if (below (c, 10) == 0)
    q->flags = CRASH_FUA;
}

static int
send_request (struct client *c, const struct crash_record *q)
{
  uint32_t flags = q->flags & CRASH_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
  uint8_t data[LONGEST];

  switch (q->kind) {
  case CRASH_WRITE:
    crash_fill (data, q->count, q->offset, q->file, q->id);
    return nbd_pwrite (c->nbd, data, q->count, q->offset, flags);
  case CRASH_ZERO:
    if (q->id % 2)
      flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    return nbd_zero (c->nbd, q->count, q->offset, flags);
  case CRASH_TRIM:
    return nbd_trim (c->nbd, q->count, q->offset, flags);
  default:
    return nbd_flush (c->nbd, 0);
  }
}

/* False if the server has gone away. */
static bool
one_request (struct client *c, unsigned i)
{
  struct crash_record q;
  bool gone = false;

  choose (c, i, &q);
  q.begin = crash_clock ();
  if (send_request (c, &q) == 0)
    q.end = crash_clock ();
  else if (nbd_get_errno () == ENOSPC) {
    q.end = crash_clock ();
    q.flags |= CRASH_FAILED;
  }
  else if (may_go)
    gone = true;
  else
    die ("request", nbd_get_error ());
  if (fwrite (&q, sizeof q, 1, logfile) != 1)
    die ("log", strerror (errno));
  return !gone;
}

static void *
run (void *opaque)
{
  struct client *c = opaque;
  unsigned i;

  c->nbd = nbd_create ();
  if (c->nbd == NULL || nbd_connect_uri (c->nbd, uri) == -1) {
    if (!may_go)
      die ("connect", nbd_get_error ());
    nbd_close (c->nbd);
    return NULL;
  }
  c->size = nbd_get_size (c->nbd);
  for (i = 0; i < requests; i++)
    if (!one_request (c, i))
      break;
  if (i == requests && nbd_shutdown (c->nbd, 0) == -1 && !may_go)
    die ("shutdown", nbd_get_error ());
  nbd_close (c->nbd);
  return NULL;
}

int
main (int argc, char **argv)
{
  struct client *clients;
  const char *log = NULL;
  unsigned i;
  int o;

  while ((o = getopt (argc, argv, "c:f:i:kn:o:s:")) != -1)
    switch (o) {
    case 'c': connections = atoi (optarg); break;
    case 'f': file = atoi (optarg); break;
    case 'i': first_id = atoi (optarg); break;
    case 'k': may_go = true; break;
    case 'n': requests = atoi (optarg); break;
    case 'o': log = optarg; break;
    case 's': seed = strtoull (optarg, NULL, 0); break;
    default: return 1;
    }
  if (log == NULL || optind + 1 != argc)
    die ("usage", "client-crash [-c CONNECTIONS] [-n REQUESTS of each] "
         "[-f FILE] [-i FIRST-ID] [-s SEED] [-k] -o LOG URI");
  uri = argv[optind];
  logfile = fopen (log, "w");
  clients = calloc (connections, sizeof *clients);
  if (logfile == NULL || clients == NULL)
    die (log, strerror (errno));
  for (i = 0; i < connections; i++) {
    clients[i].number = i;
    clients[i].rng = seed * 1000 + i;
    if (pthread_create (&clients[i].thread, NULL, run, &clients[i]) != 0)
      die ("thread", strerror (errno));
  }
  for (i = 0; i < connections; i++)
    pthread_join (clients[i].thread, NULL);
  free (clients);
  return fclose (logfile) == 0 ? 0 : 1;
}

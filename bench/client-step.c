/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Single requests over NBD, one command a line on standard input:
 *
 *   connect URI         one more connection; the next commands go there
 *   read OFFSET LENGTH  write OFFSET LENGTH
 *   trim OFFSET LENGTH  zero OFFSET LENGTH  flush
 *
 * Each is answered by a line with its microseconds.  At the end of the input
 * all connections are closed. */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libnbd.h>

#define MAX_LENGTH (64u * 1024 * 1024)
#define MAX_CONNECTIONS 100000

static struct nbd_handle *nbds[MAX_CONNECTIONS];
static unsigned nr_nbds;
static unsigned char *buf;

static void __attribute__ ((noreturn))
die (const char *what)
{
  fprintf (stderr, "client-step: %s\n", what);
  exit (EXIT_FAILURE);
}

static uint64_t
now_us (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

static void
make_connection (const char *uri)
{
  struct nbd_handle *nbd = nbd_create ();

  if (nr_nbds == MAX_CONNECTIONS)
    die ("too many connections");
  if (nbd == NULL || nbd_connect_uri (nbd, uri) == -1)
    die (nbd_get_error ());
  nbds[nr_nbds++] = nbd;
}

static void
request (const char *verb, uint64_t offset, uint64_t length)
{
  struct nbd_handle *nbd;
  int r;

  if (nr_nbds == 0)
    die ("not connected");
  nbd = nbds[nr_nbds - 1];
  if (strcmp (verb, "flush") == 0)
    r = nbd_flush (nbd, 0);
  else if (strcmp (verb, "trim") == 0)
    r = nbd_trim (nbd, length, offset, 0);
  else if (strcmp (verb, "zero") == 0)
    r = nbd_zero (nbd, length, offset, 0);
  else if (length > MAX_LENGTH)
    die ("too long");
  else if (strcmp (verb, "read") == 0)
    r = nbd_pread (nbd, buf, length, offset, 0);
  else if (strcmp (verb, "write") == 0)
    r = nbd_pwrite (nbd, buf, length, offset, 0);
  else
    die ("unknown command");
  if (r == -1)
    die (nbd_get_error ());
}

int
main (void)
{
  char line[4096], verb[16], uri[4000];
  uint64_t offset, length, begin;
  size_t i;

  buf = malloc (MAX_LENGTH);
  if (buf == NULL)
    die ("out of memory");
  for (i = 0; i < MAX_LENGTH; i++)
    buf[i] = (unsigned char) (i % 251 + 1);

  while (fgets (line, sizeof line, stdin) != NULL) {
    offset = length = 0;
    begin = now_us ();
    if (sscanf (line, "connect %3999s", uri) == 1)
      make_connection (uri);
    else if (sscanf (line, "%15s %" SCNu64 " %" SCNu64,
                     verb, &offset, &length) >= 1)
      request (verb, offset, length);
    else
      continue;
    printf ("%" PRIu64 "\n", now_us () - begin);
    fflush (stdout);
  }

  for (i = 0; i < nr_nbds; i++) {
    nbd_shutdown (nbds[i], 0);
    nbd_close (nbds[i]);
  }
  free (buf);
  return EXIT_SUCCESS;
}

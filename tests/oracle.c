/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a file may hold after a power cut: see oracle.h. */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oracle.h"
#include "powercut.h"

struct piece {
  uint64_t start;               /* it ends where the next one starts */
  size_t first, count;          /* in the array of covering requests */
};

struct oracle {
  uint32_t file;
  uint64_t size;
  uint8_t *initial;
  const struct crash_record *requests;
  size_t request_count;
  struct piece *pieces;         /* and one more at the end of the file */
  size_t piece_count;
  size_t *covering;             /* numbers of requests */
};

static void *
must_alloc (size_t size)
{
  void *p = calloc (1, size ? size : 1);

  if (p == NULL)
    abort ();
  return p;
}

static bool
changes (const struct oracle *o, const struct crash_record *q)
{
  return q->file == o->file && q->kind != CRASH_FLUSH;
}

static int
compare_starts (const void *a, const void *b)
{
  const struct piece *p = a, *q = b;

  return p->start < q->start ? -1 : p->start > q->start;
}

static void
cut_into_pieces (struct oracle *o)
{
  const size_t sectors = (o->size + SECTOR - 1) / SECTOR;
  size_t i, n = 0, unique = 0;
  struct piece *p = must_alloc ((sectors + 2 * o->request_count + 1) *
                                sizeof *p);

  for (i = 0; i < sectors; i++)
    p[n++].start = i * SECTOR;
  for (i = 0; i < o->request_count; i++)
    if (changes (o, &o->requests[i])) {
      p[n++].start = o->requests[i].offset;
      p[n++].start = o->requests[i].offset + o->requests[i].count;
    }
  p[n++].start = o->size;
  qsort (p, n, sizeof *p, compare_starts);
  for (i = 0; i < n; i++)
    if (unique == 0 || p[i].start != p[unique - 1].start)
      p[unique++] = p[i];
  o->pieces = p;
  o->piece_count = unique - 1;
}

static size_t
piece_at (const struct oracle *o, uint64_t start)
{
  const struct piece key = { .start = start };
  const struct piece *p = bsearch (&key, o->pieces, o->piece_count + 1,
                                   sizeof key, compare_starts);

  if (p == NULL)
    abort ();
  return p - o->pieces;
}

/* Twice over the requests: to count, and to list. */
static void
find_covering (struct oracle *o)
{
  size_t total = 0, i, k;
  bool list;

  for (list = false;; list = true) {
    for (i = 0; i < o->request_count; i++) {
      const struct crash_record *q = &o->requests[i];

      if (!changes (o, q) || q->count == 0)
        continue;
      for (k = piece_at (o, q->offset);
           o->pieces[k].start < q->offset + q->count; k++) {
        struct piece *p = &o->pieces[k];

        if (list)
          o->covering[p->first + p->count] = i;
        p->count++;
        total++;
      }
    }
    if (list)
      return;
    o->covering = must_alloc (total * sizeof *o->covering);
    for (k = 0, total = 0; k < o->piece_count; k++) {
      o->pieces[k].first = total;
      total += o->pieces[k].count;
      o->pieces[k].count = 0;
    }
  }
}

struct oracle *
oracle_new (uint32_t file, const uint8_t *initial, uint64_t size,
            const struct crash_record *requests, size_t count)
{
  struct oracle *o = must_alloc (sizeof *o);

  *o = (struct oracle) {
    .file = file, .size = size, .initial = must_alloc (size),
    .requests = requests, .request_count = count,
  };
  memcpy (o->initial, initial, size);
  cut_into_pieces (o);
  find_covering (o);
  return o;
}

void
oracle_free (struct oracle *o)
{
  free (o->initial);
  free (o->pieces);
  free (o->covering);
  free (o);
}

/* When did the last flush begin that was answered before AT? */
static uint64_t
last_flush (const struct oracle *o, uint64_t at)
{
  uint64_t begin = 0;
  size_t i;

  for (i = 0; i < o->request_count; i++) {
    const struct crash_record *q = &o->requests[i];

    if (q->kind == CRASH_FLUSH && !(q->flags & CRASH_FAILED) &&
        q->end < at && q->begin > begin)
      begin = q->begin;
  }
  return begin;
}

static bool
settled (const struct crash_record *q, uint64_t flushed, uint64_t at)
{
  return !(q->flags & CRASH_FAILED) &&
    (q->end < flushed || ((q->flags & CRASH_FUA) && q->end < at));
}

static void
version (const struct oracle *o, const struct crash_record *q,
         uint64_t offset, uint64_t count, uint8_t *buf)
{
  if (q == NULL)
    memcpy (buf, o->initial + offset, count);
  else if (q->kind == CRASH_WRITE)
    crash_fill (buf, count, offset, o->file, q->id);
  else
    memset (buf, 0, count);
}

/* Does the piece hold Q's version, if it may? */
static bool
holds (const struct oracle *o, const struct crash_record *q,
       const uint8_t *buf, uint64_t offset, uint64_t count)
{
  uint8_t expect[SECTOR];

  version (o, q, offset, count, expect);
  return memcmp (expect, buf + offset, count) == 0;
}

static bool
check_piece (const struct oracle *o, const struct piece *p,
             const uint8_t *buf, uint64_t flushed, uint64_t at)
{
  const uint64_t count = p[1].start - p->start;
  const size_t *covering = o->covering + p->first;
  uint64_t oldest = 0;          /* when the last settled one began */
  size_t i;

  for (i = 0; i < p->count; i++) {
    const struct crash_record *q = &o->requests[covering[i]];

    if (q->begin > oldest && q->kind != CRASH_TRIM &&
        settled (q, flushed, at))
      oldest = q->begin;
  }
  for (i = p->count; i-- > 0; ) {
    const struct crash_record *q = &o->requests[covering[i]];

    if (q->begin < at && q->end >= oldest &&
        holds (o, q, buf, p->start, count))
      return true;
  }
  return oldest == 0 && holds (o, NULL, buf, p->start, count);
}

/* What is there instead: whose version, if anybody's. */
static void
explain (const struct oracle *o, const struct piece *p, const uint8_t *buf,
         uint64_t at, char *why, size_t len)
{
  const uint64_t count = p[1].start - p->start;
  const uint8_t *b = buf + p->start;
  char what[120] = "bytes that nobody wrote there";
  uint64_t i;

  for (i = 0; i < p->count; i++) {
    const struct crash_record *q = &o->requests[o->covering[p->first + i]];

    if (holds (o, q, buf, p->start, count))
      snprintf (what, sizeof what, "request %u of kind %u [%llu, %llu]: %s",
                q->id, q->kind, (unsigned long long) q->begin,
                (unsigned long long) q->end,
                q->begin >= at ? "in the future" : "too old");
  }
  for (i = 0; i < count && b[i] == b[0]; i++)
    ;
  if (i == count)
    snprintf (what, sizeof what, "0x%02x in every byte", b[0]);
  else if (holds (o, NULL, buf, p->start, count))
    snprintf (what, sizeof what, "what was there at first");
  snprintf (why, len, "file %u, %llu bytes at %llu (sector %llu): %s",
            o->file, (unsigned long long) count,
            (unsigned long long) p->start,
            (unsigned long long) p->start / SECTOR, what);
}

bool
oracle_check (const struct oracle *o, const uint8_t *buf, uint64_t at,
              char *why, size_t len)
{
  const uint64_t flushed = last_flush (o, at);
  size_t i;

  for (i = 0; i < o->piece_count; i++)
    if (!check_piece (o, &o->pieces[i], buf, flushed, at)) {
      explain (o, &o->pieces[i], buf, at, why, len);
      return false;
    }
  return true;
}

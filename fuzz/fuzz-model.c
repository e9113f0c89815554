/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Clients at work on a healthy image, on a device that may fail at one call
 * or die at one.
 *
 * What must hold: every byte is what was written last; after the device
 * has died and the journal been replayed, what was flushed is there; after
 * closing without an error, every block has one owner or is free.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz-client.h"
#include "fuzz-walk.h"

/* Only the beginnings of files are looked at. */
#define WINDOW ((uint64_t) 128 << 10)

/* A file's bytes: what must be read now, and after the device has died.
 * A byte is unknown in a view after a request on it has failed, in SAFE
 * also when it was changed since the last flush.
 */
struct view {
  uint8_t data[WINDOW], unknown[WINDOW];
};

struct model {
  bool used;
  uint64_t size;                /* at most WINDOW */
  struct view now, safe;
};

static struct model models[FUZZ_REGULAR];
static uint8_t buffer[FUZZ_BUFFER];

static struct model *
model_of (struct fuzz_client *cl, unsigned n)
{
  struct model *m = &models[n];
  struct inode *inode = cl->files[n];

  if (m->used)
    return m;
  m->size = inode->size < WINDOW ? inode->size : WINDOW;
  /* Nobody has changed it yet. */
  fuzz_allow (cl->c, m->size);
  if (file_read (inode, m->now.data, m->size, 0) != 0)
    return NULL;
  memset (m->now.unknown, 0, m->size);
  m->safe = m->now;
  m->used = true;
  return m;
}

static void
compare (const struct view *v, const uint8_t *p, const struct fuzz_request *q,
         const char *when)
{
  uint64_t i;

  for (i = 0; i < q->count; i++)
    if (!v->unknown[q->offset + i] && p[i] != v->data[q->offset + i])
      fuzz_die ("%s, %s: byte %llu is 0x%02x, not 0x%02x", when,
                fuzz_files[q->file], (unsigned long long) (q->offset + i),
                p[i], v->data[q->offset + i]);
}

/* The range of Q is DATA now, or what that request should have made of it
 * if it failed.
 */
static void
note (struct model *m, const struct fuzz_request *q, errcode_t err,
      uint64_t offset, uint64_t count, uint8_t data)
{
  memset (m->now.data + offset, data, count);
  memset (m->now.unknown + offset, err != 0, count);
  if (!err && (q->flags & FILE_FUA)) {
    memset (m->safe.data + offset, data, count);
    memset (m->safe.unknown + offset, 0, count);
  }
  else
    memset (m->safe.unknown + offset, 1, count);
}

/* A trim is advice: each byte is what it was, or zero.  Which, is asked. */
static void
note_trim (struct fuzz_client *cl, struct model *m,
           const struct fuzz_request *q, errcode_t err)
{
  uint64_t i;

  memset (m->safe.unknown + q->offset, 1, q->count);
  fuzz_allow (cl->c, q->count);
  if (err ||
      file_read (cl->files[q->file], buffer, q->count, q->offset) != 0) {
    memset (m->now.unknown + q->offset, 1, q->count);
    return;
  }
  for (i = 0; i < q->count; i++) {
    if (buffer[i] != 0 && !m->now.unknown[q->offset + i] &&
        buffer[i] != m->now.data[q->offset + i])
      fuzz_die ("trimmed, %s: byte %llu is 0x%02x", fuzz_files[q->file],
                (unsigned long long) (q->offset + i), buffer[i]);
    m->now.data[q->offset + i] = buffer[i];
    m->now.unknown[q->offset + i] = 0;
  }
}

static void
request (struct fuzz_client *cl, const struct fuzz_record *r)
{
  const unsigned n = r->index % FUZZ_FILES;
  struct fuzz_request q;
  struct model *m;
  errcode_t err;

  if (n >= FUZZ_REGULAR || !fuzz_client_file (cl, n) ||
      (m = model_of (cl, n)) == NULL || !fuzz_request (r, m->size, WINDOW, &q))
    return;
  err = fuzz_do (cl, &q, buffer);
  if (err && q.kind != FUZZ_READ && !cl->c->base->dev->failed &&
      err != EXT2_ET_BLOCK_ALLOC_FAIL && err != ENOTSUP)
    fuzz_die ("a request failed with %ld", (long) err);
  if (!cl->files[n]->writable || !cl->fs->writable) {
    if (q.kind != FUZZ_READ)
      return;
  }
  switch (q.kind) {
  case FUZZ_READ:
    if (!err)
      compare (&m->now, buffer, &q, "read");
    break;
  case FUZZ_WRITE:
    note (m, &q, err, q.offset, q.count, q.data);
    break;
  case FUZZ_ZERO:
    if (err != ENOTSUP)
      note (m, &q, err, q.offset, q.count, 0);
    break;
  case FUZZ_TRIM:
    note_trim (cl, m, &q, err);
    break;
  }
}

static void
all_is_safe (void)
{
  unsigned n;

  for (n = 0; n < FUZZ_REGULAR; n++)
    if (models[n].used)
      models[n].safe = models[n].now;
}

static void
flush (struct fuzz_client *cl)
{
  fuzz_allow (cl->c, 0);
  if (cl->fs->writable && filesystem_flush (cl->fs) == 0)
    all_is_safe ();
  if (cl->fs->writable)
    syncer_drain (cl->fs);
}

/* What is read of every file is in V, as far as that is known. */
static void
check_all (struct fuzz_client *cl, bool safe, const char *when)
{
  unsigned n;

  for (n = 0; n < FUZZ_REGULAR; n++) {
    struct fuzz_request q = { .file = n, .count = models[n].size };
    struct inode *inode;

    if (!models[n].used || !(inode = fuzz_client_file (cl, n)))
      continue;
    fuzz_allow (cl->c, q.count);
    if (file_read (inode, buffer, q.count, 0) == 0)
      compare (safe ? &models[n].safe : &models[n].now, buffer, &q, when);
    else if (!cl->c->base->dev->failed)
      fuzz_die ("%s: %s cannot be read", when, fuzz_files[n]);
  }
}

static void
run_all (struct fuzz_client *cl)
{
  unsigned i;

  for (i = 0; i < cl->c->count && cl->fs; i++) {
    const struct fuzz_record *r = &cl->c->records[i];

    switch (r->kind) {
    case FUZZ_FLUSH:
      flush (cl);
      break;
    case FUZZ_REOPEN:
      if (cl->c->base->dev->failed)
        break;
      if (fuzz_client_close (cl) == 0)
        all_is_safe ();
      fuzz_client_open (cl, cl->c);
      break;
    default:
      request (cl, r);
    }
  }
}

static void
run (struct fuzz_case *c)
{
  struct fuzz_client cl = { 0 };
  struct fuzz_device *d = c->base->dev;
  bool closed;
  unsigned i;

  for (i = 0; i < c->count; i++)
    if (c->records[i].kind < FUZZ_READ)
      c->records[i].kind = 0;
  c->flags &= ~(FUZZ_DIRTY | FUZZ_NO_SUMS);
  for (i = 0; i < FUZZ_REGULAR; i++)
    models[i].used = false;
  fuzz_case_damage (c);
  fuzz_device_fault (d, c->fault, c->fault_at);
  if (fuzz_client_open (&cl, c) != 0) {
    if (!d->failed)
      fuzz_die ("a healthy image is refused");
    return;
  }
  run_all (&cl);
  if (cl.fs)
    check_all (&cl, false, "at the end");
  closed = cl.fs && fuzz_client_close (&cl) == 0;
  if (closed && !d->failed)
    fuzz_check_consistent (c->base);
  d->fault = FUZZ_FAULT_NONE;
  if (fuzz_client_open (&cl, c) == 0)
    check_all (&cl, !closed, "opened again");
  else if (closed && !d->failed)
    fuzz_die ("what was closed is refused");
  fuzz_client_close (&cl);
}

static const uint8_t bases[] = {
  0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 14, 255
};
static const uint8_t kinds[] = {
  FUZZ_READ, FUZZ_WRITE, FUZZ_WRITE, FUZZ_WRITE, FUZZ_WRITE, FUZZ_ZERO,
  FUZZ_ZERO, FUZZ_TRIM, FUZZ_TRIM, FUZZ_TRIM, FUZZ_STATUS, FUZZ_FLUSH,
  FUZZ_FLUSH, FUZZ_CLOSE, FUZZ_REOPEN, 255
};
static const uint8_t classes[] = { FUZZ_DATA, 255 };

const struct fuzz_harness fuzz_harness = {
  "model", run, bases, kinds, classes
};

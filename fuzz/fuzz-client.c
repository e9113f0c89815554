/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What clients do: see fuzz-client.h. */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "fuzz-client.h"
#include "path.h"

static uint8_t buffer[FUZZ_BUFFER];

/* Whatever is asked for, and however damaged the image is: looking at
 * every block several times is as much as can be explained.
 */
void
fuzz_allow (struct fuzz_case *c, uint64_t count)
{
  const uint64_t blocks = c->base->blocks;

  fuzz_device_allow (c->base->dev, 4 * blocks + 2000,
                     8 * c->base->size + 4 * count
                     + 2000 * (uint64_t) c->base->block_size);
}

errcode_t
fuzz_client_open (struct fuzz_client *cl, struct fuzz_case *c)
{
  errcode_t err;

  cl->c = c;
  fuzz_allow (c, 0);
  fuzz_allow (c, 0);
  err = fuzz_case_open (c, c->flags & FUZZ_READONLY, &cl->fs);
  if (err)
    cl->fs = NULL;
  return err;
}

static void
close_file (struct fuzz_client *cl, unsigned n)
{
  if (cl->files[n])
    iput (cl->files[n]);
  cl->files[n] = NULL;
}

errcode_t
fuzz_client_close (struct fuzz_client *cl)
{
  unsigned n;
  errcode_t err;

  if (cl->fs == NULL)
    return 0;
  fuzz_allow (cl->c, 0);
  for (n = 0; n < FUZZ_FILES; n++)
    close_file (cl, n);
  err = filesystem_close (cl->fs);
  cl->fs = NULL;
  return err;
}

struct inode *
fuzz_client_file (struct fuzz_client *cl, unsigned n)
{
  ext2_ino_t ino;

  if (cl->fs == NULL)
    return NULL;
  if (cl->files[n] == NULL) {
    fuzz_allow (cl->c, 0);
    if (path_resolve (cl->fs, fuzz_files[n], &ino) != 0 ||
        iget (cl->fs, ino, fuzz_files[n], &cl->files[n]) != 0)
      cl->files[n] = NULL;
  }
  return cl->files[n];
}

bool
fuzz_request (const struct fuzz_record *r, uint64_t size, uint64_t window,
              struct fuzz_request *q)
{
  const bool data = r->kind == FUZZ_READ || r->kind == FUZZ_WRITE;

  if (r->kind < FUZZ_READ || r->kind > FUZZ_CACHE)
    return false;
  if (size > window)
    size = window;
  q->kind = r->kind;
  q->file = r->index % FUZZ_FILES;
  q->flags = r->class & (FILE_FUA | FILE_MAY_TRIM | FILE_FAST);
  if (r->kind != FUZZ_ZERO)
    q->flags &= FILE_FUA;
  q->data = r->value >> 24;
  q->offset = r->at | r->value >> 32 << 32;
  if (size == 0)
    return false;
  q->offset %= size;
  q->count = r->value & 0xffffff;
  if ((r->class & 128) && !data)
    q->count <<= 16;
  if (data && q->count > FUZZ_BUFFER)
    q->count %= FUZZ_BUFFER;
  if (q->count > size - q->offset)
    q->count = size - q->offset;
  return true;
}

/* The pieces come in order and fill the range. */
struct status {
  uint64_t at;
  unsigned left;
};

static int
check_piece (void *opaque, uint64_t offset, uint64_t count,
             enum map_state state)
{
  struct status *s = opaque;

  if (count == 0 || offset != s->at || state > MAP_WRITTEN)
    fuzz_die ("status: a piece of %llu at %llu, not at %llu",
              (unsigned long long) count, (unsigned long long) offset,
              (unsigned long long) s->at);
  s->at = offset + count;
  return s->left-- == 0;
}

static errcode_t
status (struct inode *inode, uint64_t count, uint64_t offset)
{
  struct status s = { offset, 2000 };
  errcode_t err = file_status (inode, count, offset, check_piece, &s);

  if (!err && s.left != UINT32_MAX && s.at != offset + count)
    fuzz_die ("status: ends at %llu, not at %llu",
              (unsigned long long) s.at,
              (unsigned long long) (offset + count));
  return err;
}

static void
note_change (struct fuzz_client *cl, uint32_t ino)
{
  unsigned i;

  for (i = 0; i < FUZZ_FILES && cl->changed[i]; i++)
    if (cl->changed[i] == ino)
      return;
  if (i == FUZZ_FILES)
    fuzz_die ("more files than names");
  cl->changed[i] = ino;
}

errcode_t
fuzz_do (struct fuzz_client *cl, const struct fuzz_request *q, uint8_t *buf)
{
  struct inode *inode = cl->files[q->file];
  errcode_t err = 0;

  fuzz_allow (cl->c, q->count);
  switch (q->kind) {
  case FUZZ_READ:
    return file_read (inode, buf, q->count, q->offset);
  case FUZZ_STATUS:
    return status (inode, q->count, q->offset);
  case FUZZ_CACHE:
    return file_cache (inode, q->count, q->offset);
  }
  if (!inode->writable || !cl->fs->writable)
    return 0;
  note_change (cl, inode->ino);
  switch (q->kind) {
  case FUZZ_WRITE:
    memset (buf, q->data, q->count);
    err = file_write (inode, buf, q->count, q->offset, q->flags);
    break;
  case FUZZ_ZERO:
    err = file_zero (inode, q->count, q->offset, q->flags);
    break;
  case FUZZ_TRIM:
    err = file_trim (inode, q->count, q->offset, q->flags);
    break;
  }
  syncer_drain (cl->fs);
  return err;
}

errcode_t
fuzz_lookup (struct fuzz_client *cl, const struct fuzz_record *r)
{
  static const char *const parts[] = {
    "/", "dir", "sub", "..", ".", "link", "loop1", "long", "many", "deep",
    "lost+found", "file", "nothing",
    "0-nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", "%s",
    "\xff",
  };
  char path[1024] = "";
  ext2_ino_t ino;
  unsigned i;

  for (i = 0; i < 16; i++) {
    strcat (path, parts[r->value >> 4 * i & 15]);
    if (r->at >> i & 1)
      strcat (path, "/");
    if (r->index == i)
      break;
  }
  fuzz_allow (cl->c, 0);
  return path_resolve (cl->fs, path, &ino);
}

static void
run_one (struct fuzz_client *cl, const struct fuzz_record *r)
{
  struct fuzz_case *c = cl->c;
  struct fuzz_request q;
  struct inode *inode;

  switch (r->kind) {
  case FUZZ_FLUSH:
    fuzz_allow (c, 0);
    if (cl->fs->writable) {
      filesystem_flush (cl->fs);
      syncer_drain (cl->fs);
    }
    break;
  case FUZZ_CLOSE:
    fuzz_allow (c, 0);
    close_file (cl, r->index % FUZZ_FILES);
    break;
  case FUZZ_REOPEN:
    fuzz_client_close (cl);
    fuzz_client_open (cl, c);
    break;
  case FUZZ_LOOKUP:
    fuzz_lookup (cl, r);
    break;
  default:
    if (r->kind < FUZZ_READ || r->kind > FUZZ_CACHE)
      break;
    inode = fuzz_client_file (cl, r->index % FUZZ_FILES);
    if (inode && fuzz_request (r, inode->size, UINT64_MAX, &q))
      fuzz_do (cl, &q, buffer);
  }
}

void
fuzz_client_run (struct fuzz_client *cl)
{
  unsigned i;

  for (i = 0; i < cl->c->count && cl->fs; i++)
    run_one (cl, &cl->c->records[i]);
}

static uint64_t
hash (uint64_t h, const uint8_t *p, size_t n)
{
  uint64_t word;

  for (; n >= sizeof word; p += sizeof word, n -= sizeof word) {
    memcpy (&word, p, sizeof word);
    h = (h ^ word) * UINT64_C (0x9e3779b97f4a7c15);
    h ^= h >> 29;
  }
  for (; n > 0; n--)
    h = (h ^ *p++) * UINT64_C (1099511628211);
  return h;
}

#define READ_ALL ((uint64_t) 32 << 10)

uint64_t
fuzz_client_read_all (struct fuzz_client *cl)
{
  uint64_t h = UINT64_C (14695981039346656037), n;
  struct inode *inode;
  unsigned i;

  for (i = 0; i < FUZZ_FILES; i++) {
    inode = fuzz_client_file (cl, i);
    if (inode == NULL) {
      h = hash (h, (const uint8_t *) "?", 1);
      continue;
    }
    n = inode->size < READ_ALL ? inode->size : READ_ALL;
    fuzz_allow (cl->c, n);
    if (file_read (inode, buffer, n, 0) != 0)
      h = hash (h, (const uint8_t *) "!", 1);
    else
      h = hash (h, buffer, n);
    fuzz_allow (cl->c, n);
    status (inode, inode->size, 0);
  }
  return h;
}

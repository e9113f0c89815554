/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The load of the crash harness, and its images: see crash.h. */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"
#include "image.h"

/* The one place that says which images are tried, and what is expected
 * of each.
 */
#define JOURNALED CRASH_JOURNALED

#define KIB(n) (UINT64_C (n) << 10)

const struct crash_config crash_configs[] = {
  { "ext4-1k", "-t ext4 -b 1024 -J size=1 -m 0 -N 32",
    KIB (3700), KIB (1500), 600, 60, JOURNALED },
  { "ext4-4k", "-t ext4 -b 4096 -m 0 -N 32",
    KIB (8192), KIB (2200), 600, 60, JOURNALED },
  { "ext4-csum", "-t ext4 -b 4096 -O 64bit,metadata_csum -m 0 -N 32",
    KIB (8192), KIB (2200), 600, 60, JOURNALED },
  { "ext4-nocsum", "-t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=1 -m 0 "
    "-N 32", KIB (3700), KIB (1500), 600, 60, JOURNALED },
  { "ext3-1k", "-t ext3 -b 1024 -J size=1 -m 0 -N 32",
    KIB (3700), KIB (1500), 600, 60, JOURNALED },
  /* The same journal, used so long that it wraps several times. */
  { "ext4-wrap", "-t ext4 -b 1024 -J size=1 -m 0 -N 32",
    KIB (3700), KIB (1500), 3000, 60, JOURNALED },
  { "ext2-1k", "-t ext2 -b 1024 -m 0 -N 32",
    KIB (2700), KIB (1500), 600, 60, CRASH_REPAIR },
  { "ext4-nojournal", "-t ext4 -b 1024 -O ^has_journal -m 0 -N 32",
    KIB (2700), KIB (1500), 600, 60, CRASH_REPAIR },
  { .name = NULL },
};

const struct crash_config *
crash_find_config (const char *name)
{
  const struct crash_config *c;

  for (c = crash_configs; c->name; c++)
    if (strcmp (c->name, name) == 0)
      return c;
  return NULL;
}

const char *const crash_files[CRASH_FILES] = { "hole", "full", "base" };

/* Free blocks hold what no file ever does. */
static void
fill_free_blocks (struct memdev *md)
{
  char path[64];
  ext2_filsys e2;
  blk64_t blk;

  must (ext2fs_open (memdev_path (md, path, sizeof path), 0, 0, 0,
                     unix_io_manager, &e2) == 0);
  must (ext2fs_read_block_bitmap (e2) == 0);
  for (blk = e2->super->s_first_data_block;
       blk < ext2fs_blocks_count (e2->super); blk++)
    if (!ext2fs_test_block_bitmap2 (e2->block_map, blk))
      memset (md->mem + blk * e2->blocksize, 0x5a, e2->blocksize);
  ext2fs_close_free (&e2);
}

struct memdev *
crash_image (const struct crash_config *c)
{
  const struct image_file files[] = {
    { crash_files[0], c->file_size, false },
    { crash_files[1], c->file_size, true },
    { crash_files[2], KIB (256), true },
    { NULL },
  };
  struct memdev *md = image_make (c->args, c->size, files);

  fill_free_blocks (md);
  image_assert_clean (md);
  return md;
}

/* The load. */

#define LOADED 2                /* files that are written to */
#define LONGEST 40000           /* bytes: of a request */

struct load {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *inode[LOADED];
  struct crash_record *requests;
  unsigned count;
  _Atomic unsigned next;
};

struct worker {
  pthread_t thread;
  struct load *load;
  struct rng rng;
  unsigned step;                /* of a script; 0 = none */
  uint64_t window;              /* bytes: where it plays */
  uint32_t file;
};

/* Aligned to blocks, to sectors, or not at all; half of them where
 * others have just been, so that versions follow each other.
 */
static void
choose_range (struct rng *rng, unsigned i, uint64_t size,
              struct crash_record *q)
{
  static const unsigned grains[] = { 4096, 1024, SECTOR, 1 };
  const uint64_t grain = grains[rng_below (rng, 4)];
  uint64_t most = rng_below (rng, 4) ? 5000 : LONGEST;
  uint64_t at = rng_below (rng, size);

  if (rng_below (rng, 2))       /* a window that moves slowly */
    at = (i / 30 * 70001 + rng_below (rng, 60000)) % size;
  q->offset = at / grain * grain;
  q->count = (1 + rng_below (rng, most)) / grain * grain;
  if (q->count == 0)
    q->count = grain;
  /* Tables and leaves become empty only if much goes at once: their
   * blocks are freed, and soon hold data.
   */
  if (q->kind != CRASH_WRITE && rng_below (rng, 6) == 0)
    q->count = size / 2;
  if (q->count > size - q->offset)
    q->count = size - q->offset;
}

/* A script, a request at a time: scattered blocks, so that tree blocks are
 * needed; all of them given up, with the tree blocks; and data in their
 * place.  What the log has of the tree blocks must not come back.
 */
#define WINDOW KIB (256)        /* a whole table of pointers to 1k blocks */

static bool
scripted (struct worker *w, struct crash_record *q)
{
  const uint64_t size = w->load->inode[0]->size;

  if (w->step == 0) {
    if (rng_below (&w->rng, 120) != 0)
      return false;
    w->file = rng_below (&w->rng, LOADED);
    w->window = KIB (12) + rng_below (&w->rng, size / WINDOW - 1) * WINDOW;
  }
  q->file = w->file;
  q->kind = CRASH_WRITE;
  if (w->step < 64) {
    q->offset = w->window + w->step * KIB (4);
    q->count = KIB (1);
  }
  else if (w->step == 65) {
    q->kind = CRASH_TRIM;
    q->offset = w->window;
    q->count = WINDOW;
  }
  else if (w->step >= 67 && w->step < 75) {
    q->offset = w->window + (w->step - 67) * KIB (32);
    q->count = KIB (32);
  }
  else
    q->kind = CRASH_FLUSH;
  w->step = w->step == 75 ? 0 : w->step + 1;
  return true;
}

static errcode_t
carry_out (struct load *l, struct rng *rng, struct crash_record *q)
{
  struct inode *inode = l->inode[q->file];
  unsigned flags = q->flags & CRASH_FUA ? FILE_FUA : 0;
  uint8_t *data;
  errcode_t err;

  switch (q->kind) {
  case CRASH_WRITE:
    data = malloc (q->count);
    must (data != NULL);
    crash_fill (data, q->count, q->offset, q->file, q->id);
    err = file_write (inode, data, q->count, q->offset, flags);
    free (data);
    return err;
  case CRASH_ZERO:
    if (rng_below (rng, 2))
      flags |= FILE_MAY_TRIM;
    return file_zero (inode, q->count, q->offset, flags);
  case CRASH_TRIM:
    return file_trim (inode, q->count, q->offset, flags);
  default:
    return filesystem_flush (l->fs);
  }
}

static void
one_request (struct worker *w, unsigned i)
{
  static const enum crash_kind kinds[] = {
    CRASH_WRITE, CRASH_WRITE, CRASH_WRITE, CRASH_WRITE, CRASH_WRITE,
    CRASH_WRITE, CRASH_ZERO, CRASH_ZERO, CRASH_TRIM, CRASH_TRIM,
  };
  struct load *l = w->load;
  struct crash_record *q = &l->requests[i];
  errcode_t err;

  *q = (struct crash_record) {
    .kind = kinds[rng_below (&w->rng, 10)], .id = i + 1,
    .file = rng_below (&w->rng, LOADED), .end = UINT64_MAX,
  };
  if (scripted (w, q))
    ;
  else if (rng_below (&w->rng, 12) == 0)
    q->kind = CRASH_FLUSH;
  else {
    choose_range (&w->rng, i, l->inode[q->file]->size, q);
    if (rng_below (&w->rng, 7) == 0)
      q->flags = CRASH_FUA;
  }
  q->begin = memdev_stamp (l->md);
  err = carry_out (l, &w->rng, q);
  must (err == 0 || err == EXT2_ET_BLOCK_ALLOC_FAIL);
  if (err)
    q->flags |= CRASH_FAILED;
  q->end = memdev_stamp (l->md);
}

static void *
work (void *opaque)
{
  struct worker *w = opaque;
  unsigned i;

  while ((i = atomic_fetch_add (&w->load->next, 1)) < w->load->count)
    one_request (w, i);
  return NULL;
}

static void
run_threads (struct load *l, unsigned threads, uint64_t seed)
{
  struct worker *w = calloc (threads, sizeof *w);
  unsigned i;

  must (w != NULL);
  for (i = 0; i < threads; i++) {
    w[i].load = l;
    w[i].rng.state = seed * 1000 + i;
    must (pthread_create (&w[i].thread, NULL, work, &w[i]) == 0);
  }
  for (i = 0; i < threads; i++)
    pthread_join (w[i].thread, NULL);
  free (w);
}

/* The log moves from MD to H. */
static void
take_log (struct memdev *md, struct crash_history *h)
{
  memdev_log_stop (md);
  h->base = md->log_base;
  h->size = md->dev.size;
  h->log = md->log;
  h->log_count = md->log_count;
  md->log_base = NULL;
  md->log = NULL;
  md->log_count = md->log_size = 0;
}

void
crash_load (struct memdev *md, unsigned count, unsigned threads,
            uint64_t seed, struct crash_history *h)
{
  struct load l = { .md = md, .count = count };
  struct crash_record *closing;
  unsigned i;

  l.requests = calloc (count + 1, sizeof *l.requests);
  must (l.requests != NULL);
  md->delay_us = threads > 1 ? 40 : 0;
  md->overlaps = true;
  memdev_log_start (md);
  l.fs = image_open (md);
  must (l.fs->writable);
  for (i = 0; i < LOADED; i++)
    l.inode[i] = image_iget (l.fs, crash_files[i]);
  run_threads (&l, threads, seed);
  for (i = 0; i < LOADED; i++)
    iput (l.inode[i]);

  /* Closing is a flush too. */
  closing = &l.requests[count];
  *closing = (struct crash_record) {
    .kind = CRASH_FLUSH, .id = count + 1, .begin = memdev_stamp (md),
  };
  must (filesystem_close (l.fs) == 0);
  closing->end = memdev_stamp (md);
  h->requests = l.requests;
  h->request_count = count + 1;
  take_log (md, h);
}

void
crash_history_free (struct crash_history *h)
{
  size_t i;

  for (i = 0; i < h->log_count; i++)
    free (h->log[i].data);
  free (h->log);
  free (h->base);
  free (h->requests);
  memset (h, 0, sizeof *h);
}

/* As files. */

static void __attribute__ ((__noreturn__))
die (const char *what, const char *name)
{
  fprintf (stderr, "%s %s: %s\n", what, name, strerror (errno));
  exit (1);
}

static FILE *
open_file (const char *name, const char *suffix, const char *mode)
{
  char path[1024];
  FILE *f;

  snprintf (path, sizeof path, "%s%s", name, suffix);
  f = fopen (path, mode);
  if (f == NULL)
    die ("cannot open", path);
  return f;
}

static enum crash_kind
kind_of_call (enum memdev_call call)
{
  return call == MEMDEV_WRITE ? CRASH_DEV_WRITE
    : call == MEMDEV_ZERO ? CRASH_DEV_ZERO
    : call == MEMDEV_TRIM ? CRASH_DEV_TRIM : CRASH_DEV_FLUSH;
}

void
crash_save (const struct crash_history *h, const char *prefix)
{
  FILE *f = open_file (prefix, ".img", "w");
  size_t i;

  fwrite (h->base, 1, h->size, f);
  if (fclose (f) != 0)
    die ("cannot write", prefix);
  f = open_file (prefix, ".log", "w");
  for (i = 0; i < h->log_count; i++) {
    const struct memdev_entry *e = &h->log[i];
    const struct crash_record r = {
      .kind = kind_of_call (e->call), .begin = e->begin, .end = e->end,
      .flags = e->flags & DEVICE_FUA ? CRASH_FUA : 0,
      .offset = e->offset, .count = e->count,
    };

    fwrite (&r, sizeof r, 1, f);
    if (r.kind == CRASH_DEV_WRITE)
      fwrite (e->data, 1, r.count, f);
  }
  fwrite (h->requests, sizeof *h->requests, h->request_count, f);
  if (fclose (f) != 0)
    die ("cannot write", prefix);
}

static void
add_entry (struct crash_history *h, const struct crash_record *r,
           uint8_t *data)
{
  static const enum memdev_call calls[] = {
    [CRASH_DEV_WRITE] = MEMDEV_WRITE, [CRASH_DEV_ZERO] = MEMDEV_ZERO,
    [CRASH_DEV_TRIM] = MEMDEV_TRIM, [CRASH_DEV_FLUSH] = MEMDEV_FLUSH,
  };

  if (r->offset > h->size || r->count > h->size - r->offset) {
    fprintf (stderr, "the log has a write outside the image\n");
    exit (1);
  }
  if (h->log_count % 1024 == 0) {
    h->log = realloc (h->log, (h->log_count + 1024) * sizeof *h->log);
    must (h->log != NULL);
  }
  h->log[h->log_count++] = (struct memdev_entry) {
    .call = calls[r->kind], .offset = r->offset, .count = r->count,
    .flags = r->flags & CRASH_FUA ? DEVICE_FUA : 0, .data = data,
    .begin = r->begin, .end = r->end,
  };
}

static void
add_request (struct crash_history *h, const struct crash_record *r)
{
  if (h->request_count % 1024 == 0) {
    h->requests = realloc (h->requests,
                           (h->request_count + 1024) * sizeof *h->requests);
    must (h->requests != NULL);
  }
  h->requests[h->request_count++] = *r;
}

static void
read_log (struct crash_history *h, const char *name)
{
  FILE *f = open_file (name, "", "r");
  struct crash_record r;
  uint8_t *data;

  while (fread (&r, sizeof r, 1, f) == 1) {
    if (r.kind < CRASH_DEV_WRITE || r.kind > CRASH_FLUSH)
      die ("no log", name);
    if (r.kind >= CRASH_WRITE) {
      add_request (h, &r);
      continue;
    }
    data = NULL;
    if (r.kind == CRASH_DEV_WRITE) {
      data = malloc (r.count);
      must (data != NULL);
      if (fread (data, 1, r.count, f) != r.count) {
        free (data);            /* the writer was killed */
        break;
      }
    }
    add_entry (h, &r, data);
  }
  fclose (f);
}

static int
compare_entries (const void *a, const void *b)
{
  const struct memdev_entry *p = a, *q = b;

  return p->begin < q->begin ? -1 : p->begin > q->begin;
}

static int
compare_requests (const void *a, const void *b)
{
  const struct crash_record *p = a, *q = b;

  return p->begin < q->begin ? -1 : p->begin > q->begin;
}

void
crash_read (const char *image, char *const *logs, struct crash_history *h)
{
  FILE *f = open_file (image, "", "r");
  long size;

  memset (h, 0, sizeof *h);
  if (fseek (f, 0, SEEK_END) != 0 || (size = ftell (f)) <= 0)
    die ("cannot read", image);
  rewind (f);
  h->size = size;
  h->base = malloc (h->size);
  must (h->base != NULL);
  if (fread (h->base, 1, h->size, f) != h->size)
    die ("cannot read", image);
  fclose (f);
  while (*logs)
    read_log (h, *logs++);
  if (h->log_count)
    qsort (h->log, h->log_count, sizeof *h->log, compare_entries);
  if (h->request_count)
    qsort (h->requests, h->request_count, sizeof *h->requests,
           compare_requests);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Serves an image, and judges what has become of it: see damage.h. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "damage.h"
#include "jbd2.h"
#include "path.h"

/* What one case may take: calls of the device, and memory beyond what a
 * healthy image took before.
 */
#define MOST_CALLS 20000
#define MOST_MEMORY (48 << 10)          /* KiB */

/* Bytes read of a file, pieces asked for of its map. */
#define READ_SIZE (256 << 10)
#define PIECES 3000

static uint8_t buffer[READ_SIZE];

/* The requests. */

static int
count_piece (void *opaque, uint64_t offset, uint64_t count,
             enum map_state state)
{
  unsigned *left = opaque;

  (void) offset;
  (void) state;
  must (count > 0);
  return (*left)-- == 0;
}

/* The beginning, and where its size says that its end is. */
static void
read_file (struct inode *inode)
{
  uint64_t n = inode->size < READ_SIZE ? inode->size : READ_SIZE;
  unsigned left = PIECES;

  file_read (inode, buffer, n, 0);
  if (inode->size > n)
    file_read (inode, buffer, 2000 < n ? 2000 : n,
               inode->size - (2000 < n ? 2000 : n));
  file_status (inode, inode->size, 0, count_piece, &left);
}

/* A range within the first megabyte. */
static uint64_t
some_range (const struct inode *inode, struct rng *rng, uint64_t *offset)
{
  const uint64_t within = inode->size < (1 << 20) ? inode->size : 1 << 20;
  uint64_t count = 1 + rng_below (rng, rng_below (rng, 2) ? 3000 : 40000);

  *offset = rng_below (rng, within);
  if (rng_below (rng, 2))
    *offset &= ~UINT64_C (1023);
  return count < within - *offset ? count : within - *offset;
}

static void
change_file (struct inode *inode, struct rng *rng)
{
  uint64_t count, offset;
  unsigned i;

  if (inode->size == 0)
    return;
  rng_fill (rng, buffer, 40000);
  for (i = 0; i < 8; i++) {
    count = some_range (inode, rng, &offset);
    switch (i) {
    case 0: case 3: case 5:
      file_write (inode, buffer, count, offset, 0);
      break;
    case 1:
      file_zero (inode, count, offset, 0);
      break;
    case 2: case 7:
      file_trim (inode, count, offset, 0);
      break;
    case 4:
      file_zero (inode, count, offset, FILE_MAY_TRIM);
      break;
    case 6:
      file_write (inode, buffer, count, offset, FILE_FUA);
      break;
    }
  }
  if (rng_below (rng, 2))
    file_trim (inode, inode->size, 0, 0);
}

static struct inode *
get (struct filesystem *fs, const char *path)
{
  struct inode *inode;
  ext2_ino_t ino;

  if (path_resolve (fs, path, &ino) != 0 ||
      iget (fs, ino, path, &inode) != 0)
    return NULL;
  return inode;
}

/* Files in use: those of our own images by path, or with SCAN the first of
 * all regular ones.
 */
#define MOST_FILES 16
#define MOST_INODES 3000

struct files {
  struct inode *inode[MOST_FILES];
  bool target[MOST_FILES];
  unsigned count;
};

static void
get_files (struct filesystem *fs, bool scan, struct files *f)
{
  const uint32_t inodes = fs->e2->super->s_inodes_count;
  struct inode *inode;
  uint32_t ino;
  unsigned i;

  f->count = 0;
  for (i = 0; !scan && i < FILES; i++)
    if ((inode = get (fs, damage_files[i]))) {
      f->target[f->count] = i < TARGETS;
      f->inode[f->count++] = inode;
    }
  for (ino = 1; scan && ino <= inodes && ino <= MOST_INODES &&
         f->count < MOST_FILES; ino++)
    if (iget (fs, ino, "by its number", &inode) == 0) {
      f->target[f->count] = f->count % 3 != 2;
      f->inode[f->count++] = inode;
    }
}

/* TARGETS gets the numbers of the files written to, and a 0. */
static void
use_files (struct filesystem *fs, bool scan, bool change, struct rng *rng,
           ext2_ino_t *targets)
{
  struct files f;
  unsigned i, n = 0;

  get_files (fs, scan, &f);
  for (i = 0; i < f.count; i++)
    read_file (f.inode[i]);
  for (i = 0; i < f.count && change; i++)
    if (f.target[i]) {
      targets[n++] = f.inode[i]->ino;
      change_file (f.inode[i], rng);
      filesystem_flush (fs);
    }
  targets[n] = 0;
  for (i = 0; i < f.count; i++)
    iput (f.inode[i]);
}

/* Limits. */

static long
peak_memory (void)
{
  FILE *f = fopen ("/proc/self/status", "r");
  char line[200];
  long kib = 0;

  while (f && fgets (line, sizeof line, f))
    if (sscanf (line, "VmHWM: %ld", &kib) == 1)
      break;
  if (f)
    fclose (f);
  return kib;
}

static void
forget_peak (void)
{
  int fd = open ("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

  if (fd == -1)
    return;
  if (write (fd, "5", 1) != 1)
    perror ("/proc/self/clear_refs");
  close (fd);
}

struct limits {
  uint64_t calls;
  long memory;
};

static void
limits_start (struct limits *l, struct memdev *md)
{
  static long usual;            /* of the first, a healthy image */

  if (usual == 0) {
    forget_peak ();
    usual = peak_memory ();
  }
  l->calls = memdev_count (md, MEMDEV_ALL);
  l->memory = usual;
}

static bool
limits_kept (struct limits *l, struct memdev *md, struct damage_stats *stats,
             char *why, size_t len)
{
  const uint64_t calls = memdev_count (md, MEMDEV_ALL) - l->calls;
  /* Sanitizers keep what is freed. */
  const bool sanitizer = getenv ("EXT2_SANITIZER") != NULL;
  const long memory = sanitizer ? 0 : peak_memory () - l->memory;

  if (calls > stats->most_calls)
    stats->most_calls = calls;
  if (memory > (long) stats->most_memory)
    stats->most_memory = memory;
  if (calls > MOST_CALLS)
    snprintf (why, len, "%llu calls of the device",
              (unsigned long long) calls);
  else if (memory > MOST_MEMORY) {
    snprintf (why, len, "%ld KiB of memory", memory);
    forget_peak ();
  }
  else
    return true;
  return false;
}

/* Read-only. */

static struct filesystem_options
options (bool readonly)
{
  return (struct filesystem_options) {
    .readonly = readonly, .mmp_second_ms = 1,
  };
}

/* A copy of its bytes; a device is only made of them where a program is to
 * see them.
 */
static uint8_t *
bytes_of (const struct memdev *md)
{
  uint8_t *p = malloc (md->dev.size);

  must (p != NULL);
  memcpy (p, md->mem, md->dev.size);
  return p;
}

static struct memdev *
device_of (const uint8_t *bytes, uint64_t size)
{
  struct memdev *md = memdev_new (size);

  memcpy (md->mem, bytes, size);
  return md;
}

static bool
judge_readonly (struct memdev *md, const uint8_t *before, bool scan,
                struct rng *rng, struct damage_stats *stats, char *why,
                size_t len)
{
  const struct filesystem_options opts = options (true);
  const uint64_t changes = memdev_count (md, MEMDEV_CHANGES);
  ext2_ino_t targets[MOST_FILES + 1];
  struct filesystem *fs;

  if (filesystem_open (&md->dev, &opts, &fs) != 0)
    stats->refused_readonly++;
  else {
    use_files (fs, scan, false, rng, targets);
    filesystem_close (fs);
  }
  if (memcmp (before, md->mem, md->dev.size) == 0 &&
      memdev_count (md, MEMDEV_CHANGES) == changes)
    return true;
  snprintf (why, len, "changed although read-only");
  return false;
}

/* Writable. */

static const struct ext2_super_block *
super_of (const uint8_t *image)
{
  return (const struct ext2_super_block *) (image + 1024);
}

static bool
has_journal_to_replay (const uint8_t *image, uint64_t size)
{
  return size >= 2048 && (super_of (image)->s_feature_incompat &
                          EXT3_FEATURE_INCOMPAT_RECOVER);
}

/* Has the journal's superblock, wherever it is, an error to hand on? */
static bool
journal_has_error (const uint8_t *image, uint64_t size)
{
  uint64_t at;
  struct jbd2_super js;

  for (at = 0; at + sizeof js <= size; at += sizeof js) {
    memcpy (&js, image + at, sizeof js);
    if (ext2fs_be32_to_cpu (js.h.magic) == JBD2_MAGIC && js.error != 0 &&
        (ext2fs_be32_to_cpu (js.h.type) == JBD2_SUPER_V1 ||
         ext2fs_be32_to_cpu (js.h.type) == JBD2_SUPER_V2))
      return true;
  }
  return false;
}

/* e2fsck -fn of an image whose journal is replayed first, if e2fsck does
 * that.
 */
static void
fsck_image (const uint8_t *image, struct memdev *md, struct fsck_report *r)
{
  const uint64_t size = md->dev.size;
  struct memdev *copy = md;

  if (image != md->mem || has_journal_to_replay (image, size))
    copy = device_of (image, size);
  if (has_journal_to_replay (image, size)) {
    fsck_run (copy, "journal_only", r);
    fsck_free (r);
  }
  fsck_run (copy, NULL, r);
  if (copy != md)
    memdev_free (copy);
}

/* C is of BEFORE. */
static bool
judge_fsck (const uint8_t *before, const struct census *c,
            struct memdev *after, char *why, size_t len)
{
  const struct fsck_ignore ignore = {
    .leaks = super_of (after->mem)->s_state & EXT2_ERROR_FS,
    .names = census_same_directories (c, after->mem),
  };
  struct fsck_report ra, rb;
  bool worse = false;

  fsck_image (after->mem, after, &ra);
  if (ra.code != 0) {
    fsck_image (before, after, &rb);
    worse = fsck_worse (&rb, &ra, &ignore, why, len);
    if (worse && getenv ("V"))
      fprintf (stderr, "# BEFORE\n%s# AFTER\n%s", rb.output, ra.output);
    fsck_free (&rb);
  }
  fsck_free (&ra);
  return !worse;
}

static bool
judge_replay (const uint8_t *before, struct memdev *md, bool fsck, char *why,
              size_t len)
{
  struct census *c = census_new (before, md->dev.size);
  bool ok = census_replay_only (c, md->mem, why, len) &&
    (!fsck || census_contended (c) || judge_fsck (before, c, md, why, len));

  census_free (c);
  return ok;
}

/* A refusal may have replayed the journal, or handed its error on. */
static bool
judge_refused (const uint8_t *before, struct memdev *md, char *why,
               size_t len)
{
  const uint64_t size = md->dev.size;

  if (memcmp (before, md->mem, size) == 0)
    return true;
  if (has_journal_to_replay (before, size) ||
      journal_has_error (before, size))
    return judge_replay (before, md, false, why, len);
  snprintf (why, len, "refused, and yet changed");
  return false;
}

bool
judge_served (const uint8_t *before, struct memdev *after,
              const ext2_ino_t *targets, char *why, size_t len)
{
  struct census *c = census_new (before, after->dev.size);
  bool ok = census_same (c, after->mem, targets, why, len) &&
    census_kept (c, after->mem, targets, why, len) &&
    (census_contended (c) || judge_fsck (before, c, after, why, len));

  census_free (c);
  return ok;
}

/* What the opening has done is judged apart from what the requests do. */
static bool
judge_opened (const uint8_t *before, struct memdev *md, char *why,
              size_t len)
{
  return !has_journal_to_replay (before, md->dev.size) ||
    judge_replay (before, md, true, why, len);
}

static bool
judge_writable (struct memdev *md, uint8_t *before, bool scan,
                struct rng *rng, struct damage_stats *stats, char *why,
                size_t len)
{
  const struct filesystem_options opts = options (false);
  ext2_ino_t targets[MOST_FILES + 1];
  struct filesystem *fs;
  bool ok;

  if (filesystem_open (&md->dev, &opts, &fs) != 0) {
    stats->refused++;
    return judge_refused (before, md, why, len);
  }
  stats->served++;
  ok = judge_opened (before, md, why, len);
  if (has_journal_to_replay (before, md->dev.size))
    memcpy (before, md->mem, md->dev.size);
  use_files (fs, scan, true, rng, targets);
  filesystem_close (fs);
  if (memcmp (before, md->mem, md->dev.size) == 0)
    stats->unchanged++;
  else if (ok) {
    stats->judged++;
    ok = judge_served (before, md, targets, why, len);
  }
  return ok;
}

bool
judge_image (struct memdev *md, uint64_t seed, bool scan,
             struct damage_stats *stats, char *why, size_t len)
{
  uint8_t *before = bytes_of (md);
  struct rng rng = { seed };
  struct limits limits;
  bool ok;

  stats->cases++;
  limits_start (&limits, md);
  ok = judge_readonly (md, before, scan, &rng, stats, why, len) &&
    judge_writable (md, before, scan, &rng, stats, why, len) &&
    (scan || limits_kept (&limits, md, stats, why, len));
  free (before);
  return ok;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A journal replayed for readers: every byte as a replay onto the disk
 * makes it, by us and by e2fsck, with small and large blocks; and in little
 * memory, whatever the log claims.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image.h"
#include "inode.h"
#include "mklog.h"
#include "map.h"
#include "recover.h"

/* A clean image, and where its journal and its file are. */
struct base {
  uint32_t bs;
  struct memdev *md;
  struct journal journal;
  unsigned blocks;              /* of the file */
  uint64_t *blk;                /* where they are */
};

static void
base_make (struct base *b, uint32_t bs, uint64_t size, unsigned journal_mib,
           unsigned blocks)
{
  struct image_file files[] = { { "f", (uint64_t) blocks * bs, false },
                                { NULL } };
  struct filesystem *fs;
  struct inode *inode;
  struct mapping m;
  char args[256];
  unsigned i;

  snprintf (args, sizeof args, "-t ext4 -b %u -N 32 -J size=%u -E "
            "lazy_journal_init=1 -O ^metadata_csum,^resize_inode,"
            "^orphan_file", bs, journal_mib);
  b->bs = bs;
  b->md = image_make (args, size, files);
  b->journal = mklog_find_journal (b->md);
  b->blocks = blocks;
  b->blk = calloc (blocks, sizeof *b->blk);
  assert_non_null (b->blk);
  fs = image_open (b->md);
  inode = image_iget (fs, "f");
  for (i = 0; i < blocks; i += 64)      /* written, but sparse beneath */
    assert_ok (file_write (inode, &i, 1, (uint64_t) i * bs, 0));
  assert_ok (file_zero (inode, (uint64_t) blocks * bs, 0, 0));
  for (i = 0; i < blocks; i++) {
    inode_map_lock_shared (inode);
    assert_ok (map_lookup (inode, i, 1, &m));
    inode_map_unlock_shared (inode);
    assert_int_not_equal (m.state, MAP_HOLE);
    b->blk[i] = m.pblk;
  }
  image_close (fs, inode);
}

static void
base_free (struct base *b)
{
  memdev_free (b->md);
  free (b->journal.runs);
  free (b->blk);
}

static errcode_t
open_it (struct memdev *md, bool readonly, struct filesystem **fs)
{
  const struct filesystem_options opts = { .readonly = readonly };

  return filesystem_open (&md->dev, &opts, fs);
}

/* Bytes. */

static bool
is_journal_or_super (const struct base *b, uint64_t pblk)
{
  size_t i;

  for (i = 0; i < b->journal.run_count; i++)
    if (pblk >= b->journal.runs[i].pblk &&
        pblk - b->journal.runs[i].pblk < b->journal.runs[i].len)
      return true;
  return pblk == 1024 / b->bs;
}

static void
same_but_journal (const struct base *b, const uint8_t *a, const uint8_t *c)
{
  uint64_t n = b->md->dev.size / b->bs, i;

  for (i = 0; i < n; i++)
    if (!is_journal_or_super (b, i) &&
        memcmp (a + i * b->bs, c + i * b->bs, b->bs) != 0)
      fail_msg ("block %llu differs", (unsigned long long) i);
  assert_memory_equal (a + n * b->bs, c + n * b->bs,
                       b->md->dev.size - n * b->bs);
}

/* A log of several transactions: runs of neighbours, single blocks, blocks
 * that come again, revoked ones; it goes around the log's end.
 */
static void
random_log (struct mklog *l, const struct base *b, struct rng *rng)
{
  unsigned t, i, n;

  mklog_set_start (l, l->end - 1 - rng_below (rng, 100), 10);
  for (t = 0; t < 4; t++) {
    for (i = 0; i < 12; i++) {
      n = 1 + rng_below (rng, rng_below (rng, 2) ? 2 : 40);
      mklog_put (l, b->blk + rng_below (rng, b->blocks - n), n, NULL);
    }
    if (l->kind->type != JBD2_SUPER_V1)
      mklog_revoke (l, b->blk + rng_below (rng, b->blocks - 10), 10);
    mklog_commit (l);
  }
}

/* All of DEV, in pieces of every size and alignment. */
static void
read_all (struct device *dev, uint8_t *all, uint32_t bs, struct rng *rng)
{
  uint64_t at, n;

  for (at = 0; at < dev->size; at += n) {
    n = 1 + rng_below (rng, rng_below (rng, 4) ? 2 * bs : 40 * bs);
    if (rng_below (rng, 4) == 0)        /* up to next to a block's edge */
      n = bs - at % bs + rng_below (rng, 5);
    if (n > dev->size - at)
      n = dev->size - at;
    assert_ok (device_pread (dev, all + at, n, at));
  }
}

static void
compare_with_disk (struct base *b, const struct mklog_kind *kind,
                   struct rng *rng)
{
  struct memdev *ours, *ref;
  struct mklog l;
  struct filesystem *fs;
  uint8_t *all = malloc (b->md->dev.size);
  bool written;

  assert_non_null (all);
  mklog_open (&l, kind, memdev_copy (b->md), &b->journal);
  random_log (&l, b, rng);
  ours = memdev_copy (l.md);
  ref = memdev_copy (l.md);
  assert_ok (open_it (ours, false, &fs));
  written = fs->writable;
  image_close (fs, NULL);
  assert_int_equal (written, kind->type != JBD2_SUPER_V1);
  assert_in_range (image_fsck (ref, "-E journal_only -y", 1), 0, 1);
  if (written)
    same_but_journal (b, ours->mem, ref->mem);

  assert_ok (open_it (l.md, true, &fs));
  assert_non_null (fs->overlay);
  read_all (fs->dev, all, b->bs, rng);
  same_but_journal (b, all, ref->mem);
  image_close (fs, NULL);
  assert_int_equal (memdev_count (l.md, MEMDEV_CHANGES), 0);
  memdev_free (ours);
  memdev_free (ref);
  mklog_close (&l);
  free (all);
}

static void
compare_kinds (uint32_t bs, uint64_t size, unsigned journal_mib,
               unsigned rounds)
{
  static const unsigned some[] = { MKLOG_V1, MKLOG_CSUM3_64BIT, MKLOG_PLAIN,
                                   MKLOG_CSUM1, MKLOG_64BIT };
  struct rng rng = { bs };
  struct base b;
  unsigned i;

  base_make (&b, bs, size, journal_mib, 300);
  for (i = 0; i < rounds; i++)
    compare_with_disk (&b, &mklog_kinds[some[i % 5]], &rng);
  base_free (&b);
}

static void
test_bytes_1k (void **state)
{
  (void) state;
  compare_kinds (1024, UINT64_C (5) << 20, 2, image_scale (10));
}

/* The device is no whole number of blocks long. */
static void
test_bytes_4k (void **state)
{
  (void) state;
  compare_kinds (4096, (UINT64_C (12) << 20) + 1024, 4, 5);
}

static void
test_bytes_64k (void **state)
{
  (void) state;
  compare_kinds (65536, UINT64_C (136) << 20, 64, 2);
}

/* Memory. */

/* Opens MD for reading with MOST bytes of memory more than are in use; its
 * byte at OFFSET is WANT.
 */
static void
open_in (struct memdev *md, rlim_t most, uint64_t offset, uint8_t want)
{
  struct rlimit limit;
  struct filesystem *fs;
  uint64_t pages;
  uint8_t got;
  int status;
  FILE *fp;
  pid_t pid;

  malloc_trim (0);
  fp = fopen ("/proc/self/statm", "r");
  if (fp == NULL ||
      fscanf (fp, "%*u %*u %*u %*u %*u %" SCNu64, &pages) != 1)
    fail_msg ("cannot read /proc/self/statm");
  fclose (fp);
  limit.rlim_cur = limit.rlim_max = pages * getpagesize () + most;
  pid = fork ();
  assert_true (pid >= 0);
  if (pid == 0) {
    must (setrlimit (RLIMIT_DATA, &limit) == 0);
    must (open_it (md, true, &fs) == 0);
    must (fs->overlay != NULL);
    must (device_pread (fs->dev, &got, 1, offset) == 0);
    must (got == want);
    must (filesystem_close (fs) == 0);
    _exit (0);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_int_equal (status, 0);
}

static bool
sanitized (void)
{
  return getenv ("EXT2_SANITIZER") != NULL;
}

/* Different blocks are remembered by where they are, not with what is in
 * them: 56 MiB of it.
 */
static void
test_memory_large_blocks (void **state)
{
  const unsigned n = 900;
  uint8_t *block;
  struct base b;
  struct mklog l;

  (void) state;
  if (sanitized ())
    skip ();
  base_make (&b, 65536, UINT64_C (160) << 20, 64, n);
  block = calloc (1, b.bs);
  assert_non_null (block);
  block[77] = 78;
  mklog_open (&l, &mklog_kinds[MKLOG_CSUM3], b.md, &b.journal);
  mklog_put (&l, b.blk, n, block);
  mklog_commit (&l);
  free (block);
  open_in (l.md, 6 << 20, b.blk[n - 1] * b.bs + 77, 78);
  base_free (&b);
}

/* Descriptors without end, all for the same block. */
static void
test_memory_repeated (void **state)
{
  struct base b;
  struct mklog l;

  (void) state;
  if (sanitized ())
    skip ();
  base_make (&b, 1024, UINT64_C (200) << 20, 96, 100);
  mklog_open (&l, &mklog_kinds[MKLOG_64BIT], b.md, &b.journal);
  while (l.used + 3 < l.end - l.first)
    mklog_put (&l, b.blk + 7, 1, NULL);
  mklog_commit (&l);
  open_in (l.md, 7 << 19, b.blk[7] * b.bs + 99, MKLOG_LAST (&l, 2)[99]);
  base_free (&b);
}

/* More different blocks than we are willing to remember: refused, with or
 * without -r, and nothing is written.  Their number counts, not that of
 * copies.
 */
static void
test_limit (void **state)
{
  const size_t most = recover_most_targets;
  struct base b;
  struct mklog l;
  struct filesystem *fs;
  uint64_t changes;

  (void) state;
  base_make (&b, 1024, UINT64_C (5) << 20, 2, 300);
  changes = memdev_count (b.md, MEMDEV_CHANGES);
  recover_most_targets = 299;
  mklog_open (&l, &mklog_kinds[MKLOG_CSUM3], b.md, &b.journal);
  mklog_put (&l, b.blk, 299, NULL);
  mklog_put (&l, b.blk, 299, NULL);
  mklog_commit (&l);
  assert_ok (open_it (l.md, true, &fs));
  image_close (fs, NULL);
  mklog_put (&l, b.blk + 299, 1, NULL);
  mklog_commit (&l);
  assert_int_equal (open_it (l.md, true, &fs), EFBIG);
  assert_int_equal (open_it (l.md, false, &fs), EFBIG);
  assert_int_equal (memdev_count (l.md, MEMDEV_CHANGES), changes);
  recover_most_targets = most;
  base_free (&b);
}

/* Reading. */

/* A block of the log that cannot be read is an error for who reads what it
 * is for, and for nobody else.
 */
static void
test_unreadable (void **state)
{
  struct base b;
  struct mklog l;
  struct filesystem *fs;
  uint8_t buf[3 * 1024], want[1024];

  (void) state;
  base_make (&b, 1024, UINT64_C (5) << 20, 2, 300);
  mklog_open (&l, &mklog_kinds[MKLOG_64BIT], b.md, &b.journal);
  mklog_put (&l, b.blk + 7, 1, NULL);
  mklog_commit (&l);
  assert_ok (open_it (l.md, true, &fs));
  memdev_fail (l.md, MEMDEV_MASK (MEMDEV_READ), 2, 1, EIO);
  assert_int_equal (device_pread (fs->dev, buf, sizeof buf,
                                  b.blk[6] * b.bs), EIO);
  assert_ok (device_pread (fs->dev, buf, sizeof buf, b.blk[6] * b.bs));
  mklog_pattern (&l, want, b.blk[7], 10);
  assert_memory_equal (buf + 1024, want, 1024);
  image_close (fs, NULL);
  base_free (&b);
}

/* Readers in parallel. */
struct reader {
  pthread_t thread;
  struct device *dev;
  const uint8_t *want;
  uint32_t bs;
  uint64_t seed;
};

static void *
read_all_often (void *arg)
{
  struct reader *r = arg;
  struct rng rng = { r->seed };
  uint8_t buf[9000];
  unsigned i;

  for (i = 0; i < image_scale (2000); i++) {
    uint64_t n = 1 + rng_below (&rng, sizeof buf - 1);
    uint64_t at = rng_below (&rng, r->dev->size - n);

    must (device_pread (r->dev, buf, n, at) == 0);
    must (memcmp (buf, r->want + at, n) == 0);
  }
  return NULL;
}

static void
test_parallel (void **state)
{
  struct rng rng = { 3 };
  struct reader r[4];
  struct base b;
  struct mklog l;
  struct filesystem *fs;
  uint8_t *all;
  unsigned i;

  (void) state;
  base_make (&b, 1024, UINT64_C (5) << 20, 2, 300);
  mklog_open (&l, &mklog_kinds[MKLOG_PLAIN], b.md, &b.journal);
  random_log (&l, &b, &rng);
  assert_ok (open_it (l.md, true, &fs));
  all = malloc (fs->dev->size);
  assert_non_null (all);
  assert_ok (device_pread (fs->dev, all, fs->dev->size, 0));
  for (i = 0; i < 4; i++) {
    r[i] = (struct reader) { .dev = fs->dev, .want = all, .bs = b.bs,
                             .seed = i };
    assert_int_equal (pthread_create (&r[i].thread, NULL, read_all_often,
                                      &r[i]), 0);
  }
  for (i = 0; i < 4; i++)
    pthread_join (r[i].thread, NULL);
  image_close (fs, NULL);
  free (all);
  base_free (&b);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_bytes_1k),
    cmocka_unit_test (test_bytes_4k),
    cmocka_unit_test (test_bytes_64k),
    cmocka_unit_test (test_memory_large_blocks),
    cmocka_unit_test (test_memory_repeated),
    cmocka_unit_test (test_limit),
    cmocka_unit_test (test_unreadable),
    cmocka_unit_test (test_parallel),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

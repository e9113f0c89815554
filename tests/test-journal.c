/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writing the journal: what the invariants of lib/log.h promise and random
 * power cuts (test-crash) meet only by chance.
 */

#include <config.h>

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ondisk.h"
#include "image.h"
#include "log.h"

#define BLOCK 1024
#define MIB (UINT64_C (1) << 20)

#define EXTENTS "-t ext4 -b 1024 -J size=1 -m 0 -N 32"
#define BLOCKS "-t ext3 -b 1024 -J size=1 -m 0 -N 32"

#define FULL_SIZE (UINT64_C (600) * BLOCK)

static const struct image_file files[] = {
  { "full", FULL_SIZE, true }, { "hole", 32 * MIB, false }, { NULL },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *full, *hole;
};

static void
setup_open (struct setup *s)
{
  s->fs = image_open (s->md);
  assert_non_null (s->fs->log);
  s->full = image_iget (s->fs, "full");
  s->hole = image_iget (s->fs, "hole");
}

static void
setup_init (struct setup *s, const char *args, uint64_t size)
{
  s->md = image_make (args, size, files);
  setup_open (s);
}

static void
setup_close (struct setup *s)
{
  iput (s->full);
  image_close (s->fs, s->hole);
  image_assert_clean (s->md);
}

static void
flush (struct setup *s)
{
  assert_ok (filesystem_flush (s->fs));
  syncer_drain (s->fs);
}

/* The image after a power cut now, replayed by e2fsck. */
static struct memdev *
cut_and_replay (struct setup *s)
{
  struct memdev *md = memdev_copy (s->md);

  assert_true (image_fsck (md, "-y -E journal_only", 1) <= 1);
  image_assert_clean (md);
  return md;
}

/* The journal's superblock as it is on the device. */
static struct jbd2_super *
journal_super (struct setup *s)
{
  uint32_t len;

  return (void *)
    (s->md->mem + journal_block (s->fs->journal, 0, &len) * BLOCK);
}

static bool
is_marked (struct setup *s)
{
  return ext2fs_has_feature_journal_needs_recovery (image_super (s->md));
}

/* What it looks like on disk: J1, J5, and the features. */
static void
test_life (void **state)
{
  struct setup s;
  struct jbd2_super before, after;
  uint8_t *image;
  uint64_t size;

  setup_init (&s, EXTENTS " -O 64bit,metadata_csum", 16 * MIB);
  size = s.md->dev.size;
  before = *journal_super (&s);
  image = malloc (size);
  assert_non_null (image);
  memcpy (image, s.md->mem, size);
  setup_close (&s);
  assert_memory_equal (image, s.md->mem, size);
  free (image);

  setup_open (&s);
  assert_ok (file_write (s.hole, "x", 1, 0, 0));
  assert_false (is_marked (&s));
  flush (&s);
  after = *journal_super (&s);
  assert_true (is_marked (&s));
  assert_true (image_super (s.md)->s_state & EXT2_VALID_FS);
  assert_true (after.start != 0);
  assert_int_equal (ext2fs_be32_to_cpu (after.incompat),
                    JBD2_INCOMPAT_REVOKE | JBD2_INCOMPAT_64BIT |
                    JBD2_INCOMPAT_CSUM_V3);
  assert_int_equal (after.sequence, before.sequence);
  assert_true (jbd2_super_ok (&after));

  iput (s.full);
  image_close (s.fs, s.hole);
  assert_false (is_marked (&s));
  image_assert_clean (s.md);
  setup_open (&s);
  after = *journal_super (&s);
  assert_int_equal (after.start, 0);
  assert_true (ext2fs_be32_to_cpu (after.sequence) >
               ext2fs_be32_to_cpu (before.sequence));
  setup_close (&s);
  memdev_free (s.md);
}

/* Write all of "hole" that there is space for; how much that was. */
static uint64_t
fill_the_disk (struct setup *s, uint8_t *buf)
{
  uint64_t offset;
  errcode_t err = 0;

  for (offset = 0; offset < s->hole->size && !err; offset += BLOCK) {
    memset (buf + offset, 'a' + offset / BLOCK % 26, BLOCK);
    err = file_write (s->hole, buf + offset, BLOCK, offset, 0);
    if (err) {
      assert_int_equal (err, EXT2_ET_BLOCK_ALLOC_FAIL);
      memset (buf + offset, 0, BLOCK);
      break;
    }
  }
  return offset;
}

/* J6: blocks of a tree are logged, freed, and used again for data, all
 * within one life of the log.
 */
static void
reuse_tree_blocks (struct setup *s, uint8_t *buf)
{
  uint32_t used, tid;
  uint64_t i;

  /* Every table of "full" is changed, hence logged; and there are enough
   * extents for a leaf.
   */
  for (i = 1; i < 10; i++)
    assert_ok (file_trim (s->full, BLOCK, i * 50 * BLOCK, 0));
  flush (s);
  used = s->fs->log->used;
  tid = s->fs->log->tid;
  assert_true (used > 0);
  assert_ok (file_trim (s->full, FULL_SIZE, 0, 0));
  flush (s);
  fill_the_disk (s, buf);
  flush (s);
  /* Otherwise nothing is shown by this. */
  assert_true (s->fs->log->used > used);
  assert_true (s->fs->log->tid > tid);
}

static void
reuse_test (const char *args, bool crash)
{
  uint8_t *buf = calloc (1, files[1].size);
  struct memdev *md;
  struct setup s;

  assert_non_null (buf);
  setup_init (&s, args, 3 * MIB);
  reuse_tree_blocks (&s, buf);
  if (crash) {
    md = cut_and_replay (&s);
    image_assert_dump (md, "hole", buf, files[1].size);
    memdev_free (md);
    md = memdev_copy (s.md);
    image_close (image_open (md), NULL);
    image_assert_dump (md, "hole", buf, files[1].size);
    memdev_free (md);
  }
  setup_close (&s);
  image_assert_dump (s.md, "hole", buf, files[1].size);
  memdev_free (s.md);
  free (buf);
}

static void
test_revoke_extents (void **state)
{
  reuse_test (EXTENTS, true);
}

static void
test_revoke_blocks (void **state)
{
  reuse_test (BLOCKS, true);
}

static void
test_revoked_is_not_checkpointed (void **state)
{
  reuse_test (EXTENTS, false);
  reuse_test (BLOCKS, false);
}

/* Blocks that begin with the journal's magic.  Written with the log's own
 * functions, while the sync thread has nothing to do.
 */
#define LOGGED 150              /* takes several descriptors */

static void
test_escape (void **state)
{
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);
  struct frozen_block blocks[LOGGED] = { 0 };
  struct frozen_set set = { blocks, LOGGED };
  const struct log_content content = { .set = &set };
  struct rng rng = { 7 };
  struct memdev *md, *ours;
  struct setup s;
  uint64_t first;
  size_t i;

  setup_init (&s, EXTENTS, 16 * MIB);
  assert_ok (file_write (s.hole, "x", 1, 0, 0));
  flush (&s);
  first = s.fs->blocks - LOGGED;
  for (i = 0; i < LOGGED; i++) {
    blocks[i].blkno = first + i;
    blocks[i].data = malloc (BLOCK);
    assert_non_null (blocks[i].data);
    rng_fill (&rng, blocks[i].data, BLOCK);
    if (i % 3 == 0)
      memcpy (blocks[i].data, &magic, sizeof magic);
  }
  assert_ok (log_write (s.fs, s.fs->log, &content));
  assert_ok (device_flush (s.fs->dev));
  assert_ok (log_commit (s.fs, s.fs->log));

  md = cut_and_replay (&s);
  ours = memdev_copy (s.md);
  image_close (image_open (ours), NULL);
  for (i = 0; i < LOGGED; i++) {
    assert_memory_equal (md->mem + (first + i) * BLOCK, blocks[i].data,
                         BLOCK);
    assert_memory_equal (ours->mem + (first + i) * BLOCK, blocks[i].data,
                         BLOCK);
    free (blocks[i].data);
  }
  memdev_free (md);
  memdev_free (ours);
  setup_close (&s);
  memdev_free (s.md);
}

/* J7: one request changes more blocks than a transaction takes. */
#define ROOM 8

static void
test_split (void **state)
{
  uint8_t *buf = malloc (BLOCK);
  uint64_t tid, lblk;
  struct memdev *md;
  struct setup s;
  size_t n, at;

  assert_non_null (buf);
  setup_init (&s, EXTENTS, 64 * MIB);
  memset (buf, 'w', BLOCK);
  for (lblk = 0; lblk < s.hole->size / BLOCK; lblk += 2)
    assert_ok (file_write (s.hole, buf, BLOCK, lblk * BLOCK, 0));
  flush (&s);
  s.fs->log->max_running = MAX_OPERATION + ROOM;
  tid = s.fs->running_tid;
  memdev_log_start (s.md);
  assert_ok (file_zero (s.hole, s.hole->size, 0, 0));
  assert_true (s.fs->running_tid > tid + 10);
  flush (&s);
  memdev_log_stop (s.md);
  n = s.md->log_count;
  for (at = 0; at <= n; at += n / 12 + 1) {
    md = memdev_power_cut (s.md, at, at);
    assert_true (image_fsck (md, "-y -E journal_only", 1) <= 1);
    image_assert_clean (md);
    memdev_free (md);
  }
  setup_close (&s);
  memdev_free (s.md);
  free (buf);
}

/* Blocks that a commit has freed come back, and a checkpoint is made,
 * however many clients keep the sync thread busy with flushes.
 */
#define FLUSHERS 3

static atomic_bool flushers_stop;

static void *
keep_flushing (void *fs)
{
  while (!atomic_load (&flushers_stop))
    if (filesystem_flush (fs) != 0)
      break;
  return NULL;
}

static uint64_t
withheld (struct filesystem *fs)
{
  LOCK_FOR_SCOPE (&fs->lock);
  return fs->alloc.withheld;
}

struct flushers {
  pthread_t thread[FLUSHERS];
};

/* A slow device, so that somebody always waits when a flush ends, and one
 * that makes only so many: counting those that were made would count also
 * what comes while this thread waits for a processor.
 */
#define ANY_NUMBER UINT_MAX

static const struct device_ops *quick_ops;
static struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  unsigned left;                /* [mutex] */
  bool too_few;                 /* [mutex] somebody has waited in vain */
} allowed = {
  .mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER,
};

static void
allow_flushes (unsigned n)
{
  pthread_mutex_lock (&allowed.mutex);
  allowed.left = n;
  pthread_cond_broadcast (&allowed.changed);
  pthread_mutex_unlock (&allowed.mutex);
}

static bool
were_too_few (void)
{
  bool r;

  pthread_mutex_lock (&allowed.mutex);
  r = allowed.too_few;
  pthread_mutex_unlock (&allowed.mutex);
  return r;
}

static errcode_t
slow_flush (struct device *dev)
{
  struct timespec until;

  usleep (5000);
  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_sec += 20;
  pthread_mutex_lock (&allowed.mutex);
  while (allowed.left == 0)
    if (pthread_cond_timedwait (&allowed.changed, &allowed.mutex, &until)
        != 0 && allowed.left == 0) {
      allowed.too_few = true;
      allowed.left = ANY_NUMBER;
    }
  if (allowed.left != ANY_NUMBER)
    allowed.left--;
  pthread_mutex_unlock (&allowed.mutex);
  return quick_ops->flush (dev);
}

static void
flushers_start (struct setup *s, struct flushers *f)
{
  static struct device_ops slow_ops;
  unsigned i;

  allow_flushes (ANY_NUMBER);
  quick_ops = s->md->dev.ops;
  slow_ops = *quick_ops;
  slow_ops.flush = slow_flush;
  s->md->dev.ops = &slow_ops;
  atomic_store (&flushers_stop, false);
  for (i = 0; i < FLUSHERS; i++)
    assert_int_equal (pthread_create (&f->thread[i], NULL, keep_flushing,
                                      s->fs), 0);
}

static void
flushers_end (struct flushers *f)
{
  unsigned i;

  atomic_store (&flushers_stop, true);
  for (i = 0; i < FLUSHERS; i++)
    pthread_join (f->thread[i], NULL);
}

static void
test_frees_under_flushes (void **state)
{
  struct flushers f;
  struct setup s;
  unsigned round;

  (void) state;
  setup_init (&s, EXTENTS, 16 * MIB);
  flushers_start (&s, &f);
  for (round = 0; round < 5; round++) {
    allow_flushes (0);
    assert_ok (file_trim (s.full, BLOCK, round * 20 * BLOCK, 0));
    assert_true (withheld (s.fs) > 0);
    allow_flushes (40);
    while (withheld (s.fs) > 0) {
      assert_false (were_too_few ());
      usleep (500);
    }
    allow_flushes (ANY_NUMBER);
  }
  flushers_end (&f);
  setup_close (&s);
  memdev_free (s.md);
}

/* Who waits for blocks goes before those who want more flushes. */
static void
test_drain_under_flushes (void **state)
{
  struct flushers f;
  struct setup s;
  unsigned round;

  (void) state;
  setup_init (&s, EXTENTS, 16 * MIB);
  flushers_start (&s, &f);
  for (round = 0; round < 5; round++) {
    assert_ok (file_trim (s.full, BLOCK, round * 20 * BLOCK, 0));
    assert_ok (filesystem_flush (s.fs));
    /* One was under way perhaps, or began before we came. */
    allow_flushes (3);
    syncer_drain (s.fs);
    assert_int_equal (withheld (s.fs), 0);
    assert_false (were_too_few ());
    allow_flushes (ANY_NUMBER);
  }
  flushers_end (&f);
  setup_close (&s);
  memdev_free (s.md);
}

/* A group's busy map goes when nothing in the group is held, whoever made
 * it: an edit makes one for each group from which it might free.
 */
static void
test_idle_busy_maps (void **state)
{
  struct setup s;
  unsigned maps = 0;
  uint64_t lblk;
  dgrp_t g;

  (void) state;
  setup_init (&s, EXTENTS " -g 256", 16 * MIB);
  for (lblk = 0; lblk < s.hole->size / BLOCK; lblk += 40)
    assert_ok (file_write (s.hole, "x", 1, lblk * BLOCK, 0));
  for (lblk = 1; lblk < FULL_SIZE / BLOCK; lblk += 40)
    assert_ok (file_trim (s.full, BLOCK, lblk * BLOCK, 0));
  for (lblk = 0; lblk < s.hole->size / BLOCK; lblk += 80)
    assert_ok (file_zero (s.hole, BLOCK, lblk * BLOCK, 0));
  flush (&s);
  /* Edits of one leaf after the other, while nothing is withheld. */
  for (lblk = 20; lblk < s.hole->size / BLOCK; lblk += 2000)
    assert_ok (file_write (s.hole, "x", 1, lblk * BLOCK, 0));
  flush (&s);
  lock_acquire (&s.fs->lock);
  for (g = 0; g < s.fs->e2->group_desc_count; g++) {
    assert_int_equal (s.fs->alloc.groups[g].held, 0);
    maps += s.fs->alloc.groups[g].busy != NULL;
  }
  lock_release (&s.fs->lock);
  assert_true (maps <= 1);
  setup_close (&s);
  memdev_free (s.md);
}

/* A journal with an area for fast commits, which we do not make: whoever
 * replays takes the log to go on to the end of the journal.
 */
static void
test_fast_area (void **state)
{
  uint8_t *buf = calloc (1, files[1].size);
  struct jbd2_super *js;
  struct memdev *md;
  struct setup s;
  uint64_t i;

  (void) state;
  assert_non_null (buf);
  setup_init (&s, "-t ext4 -b 1024 -J size=2 -m 0 -N 32", 16 * MIB);
  js = journal_super (&s);
  setup_close (&s);
  js->incompat |= ext2fs_cpu_to_be32 (JBD2_INCOMPAT_FAST);
  js->fast_blocks = ext2fs_cpu_to_be32 (256);
  setup_open (&s);
  /* Until the log wraps around. */
  for (i = 0; s.fs->log->head == s.fs->journal->first ||
         s.fs->log->used <= s.fs->log->head - s.fs->journal->first; i++) {
    assert_true (i < 4000);
    buf[i * BLOCK] = 'f';
    assert_ok (file_write (s.hole, buf + i * BLOCK, BLOCK, i * BLOCK, 0));
    flush (&s);
  }
  md = cut_and_replay (&s);
  image_assert_dump (md, "hole", buf, files[1].size);
  memdev_free (md);
  setup_close (&s);
  memdev_free (s.md);
  free (buf);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_life),
    cmocka_unit_test (test_revoke_extents),
    cmocka_unit_test (test_revoke_blocks),
    cmocka_unit_test (test_revoked_is_not_checkpointed),
    cmocka_unit_test (test_escape),
    cmocka_unit_test (test_split),
    cmocka_unit_test (test_fast_area),
    cmocka_unit_test (test_frees_under_flushes),
    cmocka_unit_test (test_drain_under_flushes),
    cmocka_unit_test (test_idle_busy_maps),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

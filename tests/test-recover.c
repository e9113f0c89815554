/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Logs of every kind, made here, replayed by us and by e2fsck: the images
 * must be the same but for the journal and the superblock.  Replayed to
 * the device, with the power cut at every write, and into memory for a
 * reader.  What must be refused is not touched.
 */

#include <config.h>

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ondisk.h"
#include "image.h"
#include "inode.h"
#include "mklog.h"
#include "map.h"

#define BS 1024u
#define BLOCKS 600u             /* of the file that the logs change */
#define SUPER_BLOCK 1u          /* with this block size */

static const struct image_file files[] = {
  { "f", BLOCKS * BS, true }, { NULL },
};

/* The clean image, made once. */
static struct memdev *image;
static struct journal journal;
static ext2_ino_t file_ino;
static uint64_t blk[BLOCKS];    /* where the file's blocks are */

static uint8_t *
in_place (struct memdev *md, uint64_t pblk)
{
  return md->mem + pblk * BS;
}

static uint8_t *
journal_at (struct memdev *md, uint32_t jblk)
{
  uint32_t len;

  return in_place (md, journal_block (&journal, jblk, &len));
}

static void
open_log (struct mklog *l, const struct mklog_kind *kind)
{
  mklog_open (l, kind, memdev_copy (image), &journal);
}

/* The block at file block LBLK is as transaction TID has it (0: as it
 * was).
 */
static void
expect_at (struct memdev *md, uint32_t lblk, uint32_t tid)
{
  const struct mklog l = { .f.block_size = BS };
  uint8_t want[BS];

  if (tid)
    mklog_pattern (&l, want, blk[lblk], tid);
  else
    memcpy (want, in_place (image, blk[lblk]), BS);
  assert_memory_equal (in_place (md, blk[lblk]), want, BS);
}

/* Comparing. */

static bool
is_journal (uint64_t pblk)
{
  size_t i;

  for (i = 0; i < journal.run_count; i++)
    if (pblk >= journal.runs[i].pblk &&
        pblk - journal.runs[i].pblk < journal.runs[i].len)
      return true;
  return false;
}

static void
same_but_journal (const uint8_t *a, const uint8_t *b)
{
  uint64_t n = image->dev.size / BS, i;

  for (i = 0; i < n; i++) {
    if (i == SUPER_BLOCK || is_journal (i))
      continue;
    if (memcmp (a + i * BS, b + i * BS, BS) != 0)
      fail_msg ("block %llu differs", (unsigned long long) i);
  }
}

static errcode_t
open_it (struct memdev *md, bool readonly, struct filesystem **fs)
{
  const struct filesystem_options opts = { .readonly = readonly };

  return filesystem_open (&md->dev, &opts, fs);
}

/* What a reader gets, in odd pieces; and that nothing is written.  It is
 * a reader because of READONLY, or because there is no other way.
 */
static uint8_t *
read_in_memory (struct memdev *md, bool readonly)
{
  const uint64_t changes = memdev_count (md, MEMDEV_CHANGES);
  struct memdev *before = memdev_copy (md);
  uint8_t *all = malloc (md->dev.size);
  struct rng rng = { 1 };
  struct filesystem *fs;
  uint64_t at, n;

  assert_non_null (all);
  assert_ok (open_it (md, readonly, &fs));
  assert_false (fs->writable);
  assert_non_null (fs->overlay);
  assert_false (fs->dev->writable);
  for (at = 0; at < md->dev.size; at += n) {
    n = 1 + rng_below (&rng, 50000);
    if (n > md->dev.size - at)
      n = md->dev.size - at;
    assert_ok (device_pread (fs->dev, all + at, n, at));
  }
  assert_int_equal (device_pwrite (fs->dev, all, 1, 0, 0), EROFS);
  /* The last of what was written to the superblocks is what counts. */
  assert_false (((struct ext2_super_block *) (void *) (all + SUPER_BLOCK * BS))
                ->s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER);
  assert_int_equal (((struct jbd2_super *) (void *)
                     (all + journal.runs[0].pblk * BS))->start, 0);
  image_close (fs, NULL);
  assert_int_equal (memdev_count (md, MEMDEV_CHANGES), changes);
  assert_memory_equal (md->mem, before->mem, md->dev.size);
  memdev_free (before);
  return all;
}

static uint8_t *
recover_in_memory (struct memdev *md)
{
  return read_in_memory (md, true);
}

/* Journals of the oldest kind are not written to, so what they hold stays
 * there.
 */
static bool
is_v1 (struct memdev *md)
{
  const struct jbd2_super *js = (void *) journal_at (md, 0);

  return js->h.type == ext2fs_cpu_to_be32 (JBD2_SUPER_V1);
}

/* Opens MD for writing, closes it, and checks what is left; or else what is
 * seen becomes what is left.
 */
static void
recover_to_disk (struct memdev *md)
{
  struct jbd2_super *js = (void *) journal_at (md, 0);
  struct filesystem *fs;

  if (is_v1 (md) && (image_super (md)->s_feature_incompat &
                     EXT3_FEATURE_INCOMPAT_RECOVER)) {
    uint8_t *seen = read_in_memory (md, false);

    memcpy (md->mem, seen, md->dev.size);
    free (seen);
  }
  assert_ok (open_it (md, false, &fs));
  assert_true (fs->writable || is_v1 (md));
  assert_null (fs->overlay);
  image_close (fs, NULL);
  assert_false (image_super (md)->s_feature_incompat &
                EXT3_FEATURE_INCOMPAT_RECOVER);
  assert_int_equal (js->start, 0);
  assert_int_equal (js->incompat &
                    ext2fs_cpu_to_be32 (JBD2_INCOMPAT_FAST), 0);
  assert_true (jbd2_super_ok (js));
}

/* Cuts the power at every write of the recovery of DIRTY, then recovers
 * again: it ends as RECOVERED.
 */
static void
cut_everywhere (struct memdev *dirty, struct memdev *recovered)
{
  struct memdev *md = memdev_copy (dirty), *cut;
  uint32_t tid, first_tid;
  uint64_t seed;
  size_t n, step;

  memdev_log_start (md);
  recover_to_disk (md);
  memdev_log_stop (md);
  tid = ((struct jbd2_super *) (void *) journal_at (recovered, 0))->sequence;
  first_tid = ext2fs_be32_to_cpu (tid);
  /* Blocks, flush, journal's superblock, superblock, flush, close. */
  assert_true (md->log_count >= 4);
  step = md->log_count / image_scale (8) + 1;
  for (n = 0; n <= md->log_count; n += n + 7 < md->log_count ? step : 1) {
    for (seed = 0; seed <= n + 1; seed += n + 1) {
      cut = memdev_power_cut (md, n, seed);
      recover_to_disk (cut);
      same_but_journal (cut->mem, recovered->mem);
      tid = ((struct jbd2_super *) (void *) journal_at (cut, 0))->sequence;
      /* Once more emptied costs a number. */
      assert_in_range (ext2fs_be32_to_cpu (tid) - first_tid, 0, 1);
      memdev_free (cut);
    }
  }
  memdev_free (md);
}

/* The log of L is good: replayed, it gives what e2fsck makes of it, and
 * the transactions before END_TID count.  Returns the replayed image.
 */
static struct memdev *
accepted (struct mklog *l, uint32_t end_tid, bool ask_e2fsck)
{
  static unsigned turn;
  struct memdev *ours = memdev_copy (l->md), *again;
  const struct jbd2_super *js = (void *) journal_at (ours, 0);
  uint8_t *seen;

  recover_to_disk (ours);
  assert_int_equal (ext2fs_be32_to_cpu (js->sequence), end_tid + 1);
  if (ask_e2fsck) {
    struct memdev *ref = memdev_copy (l->md);

    assert_in_range (image_fsck (ref, "-E journal_only -y", 1), 0, 1);
    same_but_journal (ours->mem, ref->mem);
    memdev_free (ref);
  }
  seen = recover_in_memory (l->md);
  same_but_journal (seen, ours->mem);
  free (seen);
  /* It takes its time; each test gets to it with some kinds. */
  if (turn++ % (2 * image_stride ()) == 0 && !is_v1 (ours))
    cut_everywhere (l->md, ours);
  /* Done for good. */
  again = memdev_copy (ours);
  recover_to_disk (again);
  assert_int_equal (memdev_count (again, MEMDEV_CHANGES), 0);
  memdev_free (again);
  return ours;
}

static void
refused_with (struct mklog *l, errcode_t error)
{
  struct memdev *md = memdev_copy (l->md);
  struct filesystem *fs;
  int readonly;

  for (readonly = 0; readonly < 2; readonly++) {
    assert_int_equal (open_it (md, readonly, &fs), error);
    assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);
    assert_memory_equal (md->mem, l->md->mem, md->dev.size);
  }
  memdev_free (md);
}

static void
refused (struct mklog *l)
{
  refused_with (l, EXT2_ET_CORRUPT_JOURNAL_SB);
}

/* Good logs.  Each test is for every kind of journal. */

#define EACH_KIND(l, condition)                                         \
  for (size_t k_ = 0; k_ < MKLOG_KINDS; k_++)                             \
    for (struct mklog *l = (&(struct mklog) { 0 }), *once_ = l;   \
         once_ && (condition (&mklog_kinds[k_])) &&                       \
           (open_log (l, &mklog_kinds[k_]), true);                        \
         once_ = NULL, mklog_close (l))

#define any(k) ((k) != NULL)

static void
test_short (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_put (l, blk + 3, 6, NULL);
    mklog_commit (l);
    md = accepted (l, 11, true);
    expect_at (md, 2, 0);
    expect_at (md, 3, 10);
    expect_at (md, 8, 10);
    expect_at (md, 9, 0);
    memdev_free (md);
  }
}

/* Several descriptors each, and the later transaction wins. */
static void
test_long (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_put (l, blk, 300, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 250, 300, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 10, 1, NULL);
    mklog_put (l, blk + 11, 1, NULL);
    mklog_commit (l);
    md = accepted (l, 13, true);
    expect_at (md, 9, 10);
    expect_at (md, 11, 12);
    expect_at (md, 249, 10);
    expect_at (md, 250, 11);
    expect_at (md, 549, 11);
    expect_at (md, 550, 0);
    memdev_free (md);
  }
}

static void
test_revoke (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_put (l, blk, 20, NULL);                 /* 10 */
    mklog_commit (l);
    mklog_revoke (l, blk + 5, 5);                 /* 11: 5 to 9 */
    mklog_put (l, blk + 18, 5, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 8, 1, NULL);              /* 12: used again */
    mklog_put (l, blk + 30, 2, NULL);             /* 31: both in one */
    mklog_revoke (l, blk + 31, 1);
    mklog_commit (l);
    mklog_revoke (l, blk + 30, 1);                /* 13: not committed */
    md = accepted (l, 13, true);
    expect_at (md, 4, 10);
    expect_at (md, 5, 0);
    expect_at (md, 8, 12);
    expect_at (md, 9, 0);
    expect_at (md, 10, 10);
    expect_at (md, 18, 11);
    expect_at (md, 30, 12);
    expect_at (md, 31, 0);
    memdev_free (md);
  }
}

/* Revoked before as well as after: the last one counts; and more than a
 * block full.
 */
static void
test_long_revoke (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_revoke (l, blk, BLOCKS);                /* 10 */
    mklog_commit (l);
    mklog_put (l, blk, 200, NULL);                /* 11 */
    mklog_commit (l);
    mklog_revoke (l, blk + 100, 400);             /* 12 */
    mklog_commit (l);
    md = accepted (l, 13, true);
    expect_at (md, 99, 11);
    expect_at (md, 100, 0);
    expect_at (md, 199, 0);
    memdev_free (md);
  }
}

static void
test_uncommitted (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 2, 4, NULL);
    md = accepted (l, 11, true);
    expect_at (md, 3, 10);
    expect_at (md, 4, 0);
    memdev_free (md);
  }
}

/* An older life of the log follows: lower numbers. */
static void
test_stale_tail (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    l->tid = 7;
    mklog_put (l, blk + 2, 4, NULL);
    mklog_commit (l);
    l->tid = 12;                /* and one that is too high */
    mklog_put (l, blk + 2, 4, NULL);
    mklog_commit (l);
    md = accepted (l, 11, true);
    expect_at (md, 3, 10);
    expect_at (md, 4, 0);
    memdev_free (md);
  }
}

/* The same number by chance, from a log with other checksums: its commit
 * is older.
 */
static void
test_stale_same_tid (void **state)
{
  (void) state;
  EACH_KIND (l, mklog_has_csum) {
    struct memdev *md;
    int what;

    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    l->time = 500;
    what = k_ % 3;
    if (what == 1)
      mklog_revoke (l, blk, 3);
    else
      mklog_put (l, blk + 2, 4, NULL);
    if (what == 0)
      MKLOG_LAST (l, 5)[20] ^= 1;     /* descriptor */
    if (what == 1)
      MKLOG_LAST (l, 1)[20] ^= 1;
    mklog_commit (l);
    if (what == 2)
      MKLOG_LAST (l, 1)[100] ^= 1, MKLOG_LAST (l, 1)[40] ^= 1;
    md = accepted (l, 11, true);
    expect_at (md, 2, 10);
    expect_at (md, 4, 0);
    memdev_free (md);
  }
}

static void
test_wrap (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;
    uint32_t at;

    /* Descriptor, data, revoke and commit each come to lie on the edge. */
    for (at = l->end - 14; at < l->end; at += 2) {
      mklog_set_start (l, at, 10);
      l->time = 1000;
      l->crc = ~0u;
      mklog_put (l, blk + 20, 4, NULL);
      mklog_commit (l);
      mklog_revoke (l, blk + 20, 1);
      mklog_put (l, blk + 30, 6, NULL);
      mklog_commit (l);
      md = accepted (l, 12, at % 4 == 0);
      expect_at (md, 20, 0);
      expect_at (md, 21, 10);
      expect_at (md, 35, 11);
      memdev_free (md);
    }
  }
}

/* Once around, to the last block. */
static void
test_full (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_set_start (l, 700, 10);
    while (l->end - l->first - l->used > 200) {
      mklog_put (l, blk + 7 * (l->tid - 10), 90, NULL);
      mklog_commit (l);
    }
    mklog_put (l, blk + 400, 1, NULL);
    while (l->end - l->first - l->used > 1)
      mklog_revoke (l, blk + 400, 1);
    mklog_commit (l);
    assert_int_equal (l->at, 700);
    md = accepted (l, l->tid, true);
    expect_at (md, 0, 10);
    expect_at (md, 400, 0);
    memdev_free (md);
  }
}

static void
test_tid_wrap (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct memdev *md;

    mklog_set_start (l, 5, 0xfffffffe);
    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 1, 4, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 2, 4, NULL);
    mklog_revoke (l, blk, 1);
    mklog_commit (l);
    /* e2fsck 1.47 takes an end of 0 for none. */
    md = accepted (l, 1, true);
    expect_at (md, 0, 0);
    expect_at (md, 1, 0xffffffff);
    assert_int_equal (l->tid, 1);
    memdev_free (md);
  }
}

static void
test_empty (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    mklog_set_start (l, 0, 10);
    memdev_free (accepted (l, 10, true));
    mklog_set_start (l, 3, 10);       /* nothing there */
    memdev_free (accepted (l, 10, true));
  }
}

/* The log brings a superblock.  It says that there is nothing to recover,
 * which must not be believed before it is true; and its record of errors
 * is older than ours.
 */
static void
test_superblock (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    const uint64_t pblk = SUPER_BLOCK;
    struct ext2_super_block sb = *image_super (image);
    struct memdev *md;
    struct filesystem *fs;
    uint8_t *seen;

    memcpy (sb.s_volume_name, "replayed", 9);
    sb.s_error_count = 7;
    mklog_put (l, &pblk, 1, (const uint8_t *) &sb);
    mklog_put (l, blk + 100, 5, NULL);
    mklog_commit (l);
    md = accepted (l, 11, true);
    assert_string_equal ((char *) image_super (md)->s_volume_name,
                         "replayed");
    assert_int_equal (image_super (md)->s_error_count, 0);
    expect_at (md, 104, 10);
    memdev_free (md);

    /* Errors seen by the one on disk are kept; for readers here. */
    image_super (l->md)->s_error_count = 3;
    image_super (l->md)->s_state |= EXT2_ERROR_FS;
    seen = recover_in_memory (l->md);
    memcpy (&sb, seen + SUPER_BLOCK * BS, sizeof sb);
    assert_string_equal ((char *) sb.s_volume_name, "replayed");
    assert_int_equal (sb.s_error_count, 3);
    assert_true (sb.s_state & EXT2_ERROR_FS);
    free (seen);
    assert_int_equal (open_it (l->md, false, &fs), EROFS);
    assert_int_equal (memdev_count (l->md, MEMDEV_CHANGES), 0);
  }
}

/* What is refused although only the log brings the reason.  Without -r, all
 * of these; with it, those that make reading impossible.
 */

struct brought {
  uint64_t pblk;
  uint8_t block[BS];
  errcode_t error;
  bool read_too;                /* refused for readers, too */
};

static void
brings (struct brought *b, uint64_t pblk, errcode_t error, bool read_too)
{
  b->pblk = pblk;
  memcpy (b->block, in_place (image, pblk), BS);
  b->error = error;
  b->read_too = read_too;
}

static unsigned
list_brought (struct brought *b)
{
  struct brought *all = b;
  struct ext2_super_block *sb;
  struct ext2_group_desc *desc;
  struct ext2_inode *root;

  brings (b, SUPER_BLOCK, EXT2_ET_UNSUPP_FEATURE, true);
  sb = (void *) b->block;
  sb->s_feature_incompat |= EXT2_FEATURE_INCOMPAT_COMPRESSION;
  brings (++b, SUPER_BLOCK, EROFS, false);
  sb = (void *) b->block;
  sb->s_state |= EXT2_ERROR_FS;
  /* Multiple mount protection, by a block that is none. */
  brings (++b, SUPER_BLOCK, EXT2_ET_MMP_MAGIC_INVALID, false);
  sb = (void *) b->block;
  sb->s_feature_incompat |= EXT4_FEATURE_INCOMPAT_MMP;
  sb->s_mmp_block = blk[20];
  /* And one of the inode table. */
  desc = (void *) in_place (image, SUPER_BLOCK + 1);
  brings (++b, SUPER_BLOCK, EXT2_ET_MMP_BAD_BLOCK, true);
  sb = (void *) b->block;
  sb->s_feature_incompat |= EXT4_FEATURE_INCOMPAT_MMP;
  sb->s_mmp_block = desc->bg_inode_table;
  brings (++b, SUPER_BLOCK + 1, EXT2_FILSYS_CORRUPTED, true);
  ((struct ext2_group_desc *) (void *) b->block)->bg_inode_bitmap
    = desc->bg_block_bitmap;
  brings (++b, desc->bg_inode_table, EXT2_ET_NO_DIRECTORY, true);
  root = (void *) (b->block + EXT2_INODE_SIZE (image_super (image)));
  root->i_mode = LINUX_S_IFREG | 0644;
  return b + 1 - all;
}

/* Nothing is written, of the journal neither. */
static void
test_brings_refusal (void **state)
{
  struct brought b[8];
  const unsigned n = list_brought (b);
  unsigned i;

  (void) state;
  assert_true (n <= sizeof b / sizeof *b);
  for (i = 0; i < n; i++) {
    struct mklog log, *l = &log;
    struct filesystem *fs;

    open_log (l, &mklog_kinds[6]);
    mklog_put (l, blk + 100, 5, NULL);
    mklog_put (l, &b[i].pblk, 1, b[i].block);
    mklog_commit (l);
    if (b[i].read_too)
      refused_with (l, b[i].error);
    else {
      free (recover_in_memory (l->md));
      assert_int_equal (open_it (l->md, false, &fs), b[i].error);
      assert_int_equal (memdev_count (l->md, MEMDEV_CHANGES), 0);
    }
    mklog_close (l);
  }
}

/* An error that the journal has recorded, with and without something to
 * replay: it is not written, and left where e2fsck looks for it.
 */
static void
test_error (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    int what;

    for (what = 0; what < 2; what++) {
      struct memdev *md;
      struct filesystem *fs;

      l->js->error = ext2fs_cpu_to_be32 (-5);
      if (what == 0) {
        mklog_put (l, blk, 5, NULL);
        mklog_commit (l);
      }
      else {
        mklog_set_start (l, 0, 11);
        image_super (l->md)->s_feature_incompat
          &= ~EXT3_FEATURE_INCOMPAT_RECOVER;
      }
      jbd2_set_super (l->js);
      md = memdev_copy (l->md);
      assert_ok (open_it (md, true, &fs));
      image_close (fs, NULL);
      assert_int_equal (open_it (md, false, &fs), EROFS);
      assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);
      /* The advice helps. */
      assert_in_range (image_fsck (md, "-fy", 1), 0, 1);
      assert_ok (open_it (md, false, &fs));
      assert_true (fs->writable || is_v1 (md));
      image_close (fs, NULL);
      if (what == 0)
        expect_at (md, 4, 10);
      memdev_free (md);
    }
  }
}

/* No -r, but a device or features that forbid writing; and orphans, which
 * forbid it only after the replay.
 */
static void
test_readonly (void **state)
{
  struct mklog log, *l = &log;
  struct memdev *md;
  struct filesystem *fs;
  uint8_t *seen;

  (void) state;
  open_log (l, &mklog_kinds[6]);
  mklog_put (l, blk, 5, NULL);
  mklog_commit (l);
  md = memdev_copy (l->md);
  image_super (md)->s_last_orphan = file_ino;
  /* Orphans do not keep it from being written. */
  assert_ok (open_it (md, false, &fs));
  assert_true (fs->writable);
  assert_null (fs->overlay);
  image_close (fs, NULL);
  expect_at (md, 4, 10);

  l->md->dev.writable = false;
  seen = read_in_memory (l->md, false);
  same_but_journal (seen, md->mem);
  free (seen);
  l->md->dev.writable = true;
  image_super (l->md)->s_feature_ro_compat |= EXT4_FEATURE_RO_COMPAT_READONLY;
  seen = read_in_memory (l->md, false);
  same_but_journal (seen, md->mem);
  free (seen);
  memdev_free (md);
  mklog_close (l);
}

/* Sectors of a commit block written one by one: the first is enough. */
static void
test_torn_commit (void **state)
{
  (void) state;
  EACH_KIND (l, mklog_has_csum) {
    struct memdev *md;

    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    memset (MKLOG_LAST (l, 1) + 512, 0x5a, 512);
    md = accepted (l, 11, false);
    expect_at (md, 3, 10);
    memdev_free (md);
  }
}

static bool
is_async (const struct mklog_kind *k)
{
  return k->incompat & JBD2_INCOMPAT_ASYNC;
}

/* An asynchronous commit may be durable before what it commits. */
static void
test_async (void **state)
{
  (void) state;
  EACH_KIND (l, is_async) {
    struct memdev *md;

    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 2, 4, NULL);
    mklog_commit (l);
    MKLOG_LAST (l, 1)[0x10] ^= 1;     /* its checksum */
    md = accepted (l, 11, true);
    expect_at (md, 2, 10);
    expect_at (md, 4, 0);
    memdev_free (md);
    /* But not if another one came after it. */
    mklog_put (l, blk + 2, 4, NULL);
    mklog_commit (l);
    refused (l);
  }
}

/* Bad logs. */

static void
test_bad_data (void **state)
{
  (void) state;
  EACH_KIND (l, mklog_has_csum) {
    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    MKLOG_LAST (l, 3)[77] ^= 4;
    refused (l);
    MKLOG_LAST (l, 3)[77] ^= 4;
    /* Nobody minds if it is revoked. */
    MKLOG_LAST (l, 5)[77] ^= 4;       /* the first block */
    mklog_revoke (l, blk, 1);
    mklog_commit (l);
    memdev_free (accepted (l, 12, true));
  }
}

static void
test_bad_data_v1 (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    if (!(l->kind->compat & JBD2_COMPAT_CHECKSUM) || is_async (l->kind))
      continue;
    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    MKLOG_LAST (l, 3)[77] ^= 4;
    refused (l);
  }
}

static void
test_bad_headers (void **state)
{
  (void) state;
  EACH_KIND (l, mklog_has_csum) {
    mklog_put (l, blk, 4, NULL);
    mklog_revoke (l, blk, 1);
    mklog_commit (l);
    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    MKLOG_LAST (l, 8)[500] ^= 1;      /* revoke block */
    refused (l);
    MKLOG_LAST (l, 8)[500] ^= 1;
    MKLOG_LAST (l, 6)[500] ^= 1;      /* descriptor */
    refused (l);
    MKLOG_LAST (l, 6)[500] ^= 1;
    MKLOG_LAST (l, 7)[0x10] ^= 1;     /* commit */
    refused (l);
    MKLOG_LAST (l, 7)[0x10] ^= 1;
    memdev_free (accepted (l, 12, true));
  }
}

static void
test_bad_revoke (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    struct jbd2_revoke *head;

    mklog_put (l, blk, 4, NULL);
    mklog_revoke (l, blk, 1);
    mklog_commit (l);
    head = (void *) MKLOG_LAST (l, 2);
    head->used = ext2fs_cpu_to_be32 (BS + 1);
    jbd2_set_tail (&l->f, MKLOG_LAST (l, 2));
    refused (l);
    /* A number of its half is none. */
    head->used = ext2fs_cpu_to_be32 (sizeof *head +
                                     jbd2_revoke_size (&l->f) - 1);
    jbd2_set_tail (&l->f, MKLOG_LAST (l, 2));
    memdev_free (accepted (l, 11, true));
    head->used = 0;
    jbd2_set_tail (&l->f, MKLOG_LAST (l, 2));
    memdev_free (accepted (l, 11, true));
  }
}

/* Blocks that must not be written. */
static void
test_bad_targets (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    const uint64_t targets[] = {
      0, image->dev.size / BS, UINT32_MAX, journal.runs[0].pblk,
      journal.runs[journal.run_count - 1].pblk
        + journal.runs[journal.run_count - 1].len - 1,
      l->f.wide ? (UINT64_C (1) << 32) + blk[0] : UINT32_MAX - 1,
    };
    size_t i;

    for (i = 0; i < sizeof targets / sizeof *targets; i++) {
      mklog_set_start (l, 1, 10);
      l->crc = ~0u;
      mklog_put (l, blk, 4, NULL);
      mklog_put (l, &targets[i], 1, NULL);
      mklog_commit (l);
      refused (l);
      /* Harmless if revoked. */
      mklog_revoke (l, &targets[i], 1);
      mklog_commit (l);
      memdev_free (accepted (l, 12, true));
    }
  }
}

/* A replayed superblock may enlarge the filesystem, and only so far: what
 * is logged of the device behind its end is left out.
 */
static void
test_resize (void **state)
{
  struct mklog log, *l = &log;
  struct ext2_super_block sb = *image_super (image);
  uint64_t pblk = SUPER_BLOCK, last = sb.s_blocks_count - 1;
  struct memdev *md;
  uint8_t *seen;

  (void) state;
  open_log (l, &mklog_kinds[7]);
  mklog_put (l, &pblk, 1, (const uint8_t *) &sb);
  mklog_put (l, &last, 1, NULL);
  mklog_commit (l);
  image_super (l->md)->s_blocks_count -= 100;
  md = memdev_copy (l->md);
  recover_to_disk (md);
  assert_int_equal (image_super (md)->s_blocks_count, sb.s_blocks_count);
  memdev_free (md);
  /* The power was cut in the middle of growing it: a new group has been
   * logged, the superblock that brings it has not.
   */
  mklog_set_start (l, 1, 10);
  sb.s_blocks_count -= 100;
  mklog_put (l, &last, 1, NULL);
  mklog_put (l, &pblk, 1, (const uint8_t *) &sb);
  mklog_put (l, blk, 5, NULL);
  mklog_commit (l);
  md = memdev_copy (l->md);
  recover_to_disk (md);
  assert_int_equal (image_super (md)->s_blocks_count, sb.s_blocks_count);
  expect_at (md, 0, 10);
  expect_at (md, 4, 10);
  assert_memory_equal (in_place (md, last), in_place (l->md, last), BS);
  memdev_free (md);
  seen = recover_in_memory (l->md);
  assert_memory_equal (seen + last * BS, in_place (l->md, last), BS);
  assert_memory_not_equal (seen + blk[0] * BS, in_place (l->md, blk[0]), BS);
  free (seen);
  mklog_close (l);
}

static void
test_bad_super (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    const struct jbd2_super good = *l->js;

#define BAD(code)                                                           do {                                                                      code;                                                                   jbd2_set_super (l->js);                                                 refused (l);                                                            *l->js = good;                                                        } while (0)

    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    BAD (l->js->h.magic ^= 1);
    BAD (l->js->h.type = ext2fs_cpu_to_be32 (JBD2_COMMIT));
    BAD (l->js->h.type = ext2fs_cpu_to_be32 (6));
    BAD (l->js->block_size = ext2fs_cpu_to_be32 (2 * BS));
    BAD (l->js->max_len = ext2fs_cpu_to_be32 (journal.blocks + 1));
    BAD (l->js->max_len = ext2fs_cpu_to_be32 (1023));
    BAD (l->js->first = 0);
    BAD (l->js->first = ext2fs_cpu_to_be32 (journal.blocks));
    BAD (l->js->start = ext2fs_cpu_to_be32 (journal.blocks));
    BAD (l->js->first = ext2fs_cpu_to_be32 (2));
    if (l->kind->type != JBD2_SUPER_V1) {
      l->js->incompat |= ext2fs_cpu_to_be32 (0x40);
      jbd2_set_super (l->js);
      refused_with (l, EXT2_ET_UNSUPP_FEATURE);
      *l->js = good;
      l->js->ro_compat = 1;
      jbd2_set_super (l->js);
      refused_with (l, EXT2_ET_UNSUPP_FEATURE);
      *l->js = good;
      BAD (l->js->incompat |= ext2fs_cpu_to_be32 (JBD2_INCOMPAT_FAST);
           l->js->fast_blocks = ext2fs_cpu_to_be32 (journal.blocks));
    }
    if (mklog_has_csum (l->kind)) {
      BAD (l->js->incompat
             |= ext2fs_cpu_to_be32 (JBD2_INCOMPAT_CSUM_V2 |
                                    JBD2_INCOMPAT_CSUM_V3));
      BAD (l->js->compat |= ext2fs_cpu_to_be32 (JBD2_COMPAT_CHECKSUM));
      BAD (l->js->csum_type = JBD2_CSUM_CRC32);
      l->js->padding[3] ^= 1;
      refused (l);
      *l->js = good;
    }
    memdev_free (accepted (l, 11, true));
    /* Not flagged: nobody knows what has happened since. */
    image_super (l->md)->s_feature_incompat
      &= ~EXT3_FEATURE_INCOMPAT_RECOVER;
    refused (l);
  }
}

/* Logs without an end. */
static void
test_endless (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    uint8_t commit[BS];

    /* Revoke blocks all around. */
    alarm (100);
    while (l->used < l->end - l->first)
      mklog_revoke (l, blk, 1);
    memdev_free (accepted (l, 10, false));
    /* Descriptors and no commit. */
    mklog_set_start (l, 1, 10);
    for (l->used = 0; l->used < l->end - l->first;)
      mklog_put (l, blk, jbd2_tags_per_block (&l->f), NULL);
    memdev_free (accepted (l, 10, false));
    /* A commit that would lie behind the log's beginning. */
    mklog_set_start (l, 500, 10);
    l->used = 0;
    while (l->used < l->end - l->first - 10)
      mklog_revoke (l, blk, 1);
    mklog_put (l, blk, 50, NULL);
    mklog_commit (l);
    memcpy (commit, MKLOG_LAST (l, 1), BS);
    assert_int_equal (l->at, 500 + 42);
    mklog_set_start (l, 500, 10);
    mklog_put (l, blk, 50, NULL); /* its data hide the commit */
    memcpy (journal_at (l->md, 500 + 41), commit, BS);
    memdev_free (accepted (l, 10, false));
    alarm (0);
  }
}

/* Fast commits. */
static void
test_fast (void **state)
{
  (void) state;
  EACH_KIND (l, any) {
    uint8_t *fast;

    if (l->kind->type == JBD2_SUPER_V1)
      continue;
    l->end = journal.blocks - JBD2_DEFAULT_FAST_BLOCKS;
    if (l->end < JBD2_MIN_BLOCKS)
      fail_msg ("the journal is too small for this test");
    l->js->incompat |= ext2fs_cpu_to_be32 (JBD2_INCOMPAT_FAST);
    mklog_set_start (l, l->end - 5, 10);
    mklog_put (l, blk, 4, NULL);
    mklog_commit (l);
    mklog_put (l, blk + 10, 4, NULL);
    mklog_commit (l);
    /* e2fsck 1.47 goes on into the area of fast commits. */
    memdev_free (accepted (l, 12, false));
    fast = journal_at (l->md, l->end + 1);
    memcpy (fast, "\x09\0\x08\0\0\0\0\0\x0b\0\0\0", 12);
    memdev_free (accepted (l, 12, false));      /* an old one */
    fast[8] = 12;
    refused_with (l, EXT2_ET_UNSUPP_FEATURE);
  }
}

/* At random: refused without a write, or for a reader the same as for a
 * writer.
 */
static void
test_hostile (void **state)
{
  struct rng rng = { 99 };
  unsigned i, n, good = 0;

  (void) state;
  for (i = 0; i < 600 / image_stride (); i++) {
    struct mklog log, *l = &log;
    struct memdev *md;
    struct filesystem *fs;
    bool written = false;
    errcode_t err;

    open_log (l, &mklog_kinds[i % MKLOG_KINDS]);
    mklog_put (l, blk, 10, NULL);
    mklog_commit (l);
    mklog_revoke (l, blk + 3, 2);
    mklog_put (l, blk + 8, 10, NULL);
    mklog_commit (l);
    for (n = rng_below (&rng, 4) + 1; n > 0; n--) {
      uint8_t *p = journal_at (l->md, rng_below (&rng, l->used + 1));

      p[rng_below (&rng, rng_below (&rng, 3) ? 120 : BS)]
        = rng_below (&rng, 3) ? rng_next (&rng) : rng_below (&rng, 12);
    }
    alarm (30);
    md = memdev_copy (l->md);
    err = open_it (md, false, &fs);
    if (err == 0) {
      written = fs->writable;
      image_close (fs, NULL);
    }
    if (!written)
      assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);
    if (err == 0) {
      uint8_t *seen = recover_in_memory (l->md);

      if (written)
        same_but_journal (seen, md->mem);
      free (seen);
      good++;
    }
    alarm (0);
    memdev_free (md);
    mklog_close (l);
  }
  assert_in_range (good, i / 20, i - i / 20);
}

/* A device that fails: an error, and the next server's try ends well. */
static void
test_device_errors (void **state)
{
  struct mklog log, *l = &log;
  struct memdev *md, *again, *good;
  struct filesystem *fs;
  uint64_t n;

  (void) state;
  open_log (l, &mklog_kinds[7]);
  mklog_put (l, blk, 30, NULL);
  mklog_commit (l);
  good = memdev_copy (l->md);
  recover_to_disk (good);
  for (n = 1;; n++) {
    bool failed;

    md = memdev_copy (l->md);
    memdev_fail (md, MEMDEV_MASK (MEMDEV_WRITE) | MEMDEV_MASK (MEMDEV_FLUSH)
                 | MEMDEV_MASK (MEMDEV_READ), n, 1, EIO);
    if (open_it (md, false, &fs) == 0)
      filesystem_close (fs);
    failed = memdev_has_failed (md);
    again = memdev_copy (md);
    recover_to_disk (again);
    same_but_journal (again->mem, good->mem);
    memdev_free (again);
    memdev_free (md);
    if (!failed)
      break;
  }
  assert_true (n > 20);
  memdev_free (good);
  mklog_close (l);
}

/* A device with one bad block: behind the log's end nobody needs it, as
 * long as it is not the very first.
 */
struct spotted {
  struct device dev;            /* first: converted back by a cast */
  struct memdev *md;
  uint64_t bad;                 /* block */
};

static errcode_t
spotted_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct spotted *s = (struct spotted *) dev;

  if (offset < (s->bad + 1) * BS && offset + count > s->bad * BS)
    return EIO;
  return device_pread (&s->md->dev, buf, count, offset);
}

static const struct device_ops spotted_ops = { .pread = spotted_pread };

static void
test_bad_spot (void **state)
{
  const struct filesystem_options opts = { .readonly = true };
  struct mklog log, *l = &log;
  struct filesystem *fs;
  uint32_t len, i;

  (void) state;
  open_log (l, &mklog_kinds[7]);
  mklog_put (l, blk, 30, NULL);
  mklog_commit (l);
  for (i = 0; i < 40; i++) {
    struct spotted s = { .md = l->md, .bad = journal_block (&journal, l->first
                                                            + i, &len) };
    errcode_t err;

    s.dev.ops = &spotted_ops;
    s.dev.size = l->md->dev.size;
    err = filesystem_open (&s.dev, &opts, &fs);
    /* 30 blocks, their descriptor, the commit, and the end. */
    assert_int_equal (err, i < 33 ? EIO : 0);
    if (!err)
      assert_ok (filesystem_close (fs));
  }
  mklog_close (l);
}

/* A device whose superblock is another one from the N-th look on: the
 * image is being changed by somebody else while we open it.
 */
struct fickle {
  struct device dev;            /* first: converted back by a cast */
  struct memdev *md;
  struct ext2_super_block other;
  unsigned looks, from;
};

static errcode_t
fickle_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct fickle *f = (struct fickle *) dev;
  const uint64_t at = SUPER_BLOCK * BS;
  errcode_t err = device_pread (&f->md->dev, buf, count, offset);

  if (!err && offset <= at && offset + count >= at + BS &&
      ++f->looks >= f->from)
    memcpy ((uint8_t *) buf + (at - offset), &f->other, sizeof f->other);
  return err;
}

static const struct device_ops fickle_ops = { .pread = fickle_pread };

/* How often the superblock was looked at. */
static unsigned
open_fickle (struct memdev *md, const struct ext2_super_block *other,
             unsigned from)
{
  const struct filesystem_options opts = { .readonly = true };
  struct fickle f = { .md = md, .other = *other, .from = from };
  struct filesystem *fs;

  f.dev.ops = &fickle_ops;
  f.dev.size = md->dev.size;
  if (filesystem_open (&f.dev, &opts, &fs) == 0) {
    assert_int_equal (fs->e2->blocksize, fs->block_size);
    assert_ok (filesystem_close (fs));
  }
  return f.looks;
}

static void
test_changing (void **state)
{
  struct mklog log, *l = &log;
  struct ext2_super_block other[6];
  unsigned i, from;

  (void) state;
  open_log (l, &mklog_kinds[7]);
  mklog_put (l, blk, 30, NULL);
  mklog_commit (l);
  for (i = 0; i < 6; i++)
    other[i] = *image_super (l->md);
  other[0].s_feature_incompat &= ~EXT3_FEATURE_INCOMPAT_RECOVER;
  other[1].s_feature_compat &= ~EXT3_FEATURE_COMPAT_HAS_JOURNAL;
  other[2].s_journal_inum = 0;
  other[3].s_log_block_size = 1;
  other[3].s_first_data_block = 0;
  other[4].s_blocks_per_group = 65528;
  other[5].s_inode_size = 1024;
  for (i = 0; i < 6; i++)
    for (from = 1; open_fickle (l->md, &other[i], from) >= from; from++)
      ;
  mklog_close (l);
}

static void
shuffle (void)
{
  struct rng rng = { 5 };
  unsigned i;

  /* In pieces of four, so that some are neighbours. */
  for (i = BLOCKS / 4 - 1; i > 0; i--) {
    unsigned k = rng_below (&rng, i + 1);
    uint64_t t[4];

    memcpy (t, blk + 4 * i, sizeof t);
    memmove (blk + 4 * i, blk + 4 * k, sizeof t);
    memcpy (blk + 4 * k, t, sizeof t);
  }
}

/* Where the file is. */
static void
look_at_image (void)
{
  struct filesystem *fs = image_open (image);
  struct inode *inode = image_iget (fs, "f");
  struct mapping m;
  unsigned i;

  for (i = 0; i < BLOCKS; i++) {
    inode_map_lock_shared (inode);
    if (map_lookup (inode, i, 1, &m) != 0 || m.state != MAP_WRITTEN)
      abort ();
    inode_map_unlock_shared (inode);
    blk[i] = m.pblk;
  }
  file_ino = inode->ino;
  image_close (fs, inode);
  shuffle ();
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_short),
    cmocka_unit_test (test_long),
    cmocka_unit_test (test_revoke),
    cmocka_unit_test (test_long_revoke),
    cmocka_unit_test (test_uncommitted),
    cmocka_unit_test (test_stale_tail),
    cmocka_unit_test (test_stale_same_tid),
    cmocka_unit_test (test_wrap),
    cmocka_unit_test (test_full),
    cmocka_unit_test (test_tid_wrap),
    cmocka_unit_test (test_empty),
    cmocka_unit_test (test_superblock),
    cmocka_unit_test (test_brings_refusal),
    cmocka_unit_test (test_error),
    cmocka_unit_test (test_readonly),
    cmocka_unit_test (test_torn_commit),
    cmocka_unit_test (test_async),
    cmocka_unit_test (test_bad_data),
    cmocka_unit_test (test_bad_data_v1),
    cmocka_unit_test (test_bad_headers),
    cmocka_unit_test (test_bad_revoke),
    cmocka_unit_test (test_bad_targets),
    cmocka_unit_test (test_resize),
    cmocka_unit_test (test_bad_super),
    cmocka_unit_test (test_endless),
    cmocka_unit_test (test_fast),
    cmocka_unit_test (test_hostile),
    cmocka_unit_test (test_device_errors),
    cmocka_unit_test (test_bad_spot),
    cmocka_unit_test (test_changing),
  };
  int failed;

  image_init ();
#ifdef M_MMAP_THRESHOLD
  /* Buffers as large as images are used again, not mapped anew. */
  mallopt (M_MMAP_THRESHOLD, 32 << 20);
  mallopt (M_TRIM_THRESHOLD, 64 << 20);
#endif
  image = image_make ("-t ext4 -b 1024 -N 32 -J size=2 "
                      "-O ^metadata_csum,^resize_inode",
                      UINT64_C (5) << 20, files);
  journal = mklog_find_journal (image);
  look_at_image ();
  failed = cmocka_run_group_tests (tests, NULL, NULL);
  free (journal.runs);
  memdev_free (image);
  return failed;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What reaches the device, in which order, and when nothing does. */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define BLOCK 1024
#define SIZE (UINT64_C (300) * BLOCK)
#define SUPER_OFFSET 1024

#define EXTENTS "-t ext4 -b 1024 -O ^has_journal -N 32"
#define BLOCKS "-t ext2 -b 1024 -N 32"

static const struct image_file files[] = {
  { "hole", SIZE, false }, { "full", SIZE, true }, { NULL },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *hole, *full;
};

static void
setup_open (struct setup *s)
{
  s->fs = image_open (s->md);
  s->hole = image_iget (s->fs, "hole");
  s->full = image_iget (s->fs, "full");
}

static void
setup_init (struct setup *s, const char *args)
{
  s->md = image_make (args, UINT64_C (4) << 20, files);
  setup_open (s);
}

static void
setup_close (struct setup *s)
{
  iput (s->hole);
  image_close (s->fs, s->full);
  image_assert_clean (s->md);
}

static void
setup_free (struct setup *s)
{
  setup_close (s);
  memdev_free (s->md);
}

/* Freed blocks are given back after the answer; wait for that too, so
 * that the device is at rest.
 */
static errcode_t
flush_and_settle (struct filesystem *fs)
{
  errcode_t err = filesystem_flush (fs);

  syncer_drain (fs);
  return err;
}

/* A block of data that nobody takes for a tree block. */
static void
write_block (struct inode *inode, uint64_t lblk, uint8_t with, unsigned flags)
{
  uint8_t data[BLOCK];

  memset (data, with, sizeof data);
  assert_ok (file_write (inode, data, sizeof data, lblk * BLOCK, flags));
}

/* The order. */

enum kind { DATA, SUPER, BITMAP, TREE, INODE, KINDS };

static enum kind
kind_of (struct filesystem *fs, uint64_t blk, const uint8_t *data)
{
  size_t i;

  if (blk == SUPER_OFFSET / BLOCK)
    return SUPER;
  if (!syszone_overlaps (&fs->zones, blk, 1)) {
    for (i = 1; i < BLOCK; i++)
      if (data[i] != data[0])
        return TREE;
    return DATA;
  }
  for (i = 0; i < fs->e2->group_desc_count; i++) {
    uint64_t table = ext2fs_inode_table_loc (fs->e2, i);

    if (blk >= table && blk < table + fs->e2->inode_blocks_per_group)
      return INODE;
  }
  return BITMAP;
}

/* By kind, how many flushes came before its first and its last write
 * among the log entries from FROM on, and how many writes there were.
 */
struct order {
  unsigned first[KINDS], last[KINDS], count[KINDS], flushes;
};

static void
note_write (struct filesystem *fs, const struct memdev_entry *e,
            struct order *o)
{
  uint32_t i;

  assert_int_equal (e->offset % BLOCK, 0);
  assert_int_equal (e->count % BLOCK, 0);
  for (i = 0; i < e->count; i += BLOCK) {
    enum kind k = kind_of (fs, (e->offset + i) / BLOCK, e->data + i);

    if (k == SUPER)
      assert_false (((const struct ext2_super_block *)
                     (const void *) (e->data + i))->s_state & EXT2_VALID_FS);
    if (o->count[k]++ == 0)
      o->first[k] = o->flushes;
    o->last[k] = o->flushes;
  }
}

static void
read_order (struct setup *s, size_t from, struct order *o)
{
  size_t i;

  memset (o, 0, sizeof *o);
  for (i = from; i < s->md->log_count; i++) {
    const struct memdev_entry *e = &s->md->log[i];

    if (e->call == MEMDEV_FLUSH)
      o->flushes++;
    else if (e->call == MEMDEV_WRITE)
      note_write (s->fs, e, o);
  }
}

/* Data, and bitmaps and counts, both before inodes; a flush between, and
 * one behind.
 */
static void
assert_order (const struct order *o)
{
  assert_true (o->count[DATA] > 0);
  assert_true (o->count[BITMAP] > 0);
  assert_true (o->count[INODE] > 0);
  assert_true (o->last[DATA] < o->first[INODE]);
  assert_true (o->last[BITMAP] < o->first[INODE]);
  assert_true (o->last[INODE] < o->flushes);
}

static void
first_commit (const char *args)
{
  struct setup s;
  struct order o;
  uint64_t i;

  setup_init (&s, args);
  memdev_log_start (s.md);
  for (i = 0; i < 60; i += 2)   /* with a new tree block */
    write_block (s.hole, i, 0x11, 0);
  assert_ok (flush_and_settle (s.fs));
  read_order (&s, 0, &o);
  assert_order (&o);
  assert_true (o.count[SUPER] > 0);
  assert_true (o.first[SUPER] < o.first[BITMAP]);
  assert_true (o.last[SUPER] < o.first[INODE]);
  /* Nothing on disk points at the new tree: it goes before the inode. */
  assert_true (o.count[TREE] > 0);
  assert_true (o.first[SUPER] < o.first[TREE]);
  assert_true (o.last[DATA] < o.first[TREE]);
  assert_true (o.last[TREE] < o.first[INODE]);
  setup_free (&s);
}

static void
test_first_extents (void **state)
{
  (void) state;
  first_commit (EXTENTS);
}

static void
test_first_blocks (void **state)
{
  (void) state;
  first_commit (BLOCKS);
}

/* A table that is on disk changes with the inode, not before. */
static void
test_second_blocks (void **state)
{
  struct setup s;
  struct order o;
  size_t from;

  (void) state;
  setup_init (&s, BLOCKS);
  write_block (s.hole, 20, 0x11, 0);
  assert_ok (flush_and_settle (s.fs));
  memdev_log_start (s.md);
  write_block (s.hole, 30, 0x22, 0);
  assert_ok (flush_and_settle (s.fs));
  read_order (&s, 0, &o);
  assert_order (&o);
  assert_int_equal (o.count[TREE], 1);
  assert_true (o.last[BITMAP] < o.first[TREE]);

  /* And what was freed is not cleared in the bitmap before that. */
  from = s.md->log_count;
  assert_ok (file_trim (s.hole, BLOCK, 30 * BLOCK, 0));
  assert_ok (flush_and_settle (s.fs));
  read_order (&s, from, &o);
  assert_int_equal (o.count[TREE], 1);
  assert_int_equal (o.count[DATA], 0);
  if (o.count[BITMAP])
    assert_true (o.last[TREE] < o.first[BITMAP]);
  setup_free (&s);
}

/* How little. */

static void
test_overwrite_costs_one_flush (void **state)
{
  struct setup s;
  unsigned i;

  (void) state;
  setup_init (&s, EXTENTS);
  memdev_log_start (s.md);
  for (i = 0; i < 3; i++) {
    write_block (s.full, 5 + i, 0x33, 0);
    assert_ok (flush_and_settle (s.fs));
    assert_int_equal (s.md->log_count, 2 * (i + 1));
    assert_int_equal (s.md->log[2 * i].call, MEMDEV_WRITE);
    assert_int_equal (s.md->log[2 * i].count, BLOCK);
    assert_int_equal (s.md->log[2 * i].data[7], 0x33);
    assert_int_equal (s.md->log[2 * i + 1].call, MEMDEV_FLUSH);
  }
  /* With FUA, none at all. */
  write_block (s.full, 9, 0x44, FILE_FUA);
  assert_int_equal (s.md->log_count, 7);
  assert_int_equal (s.md->log[6].flags, DEVICE_FUA);
  setup_free (&s);
}

static int
ignore_piece (void *opaque, uint64_t offset, uint64_t count,
              enum map_state state)
{
  (void) opaque;
  (void) offset;
  (void) count;
  (void) state;
  return 0;
}

/* Everything that changes nothing. */
static void
use_without_change (struct setup *s)
{
  uint8_t *buf = malloc (SIZE);

  assert_non_null (buf);
  assert_ok (file_read (s->hole, buf, SIZE, 0));
  assert_ok (file_read (s->full, buf, SIZE, 0));
  assert_ok (file_status (s->full, SIZE, 0, ignore_piece, NULL));
  assert_ok (file_cache (s->full, SIZE, 0));
  assert_ok (flush_and_settle (s->fs));
  free (buf);
}

static void
test_untouched (void **state)
{
  struct setup s;

  (void) state;
  setup_init (&s, EXTENTS);
  memdev_log_start (s.md);
  use_without_change (&s);
  assert_ok (file_trim (s.hole, SIZE, 0, 0));
  setup_close (&s);
  assert_int_equal (memdev_count (s.md, MEMDEV_CHANGES), 0);
  assert_memory_equal (s.md->mem, s.md->log_base, s.md->dev.size);
  memdev_free (s.md);
}

static void
test_readonly (void **state)
{
  const struct filesystem_options opts = { .readonly = true };
  const unsigned mask = MEMDEV_CHANGES | MEMDEV_MASK (MEMDEV_FLUSH);
  struct setup s;
  uint8_t byte = 1;

  (void) state;
  s.md = image_make (EXTENTS, UINT64_C (4) << 20, files);
  assert_ok (filesystem_open (&s.md->dev, &opts, &s.fs));
  assert_false (s.fs->writable);
  s.hole = image_iget (s.fs, "hole");
  s.full = image_iget (s.fs, "full");
  use_without_change (&s);
  assert_int_equal (file_write (s.full, &byte, 1, 0, 0), EROFS);
  assert_int_equal (file_zero (s.full, 1, 0, FILE_FAST), EROFS);
  assert_int_equal (file_trim (s.full, SIZE, 0, FILE_FUA), EROFS);
  setup_close (&s);
  assert_int_equal (memdev_count (s.md, mask), 0);
  memdev_free (s.md);
}

static uint16_t
state_of (struct memdev *md)
{
  return ext2fs_le16_to_cpu (image_super (md)->s_state);
}

static void
test_close_restores_state (void **state)
{
  static const uint16_t states[] = {
    EXT2_VALID_FS, EXT2_VALID_FS | EXT3_ORPHAN_FS,
  };
  struct setup s;
  unsigned i;

  (void) state;
  s.md = image_make (BLOCKS, UINT64_C (4) << 20, files);
  for (i = 0; i < 2; i++) {
    image_super (s.md)->s_state = ext2fs_cpu_to_le16 (states[i]);
    setup_open (&s);
    assert_int_equal (state_of (s.md), states[i]);
    write_block (s.hole, i, 0x55, 0);
    assert_ok (flush_and_settle (s.fs));
    assert_int_equal (state_of (s.md), states[i] & ~EXT2_VALID_FS);
    iput (s.hole);
    image_close (s.fs, s.full);
    assert_int_equal (state_of (s.md), states[i]);
  }
  memdev_free (s.md);
}

/* Times. */

#define OLD 946684800u

/* What the inode's time is on the device. */
static uint32_t
time_on_device (struct memdev *md, const char *name)
{
  struct memdev *copy = memdev_copy (md);
  struct filesystem *fs;
  struct inode *inode;
  uint32_t t;

  copy->dev.writable = false;
  fs = image_open (copy);
  inode = image_iget (fs, name);
  t = inode->raw->i_mtime;
  image_close (fs, inode);
  memdev_free (copy);
  return t;
}

static void
test_times (void **state)
{
  struct setup s;

  (void) state;
  s.md = image_make (EXTENTS, UINT64_C (4) << 20, files);
  image_debugfs (s.md, "set_inode_field full mtime 20000101000000");
  image_debugfs (s.md, "set_inode_field hole mtime 20000101000000");
  setup_open (&s);
  write_block (s.full, 0, 0x66, 0);
  assert_ok (flush_and_settle (s.fs));
  assert_int_equal (time_on_device (s.md, "full"), OLD);
  /* Along with another change... */
  assert_ok (file_trim (s.full, BLOCK, 10 * BLOCK, 0));
  assert_ok (flush_and_settle (s.fs));
  assert_true (time_on_device (s.md, "full") > OLD);
  /* ... which was not one of this file. */
  assert_int_equal (time_on_device (s.md, "hole"), OLD);
  setup_close (&s);

  image_debugfs (s.md, "set_inode_field full mtime 20000101000000");
  setup_open (&s);
  write_block (s.full, 0, 0x77, 0);
  assert_ok (flush_and_settle (s.fs));
  assert_int_equal (time_on_device (s.md, "full"), OLD);
  setup_close (&s);
  assert_true (time_on_device (s.md, "full") > OLD);
  assert_int_equal (time_on_device (s.md, "hole"), OLD);
  memdev_free (s.md);
}

/* FUA. */

/* After a power cut now the block of "hole" is there. */
static void
assert_durable (struct setup *s, uint64_t lblk, uint8_t with)
{
  uint8_t data[BLOCK], expect[BLOCK];
  struct filesystem *fs;
  struct inode *inode;
  struct memdev *cut;
  uint64_t seed;

  memset (expect, with, sizeof expect);
  syncer_drain (s->fs);
  for (seed = 1; seed < 6; seed++) {
    cut = memdev_power_cut (s->md, s->md->log_count, seed);
    assert_in_range (image_fsck (cut, "-fp", 1), 0, 1);
    fs = image_open (cut);
    inode = image_iget (fs, "hole");
    assert_ok (file_read (inode, data, BLOCK, lblk * BLOCK));
    assert_memory_equal (data, expect, BLOCK);
    image_close (fs, inode);
    memdev_free (cut);
  }
}

static void
reopen_hole (struct setup *s)
{
  iput (s->hole);
  s->hole = image_iget (s->fs, "hole");
}

static void
fua (const char *args)
{
  struct setup s;

  setup_init (&s, args);
  memdev_log_start (s.md);
  /* What somebody has just filled. */
  write_block (s.hole, 3, 0x10, 0);
  write_block (s.hole, 3, 0x11, FILE_FUA);
  assert_durable (&s, 3, 0x11);
  /* What somebody had filled who has left; "full" is still in use. */
  write_block (s.hole, 40, 0x20, 0);
  reopen_hole (&s);
  write_block (s.hole, 40, 0x21, FILE_FUA);
  assert_durable (&s, 40, 0x21);
  /* The same where nothing but the last fill was new. */
  write_block (s.hole, 41, 0x22, 0);
  reopen_hole (&s);
  reopen_hole (&s);
  write_block (s.hole, 41, 0x23, FILE_FUA);
  assert_durable (&s, 41, 0x23);
  /* Zeros and holes over data. */
  write_block (s.hole, 50, 0x30, FILE_FUA);
  assert_durable (&s, 50, 0x30);
  assert_ok (file_zero (s.hole, BLOCK, 50 * BLOCK, FILE_FUA));
  assert_durable (&s, 50, 0);
  write_block (s.hole, 51, 0x31, FILE_FUA);
  assert_ok (file_trim (s.hole, BLOCK, 51 * BLOCK, FILE_FUA));
  assert_durable (&s, 51, 0);
  /* Allocated ahead, by one who has left. */
  assert_ok (file_zero (s.hole, 4 * BLOCK, 60 * BLOCK, 0));
  reopen_hole (&s);
  write_block (s.hole, 61, 0x40, 0);
  reopen_hole (&s);
  write_block (s.hole, 61, 0x41, FILE_FUA);
  assert_durable (&s, 61, 0x41);
  memdev_log_stop (s.md);
  setup_free (&s);
}

static void
test_fua_extents (void **state)
{
  (void) state;
  fua (EXTENTS);
}

static void
test_fua_blocks (void **state)
{
  (void) state;
  fua (BLOCKS);
}

/* Freed blocks.  Two files that take turns with the same blocks, each
 * writing its own byte: whatever the power cut, a file has its own bytes
 * and zeros, never the other's or what a trim of the device leaves.
 */

#define LARGE (UINT64_C (1200) * BLOCK)
#define PIECE (UINT64_C (24) * BLOCK)

struct user {
  pthread_t thread;
  struct filesystem *fs;
  struct inode *inode;
  uint8_t byte;
  struct rng rng;
  unsigned rounds;
};

static void *
take_turns (void *opaque)
{
  struct user *u = opaque;
  uint8_t data[PIECE];
  errcode_t err;

  memset (data, u->byte, sizeof data);
  while (u->rounds-- > 0) {
    uint64_t at = rng_below (&u->rng, LARGE / PIECE) * PIECE;

    switch (rng_below (&u->rng, 5)) {
    case 0: case 1:
      err = file_write (u->inode, data, PIECE, at, 0);
      must (err == 0 || err == EXT2_ET_BLOCK_ALLOC_FAIL);
      break;
    case 2:
      must (file_trim (u->inode, PIECE * 4 < LARGE - at ? PIECE * 4
                       : LARGE - at, at, 0) == 0);
      break;
    case 3:
      must (file_zero (u->inode, PIECE, at, FILE_MAY_TRIM) == 0);
      break;
    case 4:
      must (flush_and_settle (u->fs) == 0);
      break;
    }
  }
  return NULL;
}

static void
assert_only (struct filesystem *fs, const char *name, uint8_t byte)
{
  struct inode *inode = image_iget (fs, name);
  uint8_t *buf = malloc (LARGE);
  uint64_t i;

  assert_non_null (buf);
  assert_ok (file_read (inode, buf, LARGE, 0));
  for (i = 0; i < LARGE; i++)
    if (buf[i] != byte && buf[i] != 0)
      fail_msg ("%s has 0x%02x in block %llu", name, buf[i],
                (unsigned long long) i / BLOCK);
  free (buf);
  iput (inode);
}

static void
freed (const char *args)
{
  static const struct image_file list[] = {
    { "a", LARGE, false }, { "b", LARGE, false }, { NULL },
  };
  static const char *const names[] = { "a", "b" };
  /* About 1800 blocks for 2400. */
  struct memdev *md = image_make (args, UINT64_C (1900) * BLOCK, list), *cut;
  struct filesystem *fs = image_open (md);
  struct rng rng = { 99 };
  struct user u[2];
  unsigned i;

  md->delay_us = 40;
  memdev_log_start (md);
  for (i = 0; i < 2; i++) {
    u[i] = (struct user) {
      .fs = fs, .inode = image_iget (fs, names[i]), .byte = 0xa0 + i,
      .rng = { i }, .rounds = image_scale (300),
    };
    assert_int_equal (pthread_create (&u[i].thread, NULL, take_turns, &u[i]),
                      0);
  }
  for (i = 0; i < 2; i++) {
    pthread_join (u[i].thread, NULL);
    iput (u[i].inode);
  }
  memdev_log_stop (md);
  image_close (fs, NULL);
  image_assert_clean (md);

  for (i = 0; i < image_scale (60); i++) {
    cut = memdev_power_cut (md, rng_below (&rng, md->log_count + 1), i);
    assert_in_range (image_fsck (cut, "-fp", 1), 0, 1);
    fs = image_open (cut);
    assert_only (fs, "a", 0xa0);
    assert_only (fs, "b", 0xa1);
    image_close (fs, NULL);
    memdev_free (cut);
  }
  memdev_free (md);
}

static void
test_freed_extents (void **state)
{
  (void) state;
  freed (EXTENTS " -m 0");
}

static void
test_freed_blocks (void **state)
{
  (void) state;
  freed (BLOCKS " -m 0");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_first_extents),
    cmocka_unit_test (test_first_blocks),
    cmocka_unit_test (test_second_blocks),
    cmocka_unit_test (test_overwrite_costs_one_flush),
    cmocka_unit_test (test_untouched),
    cmocka_unit_test (test_readonly),
    cmocka_unit_test (test_close_restores_state),
    cmocka_unit_test (test_times),
    cmocka_unit_test (test_fua_extents),
    cmocka_unit_test (test_fua_blocks),
    cmocka_unit_test (test_freed_extents),
    cmocka_unit_test (test_freed_blocks),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Damaged images in which two pointers lead to one block.  Whichever way
 * it is freed, once or by way of both, in one transaction or in two: as
 * long as the block has not been given to a third file before, that file
 * keeps what is written to it, and the damage is said once.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "fs.h"
#include "image.h"
#include "inode.h"
#include "map.h"
#include "sync.h"

#define BS 1024u
/* Several groups, because a damaged one is not used any more. */
#define SIZE (UINT64_C (8) << 20)
#define BLOCKS 40u              /* of the files that share one */
#define SHARED 10u              /* the block that A shares with B ... */
#define OTHER 20u               /* ... which has it here */

static const struct image_file files[] = {
  { "a", BLOCKS * BS, true }, { "b", BLOCKS * BS, true },
  { "c", UINT64_C (16) << 20, false }, { NULL },
};

static const char *const kinds[] = {
  "-t ext2 -b 1024 -g 2048 -m 0",
  "-t ext4 -b 1024 -g 2048 -m 0 -O ^has_journal,^metadata_csum,^flex_bg",
  "-t ext4 -b 1024 -g 2048 -m 0 -O ^has_journal,^flex_bg",
  "-t ext4 -b 1024 -g 2048 -m 0 -O ^metadata_csum,^flex_bg -J size=1",
  "-t ext3 -b 1024 -g 2048 -m 0 -J size=1",
};
#define KINDS (sizeof kinds / sizeof *kinds)

struct world {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *a, *b, *c;
  unsigned errors;              /* said before */
};

static uint64_t
place_of (struct inode *inode, uint64_t lblk)
{
  struct mapping m;

  inode_map_lock_shared (inode);
  assert_ok (map_lookup (inode, lblk, 1, &m));
  inode_map_unlock_shared (inode);
  assert_int_not_equal (m.state, MAP_HOLE);
  return m.pblk;
}

/* Where A's SHARED-th block is, before anything is damaged. */
static uint64_t
look_up_shared (struct memdev *md)
{
  struct filesystem *fs = image_open (md);
  struct inode *a = image_iget (fs, "a");
  uint64_t pblk = place_of (a, SHARED);

  image_close (fs, a);
  return pblk;
}

static void
open_world (struct world *w, struct memdev *md)
{
  w->md = md;
  md->trim_discards = true;
  w->fs = image_open (md);
  w->a = image_iget (w->fs, "a");
  w->b = image_iget (w->fs, "b");
  w->c = image_iget (w->fs, "c");
  w->errors = image_errors ();
}

/* FILE's OTHER-th block becomes A's SHARED-th.  Returns that block. */
static uint64_t
make_world (struct world *w, const char *kind, const char *file)
{
  struct memdev *md = image_make (kind, SIZE, files);
  const uint64_t pblk = look_up_shared (md);
  char command[64];

  snprintf (command, sizeof command, "sif %s bmap[%u] %llu", file, OTHER,
            (unsigned long long) pblk);
  image_debugfs (md, command);
  open_world (w, md);
  assert_int_equal (place_of (file[0] == 'a' ? w->a : w->b, OTHER), pblk);
  return pblk;
}

static void
close_world (struct world *w)
{
  iput (w->a);
  iput (w->b);
  iput (w->c);
  assert_ok (filesystem_close (w->fs));
}

static void
trim (struct inode *inode)
{
  assert_ok (file_trim (inode, inode->size, 0, 0));
}

static void
commit_and_release (struct world *w)
{
  assert_ok (filesystem_flush (w->fs));
  syncer_drain (w->fs);
}

/* What the disk has goes to C, but for the groups that are known to be
 * damaged, which may be found out by a write that fails.  Returns how much
 * that was, in bytes.
 */
static uint64_t
fill_disk (struct world *w)
{
  uint8_t buf[BS];
  uint64_t at = 0;
  unsigned failed = 0;
  errcode_t err = 0;

  while (at < w->c->size && errcode_to_errno (err) != ENOSPC) {
    memset (buf, 1 + at / BS % 251, BS);
    err = file_write (w->c, buf, BS, at, 0);
    if (!err)
      at += BS;
    else if (err == EXT2_FILSYS_CORRUPTED)
      assert_true (failed++ < 2);
  }
  assert_true (at > 100 * BS && at < w->c->size);
  return at;
}

static void
check_file (struct inode *c, uint64_t size)
{
  uint8_t buf[BS], want[BS];
  uint64_t at;

  for (at = 0; at < size; at += BS) {
    memset (want, 1 + at / BS % 251, BS);
    assert_ok (file_read (c, buf, BS, at));
    assert_memory_equal (buf, want, BS);
  }
}

/* C has what was written to it, now and as the next server sees it, who
 * may not write because of the damage.
 */
static void
end_world (struct world *w, uint64_t size)
{
  const struct filesystem_options opts = { .readonly = true };
  struct filesystem *fs;
  struct inode *c;

  commit_and_release (w);
  check_file (w->c, size);
  close_world (w);
  assert_ok (filesystem_open (&w->md->dev, &opts, &fs));
  c = image_iget (fs, "c");
  check_file (c, size);
  image_close (fs, c);
  memdev_free (w->md);
}

static void
said_once (struct world *w)
{
  assert_int_equal (image_errors (), w->errors + 1);
}

#define EACH_KIND(kind)                                                 \
  for (const char *const *k_ = kinds, *kind; k_ < kinds + KINDS &&      \
         (kind = *k_, true); k_++)

static void
test_one_set (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct world w;
    uint64_t size;

    make_world (&w, kind, "b");
    trim (w.a);
    trim (w.b);
    said_once (&w);
    commit_and_release (&w);
    size = fill_disk (&w);
    end_world (&w, size);
    said_once (&w);
  }
}

/* One file has both. */
static void
test_one_file (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct world w;
    uint64_t size;

    make_world (&w, kind, "a");
    trim (w.a);
    commit_and_release (&w);
    size = fill_disk (&w);
    end_world (&w, size);
    said_once (&w);
  }
}

/* The first freeing is durable, and the device is being told of it, when
 * the second comes; which is durable only after the block could have gone
 * to somebody else.
 */
static void
test_while_released (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct world w;
    uint64_t size;

    make_world (&w, kind, "b");
    memdev_hold_trims (w.md, true);
    trim (w.a);
    assert_ok (filesystem_flush (w.fs));
    memdev_wait_held (w.md);
    trim (w.b);
    memdev_hold_trims (w.md, false);
    syncer_drain (w.fs);
    size = fill_disk (&w);
    end_world (&w, size);
    said_once (&w);
  }
}

/* It has been released, but nobody has got it. */
static void
test_after_release (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct world w;
    uint64_t size;

    make_world (&w, kind, "b");
    trim (w.a);
    commit_and_release (&w);
    trim (w.b);
    said_once (&w);
    size = fill_disk (&w);
    end_world (&w, size);
    said_once (&w);
  }
}

/* Trees. */

/* Files in many pieces, so that they have a tree block each. */
static const struct image_file pieces[] = {
  { "a", 64 * BS, false }, { "b", 64 * BS, false },
  { "c", UINT64_C (16) << 20, false }, { NULL },
};

static void
write_pieces (struct inode *inode)
{
  const uint8_t byte = 0x77;
  unsigned i;

  for (i = 16; i < 64; i += 2)
    assert_ok (file_write (inode, &byte, 1, i * BS, 0));
}

/* Extents: the first index in the inode; else the pointer to the first
 * indirect block.
 */
static uint64_t
tree_block (struct inode *inode)
{
  const bool extents = inode->kind == MAPPED_BY_EXTENTS;

  return ext2fs_le32_to_cpu (inode->raw->i_block[extents ? 4 : 12]);
}

/* B's tree block is A's. */
static void
make_shared_tree (struct world *w, const char *kind)
{
  struct memdev *md = image_make (kind, SIZE, pieces);
  char command[64];

  open_world (w, md);
  write_pieces (w->a);
  write_pieces (w->b);
  snprintf (command, sizeof command, "sif b block[%s] %llu",
            w->a->kind == MAPPED_BY_EXTENTS ? "4" : "IND",
            (unsigned long long) tree_block (w->a));
  close_world (w);
  image_debugfs (md, command);
  open_world (w, md);
}

/* A's tree is freed, B's edited: that is refused as long as the freeing is
 * pending, and afterwards; and never does B's tree get written over what
 * the block has become.
 */
static void
test_shared_tree (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct world w;
    uint64_t size;
    uint8_t byte = 1;

    if (strcmp (kind, kinds[2]) == 0)
      continue;                 /* its checksums tell at once */
    make_shared_tree (&w, kind);
    trim (w.a);
    assert_int_equal (file_write (w.b, &byte, 1, 17 * BS, 0),
                      EXT2_FILSYS_CORRUPTED);
    commit_and_release (&w);
    size = fill_disk (&w);
    file_write (w.b, &byte, 1, 19 * BS, 0);
    file_trim (w.b, w.b->size, 0, 0);
    end_world (&w, size);
  }
}

/* The same if B's tree was looked at while nobody had the block, on a device
 * that keeps what it is told to forget: what is remembered of it must not
 * be changed and written when the block has become another file's data.
 */
static void
test_shared_tree_reused (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct world w;
    uint64_t size;
    uint8_t byte = 1;

    if (strcmp (kind, kinds[2]) == 0)
      continue;
    make_shared_tree (&w, kind);
    w.md->dev.can_trim = false;
    trim (w.a);
    commit_and_release (&w);
    assert_ok (file_read (w.b, &byte, 1, 16 * BS));
    size = fill_disk (&w);
    file_trim (w.b, BS, 18 * BS, 0);
    end_world (&w, size);
  }
}

/* B's tree block is a block of data for A.  B has changed it, and a journal
 * is yet to write it in place, when A frees it.
 */
static void
test_tree_is_data (void **state)
{
  (void) state;
  EACH_KIND (kind) {
    struct memdev *md = image_make (kind, SIZE, pieces);
    struct world w;
    uint64_t size;
    uint8_t byte = 1;
    char command[64];

    if (strcmp (kind, kinds[2]) == 0) {
      memdev_free (md);
      continue;
    }
    open_world (&w, md);
    assert_ok (file_write (w.a, &byte, 1, SHARED * BS, 0));
    write_pieces (w.b);
    snprintf (command, sizeof command, "sif a bmap[%u] %llu", SHARED,
              (unsigned long long) tree_block (w.b));
    close_world (&w);
    image_debugfs (md, command);
    open_world (&w, md);
    md->dev.can_trim = false;
    assert_ok (file_write (w.b, &byte, 1, 17 * BS, 0));
    assert_ok (filesystem_flush (w.fs));
    trim (w.a);
    commit_and_release (&w);
    size = fill_disk (&w);
    end_world (&w, size);
  }
}

/* What a group remembers, against a plain array. */
static void
test_remembered (void **state)
{
  struct rng rng = { 7 };
  struct world w;
  bool freed[2048] = { false };
  unsigned i, k, bit, n, any;

  (void) state;
  open_world (&w, image_make (kinds[0], SIZE, files));
  lock_acquire (&w.fs->lock);
  for (i = 0; i < 20000; i++) {
    /* Runs that grow and shrink at the ends for a while, then at random. */
    n = 1 + rng_below (&rng, 50);
    bit = rng_below (&rng, i % 4000 < 2000 ? 300 : 2048) % (2048 - n);
    for (any = 0, k = bit; k < bit + n; k++)
      any |= freed[k];
    assert_int_equal (group_is_freed (w.fs, 1, bit, n), any);
    if (!any)
      group_note_freed (w.fs, 1, bit, n);
    else
      group_note_released (w.fs, 1, bit, n);
    memset (freed + bit, !any, n);
  }
  group_note_released (w.fs, 1, 0, 2048);
  assert_null (w.fs->alloc.groups[1].freed);
  lock_release (&w.fs->lock);
  close_world (&w);
  memdev_free (w.md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_one_set),
    cmocka_unit_test (test_one_file),
    cmocka_unit_test (test_while_released),
    cmocka_unit_test (test_after_release),
    cmocka_unit_test (test_shared_tree),
    cmocka_unit_test (test_shared_tree_reused),
    cmocka_unit_test (test_tree_is_data),
    cmocka_unit_test (test_remembered),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

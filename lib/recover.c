/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Recovery of a journal.
 *
 * The steps, each but the last a walk along the log, which takes no memory:
 *
 *   scan     from the log's start: headers with the expected transaction's
 *            number, up to where there is none.  Finds out which
 *            transactions are complete; collects the blocks of the
 *            filesystem that there are copies of (targets.h).
 *   revoke   for each target, the last transaction that revoked it: what
 *            that and earlier ones have logged of it is not replayed.
 *   verify   checksums of what is to be replayed; the last copy of each
 *            target is the one that counts.
 *   write    see recover.h.  For readers nothing is written: what they are
 *            shown is where the copies lie (overlay.h).
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "overlay.h"
#include "recover-log.h"

#define SUPER_OFFSET 1024u

size_t recover_most_targets = TARGETS_MAX;

/* Revoke. */

static errcode_t
read_revokes (struct recover *rc, const uint8_t *block, uint32_t tid,
              uint32_t jblk)
{
  const struct jbd2_format *f = &rc->j->format;
  const uint32_t size = jbd2_revoke_size (f);
  struct jbd2_revoke head;
  uint32_t at = sizeof head, used;

  memcpy (&head, block, sizeof head);
  used = ext2fs_be32_to_cpu (head.used);
  if (used > rc->block_size - (f->csum_v2 || f->csum_v3 ? 4 : 0))
    return recover_corrupt ("impossible revoke block at", jblk);
  for (; at + size <= used; at += size) {
    uint64_t blkno = 0;
    struct target *t;
    uint32_t i, *by;

    for (i = 0; i < size; i++)
      blkno = blkno << 8 | block[at + i];
    t = targets_find (&rc->targets, blkno);
    if (t == NULL)
      continue;
    by = &rc->revoked_by[t - rc->targets.t];
    if (!t->revoked || jbd2_tid_geq (tid, *by)) {
      t->revoked = true;
      *by = tid;
    }
  }
  return 0;
}

static errcode_t
revoke (struct recover *rc)
{
  static const struct recover_visitor v = { .revoke = read_revokes };

  if (!rc->revokes)
    return 0;
  rc->revoked_by = calloc (rc->targets.count + 1, sizeof *rc->revoked_by);
  return rc->revoked_by ? recover_walk (rc, &v) : ENOMEM;
}

/* Verify. */

static uint64_t
device_block (const struct recover *rc, uint32_t jblk)
{
  uint32_t len;

  return journal_block (rc->j, jblk, &len);
}

/* Also decides which copy of each target counts: the last one. */
static errcode_t
verify_logged (struct recover *rc, const struct jbd2_tag *tag, uint32_t tid,
               uint32_t jblk)
{
  const struct jbd2_format *f = &rc->j->format;
  struct target *t = targets_find (&rc->targets, tag->blkno);
  const uint8_t *block;
  errcode_t err;

  if (t == NULL)
    return recover_changed ();
  if (t->revoked &&
      jbd2_tid_geq (rc->revoked_by[t - rc->targets.t], tid)) {
    rc->r->revoked++;
    return 0;
  }
  if (f->csum_v2 || f->csum_v3) {
    err = recover_log_block (rc, jblk, &block);
    if (err)
      return err;
    if (jbd2_data_checksum (f, tid, block) != tag->checksum)
      return recover_corrupt ("wrong checksum of block", tag->blkno);
  }
  t->copy = device_block (rc, jblk);
  t->escaped = tag->escaped;
  return 0;
}

static errcode_t
verify (struct recover *rc)
{
  static const struct recover_visitor v = { .tag = verify_logged };

  return recover_walk (rc, &v);
}

/* T's copy, which is in BLOCK, as it is to be written. */
static void
unescape (const struct target *t, uint8_t *block)
{
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);

  if (t->escaped)
    memcpy (block, &magic, sizeof magic);
}

static struct ext2_super_block *
super_in (const struct recover *rc)
{
  return (struct ext2_super_block *) (void *)
    (rc->super + SUPER_OFFSET % rc->block_size);
}

static errcode_t
read_for_super (struct recover *rc, uint64_t blk)
{
  errcode_t err = device_pread (rc->fs->dev, rc->super, rc->block_size,
                                blk * rc->block_size);
  char why[128];

  if (err)
    log_error ("cannot read the superblock to replay the journal: %s: see to "
               "the device, then try again",
               errcode_text (err, why, sizeof why));
  return err;
}

/* rc->super becomes the block that holds the superblock, on the device
 * or of the log; with the errors recorded so far.
 */
static errcode_t
prepare_super (struct recover *rc)
{
  const size_t from = offsetof (struct ext2_super_block, s_error_count);
  const size_t to = offsetof (struct ext2_super_block, s_mount_opts);
  const struct target *t = targets_find (&rc->targets, rc->super_block);
  const uint16_t error = ext2fs_cpu_to_le16 (EXT2_ERROR_FS);
  struct ext2_super_block *sb, old;
  errcode_t err;

  rc->super = malloc (rc->block_size);
  if (rc->super == NULL)
    return ENOMEM;
  sb = super_in (rc);
  err = read_for_super (rc, rc->super_block);
  if (err)
    return err;
  old = *sb;
  super_get_rest (sb, rc->super_rest);
  if (t && t->copy) {
    err = read_for_super (rc, t->copy);
    if (err)
      return err;
    unescape (t, rc->super);
    if (ext2fs_le16_to_cpu (sb->s_magic) != EXT2_SUPER_MAGIC)
      return recover_corrupt ("it holds no superblock for block", rc->super_block);
    memcpy ((char *) sb + from, (char *) &old + from, to - from);
    sb->s_state |= old.s_state & error;
    rc->super_changed = true;
  }
  if (rc->j->super.error && !(sb->s_state & error)) {
    sb->s_state |= error;
    rc->super_changed = true;
  }
  return 0;
}

static uint64_t
blocks_of (const struct ext2_super_block *sb)
{
  uint64_t n = ext2fs_le32_to_cpu (sb->s_blocks_count);

  if (sb->s_feature_incompat &
      ext2fs_cpu_to_le32 (EXT4_FEATURE_INCOMPAT_64BIT))
    n |= (uint64_t) ext2fs_le32_to_cpu (sb->s_blocks_count_hi) << 32;
  return n;
}

/* Every target is in the filesystem, as it is or as the log makes it if
 * it was being resized, but not in the journal (inv 3).
 *
 * Growing a filesystem logs the metadata of a new group first, and the
 * superblock that brings it later, maybe in another transaction.  If that
 * one is not complete, those blocks lie behind the filesystem's end, and
 * whatever grows it next makes them anew: they are left out.
 */
static errcode_t
check_targets (struct recover *rc)
{
  const uint64_t device = rc->fs->dev->size / rc->block_size;
  uint64_t end = blocks_of (super_in (rc));
  struct syszone journal = { .count = 0 };
  size_t i, outside = 0;
  errcode_t err = 0;

  if (end < rc->fs->blocks)
    end = rc->fs->blocks;
  if (end > device)
    end = device;
  for (i = 0; i < rc->j->run_count && !err; i++)
    err = syszone_add (&journal, rc->j->runs[i].pblk, rc->j->runs[i].len);
  syszone_finish (&journal);
  for (i = 0; i < rc->targets.count && !err; i++) {
    struct target *t = &rc->targets.t[i];

    if (!t->copy)
      continue;
    rc->r->blocks++;
    if (t->blkno < rc->fs->first_block || t->blkno >= device)
      err = recover_corrupt ("it holds a block outside the filesystem,", t->blkno);
    else if (syszone_overlaps (&journal, t->blkno, 1))
      err = recover_corrupt ("it holds a block of the journal,", t->blkno);
    else if (t->blkno >= end) {
      t->copy = 0;
      rc->r->blocks--;
      outside++;
    }
  }
  syszone_free (&journal);
  if (!err && outside > 0)
    log_warning ("the journal holds %zu blocks behind the filesystem's end, "
                 "as if it was being enlarged: they are left out", outside);
  return err;
}

/* Write. */

static errcode_t
write_error (errcode_t err)
{
  char why[128];

  if (err)
    log_error ("the journal could not be replayed: %s: see to that, then try "
               "again", errcode_text (err, why, sizeof why));
  return err;
}

static void
set_recover (struct ext2_super_block *sb, bool needs_recovery)
{
  const uint32_t recover =
    ext2fs_cpu_to_le32 (EXT3_FEATURE_INCOMPAT_RECOVER);

  if (needs_recovery)
    sb->s_feature_incompat |= recover;
  else
    sb->s_feature_incompat &= ~recover;
}

static errcode_t
write_super (struct recover *rc, bool needs_recovery)
{
  errcode_t err;

  set_recover (super_in (rc), needs_recovery);
  super_seal (super_in (rc), rc->super_rest);
  err = device_pwrite (rc->out, rc->super, rc->block_size,
                       rc->super_block * rc->block_size, 0);
  return write_error (err ? err : device_flush (rc->out));
}

static errcode_t
write_batch (struct recover *rc)
{
  struct batch *b = &rc->batch;
  const uint64_t n = b->n;

  b->n = 0;
  return n == 0 ? 0
    : write_error (device_pwrite (rc->out, b->data, n * rc->block_size,
                                  b->start * rc->block_size, 0));
}

static errcode_t
write_logged (struct recover *rc, const struct jbd2_tag *tag, uint32_t tid,
              uint32_t jblk)
{
  const struct target *t = targets_find (&rc->targets, tag->blkno);
  const uint32_t bs = rc->block_size;
  struct batch *b = &rc->batch;
  const uint8_t *block;
  uint8_t *p;
  errcode_t err;

  (void) tid;
  if (t == NULL || t->copy != device_block (rc, jblk) ||
      t->blkno == rc->super_block)
    return 0;
  if ((b->n == WINDOW / bs || t->blkno != b->start + b->n) &&
      (err = write_batch (rc)))
    return err;
  err = recover_log_block (rc, jblk, &block);
  if (err)
    return err;
  if (b->n == 0)
    b->start = t->blkno;
  p = b->data + (size_t) b->n++ * bs;
  memcpy (p, block, bs);
  unescape (t, p);
  return 0;
}

/* Step 1, in the log's order. */
static errcode_t
write_blocks (struct recover *rc)
{
  static const struct recover_visitor v = { .tag = write_logged };
  errcode_t err = recover_walk (rc, &v);

  if (!err)
    err = write_batch (rc);
  return err ? err : write_error (device_flush (rc->out));
}

/* The same for readers. */
static void
show_blocks (struct recover *rc)
{
  targets_drop_unused (&rc->targets);
  overlay_show (rc->overlay, &rc->targets);
}

/* Steps 2 and 3, for readers also 4.  Linux leaves no fast commits in an
 * empty log, nor the feature; and counts on by one also where there was
 * nothing (inv 5).
 */
static errcode_t
finish (struct recover *rc)
{
  struct jbd2_super *js = &rc->j->super;
  errcode_t err;

  if (rc->super_changed && (err = write_super (rc, true)))
    return err;
  js->sequence = ext2fs_cpu_to_be32 (rc->end_tid + 1);
  js->start = 0;
  js->error = 0;
  if (js->h.type == ext2fs_cpu_to_be32 (JBD2_SUPER_V2))
    js->incompat &= ~ext2fs_cpu_to_be32 (JBD2_INCOMPAT_FAST);
  err = write_error (journal_write_super (rc->j, rc->out, DEVICE_FUA));
  if (!err && rc->overlay)
    err = write_super (rc, false);
  return err;
}

errcode_t
recover_finish (struct filesystem *fs)
{
  union {
    struct ext2_super_block sb;
    uint8_t bytes[1024];
  } u;
  uint64_t blocks = 0, inodes = 0;
  uint8_t rest[SUPER_REST];
  dgrp_t g;
  errcode_t err;

  lock_assert_held (LOCK_FS);
  for (g = 0; g < fs->e2->group_desc_count; g++) {
    blocks += ext2fs_bg_free_blocks_count (fs->e2, g);
    inodes += ext2fs_bg_free_inodes_count (fs->e2, g);
  }
  err = device_pread (fs->dev, u.bytes, sizeof u.bytes, SUPER_OFFSET);
  if (err)
    return write_error (err);
  u.sb.s_free_blocks_count = ext2fs_cpu_to_le32 ((uint32_t) blocks);
  if (ext2fs_has_feature_64bit (fs->e2->super))
    u.sb.s_free_blocks_hi = ext2fs_cpu_to_le32 (blocks >> 32);
  u.sb.s_free_inodes_count = ext2fs_cpu_to_le32 ((uint32_t) inodes);
  super_get_rest (&u.sb, rest);
  set_recover (&u.sb, false);
  super_seal (&u.sb, rest);
  err = device_pwrite (fs->dev, u.bytes, sizeof u.bytes, SUPER_OFFSET, 0);
  if (!err)
    err = device_flush (fs->dev);
  return write_error (err);
}

static errcode_t
read_log (struct recover *rc)
{
  errcode_t err = ENOMEM;

  if (rc->window && rc->descriptor && (rc->overlay || rc->batch.data) &&
      !(err = recover_scan (rc)) && !(err = revoke (rc)) &&
      !(err = verify (rc)) && !(err = prepare_super (rc)))
    err = check_targets (rc);
  if (err == ENOMEM)
    log_error ("not enough memory to replay the journal");
  return err;
}

static errcode_t
replay (struct recover *rc)
{
  errcode_t err = 0;

  rc->r->transactions = rc->end_tid - rc->start_tid;
  if (rc->overlay)
    show_blocks (rc);
  else
    err = write_blocks (rc);
  return err ? err : finish (rc);
}

errcode_t
recover_journal (struct filesystem *fs, struct journal *j,
                 struct overlay *overlay, struct recovery *r)
{
  struct recover rc = {
    .fs = fs, .j = j, .overlay = overlay, .r = r,
    .out = overlay ? overlay_device (overlay) : fs->dev,
    .block_size = fs->block_size,
    .window = malloc (WINDOW), .descriptor = malloc (fs->block_size),
    .batch.data = overlay ? NULL : malloc (WINDOW),
    .targets.most = recover_most_targets,
    .super_block = SUPER_OFFSET / fs->block_size,
  };
  errcode_t err;

  lock_assert_held (LOCK_FS);
  memset (r, 0, sizeof *r);
  if (j->super.h.type == ext2fs_cpu_to_be32 (JBD2_SUPER_V2)) {
    rc.csum_v1 = j->super.compat & ext2fs_cpu_to_be32 (JBD2_COMPAT_CHECKSUM);
    rc.async = j->super.incompat & ext2fs_cpu_to_be32 (JBD2_INCOMPAT_ASYNC);
  }
  err = read_log (&rc);
  if (!err)
    err = replay (&rc);
  free (rc.window);
  free (rc.descriptor);
  free (rc.batch.data);
  free (rc.revoked_by);
  free (rc.super);
  targets_free (&rc.targets);
  return err;
}

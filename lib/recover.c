/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Recovery of a journal.
 *
 * The steps, the first three as Linux does them:
 *
 *   scan     walk the log from its start: headers with the expected
 *            transaction's number, up to where there is none.  Finds out
 *            which transactions are complete; notes where the descriptor
 *            and revoke blocks are.
 *   collect  list the logged blocks of complete transactions, and the
 *            blocks of the filesystem they are for (the targets).
 *   revoke   for each target, the last transaction that revoked it: what
 *            that and earlier ones have logged of it is not replayed.
 *   verify   checksums of what is to be replayed; the last copy of each
 *            target is the one that counts.
 *   write    see recover.h.
 *
 * What a bad checksum means depends on where it is.  In a descriptor or
 * revoke block, or a commit block, of a transaction whose commit time
 * goes backwards, it means that this is an old log's rest and ours ends
 * here.  Otherwise a commit was recorded and does not fit what it
 * commits: the journal is corrupt, and recovery refuses.
 *
 * A transaction whose blocks would go once around the log and over its
 * beginning is none: the log ends before it.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "recover.h"
#include "super-seal.h"

/* Log blocks are read in windows of this size.  Bytes. */
#define WINDOW ((size_t) 1 << 20)

#define SUPER_OFFSET 1024u

/* Fast commits.  Source: the kernel's ext4 documentation. */
#define FAST_TAG_HEAD 9u

/* A descriptor or revoke block of the log. */
struct mark {
  uint32_t jblk;
  uint32_t tid;
  bool revoke;
};

/* A block in the log. */
struct logged {
  uint64_t blkno;               /* its place in the filesystem */
  uint32_t target;              /* index */
  uint32_t jblk, tid;
  uint32_t checksum;
  bool escaped;
};

struct target {
  uint64_t blkno;
  uint32_t last;                /* logged: index of the copy that counts */
  uint32_t revoke_tid;
  bool revoked, used;
};

struct recover {
  struct filesystem *fs;
  struct journal *j;
  struct device *out;
  uint32_t block_size;
  bool csum_v1, async;

  /* A window of the log. */
  uint8_t *window;
  uint32_t window_start, window_len;    /* blocks of the journal */

  uint32_t start_tid, end_tid;  /* complete: [start_tid, end_tid) */
  struct mark *marks;
  size_t mark_count, mark_size;
  struct logged *logged;        /* in the log's order */
  size_t logged_count, logged_size;
  struct target *targets;       /* by block */
  size_t target_count;

  uint64_t super_block;         /* the block with the superblock */
  uint8_t *super;               /* it, as the replay leaves it */
  uint8_t super_rest[SUPER_REST]; /* super-seal.h */
  bool super_changed;
};

static errcode_t
corrupt (const char *what, uint64_t number)
{
  log_error ("the journal cannot be replayed: %s %llu: run e2fsck -fy",
             what, (unsigned long long) number);
  return EXT2_ET_CORRUPT_JOURNAL_SB;
}

/* Reading the log. */

/* At most MOST blocks from JBLK on. */
static errcode_t
fill_window (struct recover *rc, uint32_t jblk, uint32_t most)
{
  uint32_t n = 0, len;
  errcode_t err;

  rc->window_len = 0;
  while (n < most && jblk + n < rc->j->blocks) {
    uint64_t pblk = journal_block (rc->j, jblk + n, &len);

    if (len > most - n)
      len = most - n;
    err = device_pread (rc->fs->dev, rc->window + (size_t) n * rc->block_size,
                        (uint64_t) len * rc->block_size,
                        pblk * rc->block_size);
    if (err)
      return err;
    n += len;
  }
  rc->window_start = jblk;
  rc->window_len = n;
  return 0;
}

/* Block JBLK of the journal, in *BLOCK until the next call. */
static errcode_t
log_block (struct recover *rc, uint32_t jblk, const uint8_t **block)
{
  errcode_t err;

  if (jblk < rc->window_start || jblk - rc->window_start >= rc->window_len) {
    err = fill_window (rc, jblk, WINDOW / rc->block_size);
    /* A block behind the log's end may be bad: one that was being written
     * when the power was cut.
     */
    if (err)
      err = fill_window (rc, jblk, 1);
    if (err) {
      log_error ("cannot read the journal at block %lu: the device does not "
                 "read well, or run e2fsck -fy", (unsigned long) jblk);
      return err;
    }
  }
  *block = rc->window + (size_t) (jblk - rc->window_start) * rc->block_size;
  return 0;
}

/* N blocks on from JBLK in the log. */
static uint32_t
advance (const struct recover *rc, uint32_t jblk, uint32_t n)
{
  const uint32_t len = rc->j->end - rc->j->first;

  return rc->j->first + (jblk - rc->j->first + (uint64_t) n) % len;
}

/* Scan. */

struct walk {
  uint32_t next;                /* block of the journal */
  uint32_t left;                /* blocks until once around */
  uint32_t tid;                 /* expected */
  bool bad;                     /* a header's checksum was wrong */
  bool failed;                  /* end_tid's commit block was wrong */
  uint64_t commit_time;         /* of the last good commit */
  uint32_t crc;                 /* v1: of the transaction so far */
  uint8_t *copy;                /* of a descriptor */
};

static errcode_t
add_mark (struct recover *rc, uint32_t jblk, uint32_t tid, bool revoke)
{
  if (rc->mark_count == rc->mark_size) {
    size_t n = rc->mark_size ? 2 * rc->mark_size : 256;
    struct mark *p = realloc (rc->marks, n * sizeof *p);

    if (p == NULL)
      return ENOMEM;
    rc->marks = p;
    rc->mark_size = n;
  }
  rc->marks[rc->mark_count++] = (struct mark) { jblk, tid, revoke };
  return 0;
}

static uint32_t
count_tags (const struct recover *rc, const uint8_t *block)
{
  size_t offset = JBD2_FIRST_TAG;
  struct jbd2_tag tag;
  uint32_t n = 0;

  while (jbd2_get_tag (&rc->j->format, block, &offset, &tag))
    n++;
  return n;
}

/* A descriptor, and past the N blocks it describes.  *END if they are
 * more than the log has.
 */
static errcode_t
scan_descriptor (struct recover *rc, struct walk *w, const uint8_t *block,
                 bool *end)
{
  const uint32_t n = count_tags (rc, block);
  uint32_t i;
  errcode_t err;

  if (!jbd2_tail_ok (&rc->j->format, block))
    w->bad = true;
  if (n > w->left) {
    *end = true;
    return 0;
  }
  if (rc->csum_v1 && !w->failed) {
    w->crc = ext2fs_crc32_be (w->crc, block, rc->block_size);
    for (i = 0; i < n; i++) {
      err = log_block (rc, advance (rc, w->next, i), &block);
      if (err)
        return err;
      w->crc = ext2fs_crc32_be (w->crc, block, rc->block_size);
    }
  }
  w->next = advance (rc, w->next, n);
  w->left -= n;
  return 0;
}

/* A device may write a block's sectors one by one, and then die: the
 * fields alone, followed by zeros, are a good commit too, because all of
 * what is committed was durable before.
 */
static bool
commit_fields_ok (const struct recover *rc, const struct walk *w,
                  const uint8_t *block)
{
  memset (w->copy, 0, rc->block_size);
  memcpy (w->copy, block, sizeof (struct jbd2_commit));
  return jbd2_commit_ok (&rc->j->format, w->copy);
}

static bool
commit_ok (const struct recover *rc, const struct walk *w,
           const uint8_t *block)
{
  struct jbd2_commit c;

  if (!rc->csum_v1)
    return jbd2_commit_ok (&rc->j->format, block) ||
      commit_fields_ok (rc, w, block);
  memcpy (&c, block, sizeof c);
  if (c.csum_type == 0 && c.csum_size == 0 && c.checksum[0] == 0)
    return true;                /* none was made */
  return c.csum_type == JBD2_CSUM_CRC32 && c.csum_size == 4 &&
    ext2fs_be32_to_cpu (c.checksum[0]) == w->crc;
}

static errcode_t
scan_commit (struct recover *rc, struct walk *w, const uint8_t *block,
             bool *end)
{
  struct jbd2_commit c;
  uint64_t commit_time;
  bool ok;

  memcpy (&c, block, sizeof c);
  commit_time = ext2fs_be64_to_cpu (c.sec);
  ok = commit_ok (rc, w, block);
  if (w->bad || !ok) {
    if (commit_time < w->commit_time) {
      *end = true;
      return 0;
    }
    /* Only an asynchronous commit may be seen before what it commits; and
     * not if there is another one after it.
     */
    if (w->bad || w->failed || !rc->async)
      return corrupt ("wrong checksum in transaction",
                      w->failed ? rc->end_tid : w->tid);
  }
  else if (w->failed)
    return corrupt ("wrong checksum in transaction", rc->end_tid);
  if (!ok) {
    w->failed = true;
    rc->end_tid = w->tid;
  }
  w->commit_time = commit_time;
  w->crc = ~0u;
  w->tid++;
  return 0;
}

static errcode_t
scan_block (struct recover *rc, struct walk *w, const uint8_t *block,
            bool *end)
{
  const uint32_t jblk = w->next;
  errcode_t err;

  switch (jbd2_type (block, w->tid)) {
  case JBD2_DESCRIPTOR:
    w->next = advance (rc, jblk, 1);
    err = add_mark (rc, jblk, w->tid, false);
    return err ? err : scan_descriptor (rc, w, block, end);
  case JBD2_REVOKE:
    w->next = advance (rc, jblk, 1);
    if (!jbd2_tail_ok (&rc->j->format, block))
      w->bad = true;
    return add_mark (rc, jblk, w->tid, true);
  case JBD2_COMMIT:
    w->next = advance (rc, jblk, 1);
    return scan_commit (rc, w, block, end);
  default:
    *end = true;
    return 0;
  }
}

static errcode_t
scan (struct recover *rc)
{
  const struct jbd2_super *js = &rc->j->super;
  struct walk w = {
    .next = ext2fs_be32_to_cpu (js->start),
    .left = rc->j->end - rc->j->first,
    .tid = ext2fs_be32_to_cpu (js->sequence),
    .crc = ~0u,
    .copy = malloc (rc->block_size),
  };
  const uint8_t *block;
  bool end = false;
  errcode_t err = w.copy ? 0 : ENOMEM;

  rc->start_tid = rc->end_tid = w.tid;
  if (w.next == 0)              /* the log is empty */
    end = true;
  while (!err && !end && w.left > 0) {
    w.left--;
    err = log_block (rc, w.next, &block);
    if (!err)
      err = scan_block (rc, &w, block, &end);
  }
  if (!w.failed)
    rc->end_tid = w.tid;
  free (w.copy);
  return err;
}

static bool
is_complete (const struct recover *rc, uint32_t tid)
{
  return !jbd2_tid_geq (tid, rc->end_tid);
}

/* Fast commits: changes by inode instead of by block, which belong to
 * the transaction after the last complete one.
 */
static errcode_t
check_fast_commits (struct recover *rc)
{
  const struct journal *j = rc->j;
  const uint8_t *b;
  errcode_t err;

  /* The area's first block is not used. */
  if (j->end + 1 >= j->blocks || j->super.start == 0)
    return 0;
  err = log_block (rc, j->end + 1, &b);
  if (err)
    return err;
  /* Tag and length (16 bits each), features and tid (32): little-endian. */
  if ((b[0] | b[1] << 8) != FAST_TAG_HEAD ||
      (b[8] | b[9] << 8 | b[10] << 16 | (uint32_t) b[11] << 24)
      != rc->end_tid)
    return 0;
  log_error ("the journal holds fast commits, which cannot be replayed here: "
             "mount the filesystem with Linux once, or run e2fsck -fy");
  return EXT2_ET_UNSUPP_FEATURE;
}

/* Collect. */

static errcode_t
add_logged (struct recover *rc, const struct jbd2_tag *tag, uint32_t tid,
            uint32_t jblk)
{
  if (rc->logged_count == rc->logged_size) {
    size_t n = rc->logged_size ? 2 * rc->logged_size : 1024;
    struct logged *p = realloc (rc->logged, n * sizeof *p);

    if (p == NULL)
      return ENOMEM;
    rc->logged = p;
    rc->logged_size = n;
  }
  rc->logged[rc->logged_count++] = (struct logged) {
    .blkno = tag->blkno, .jblk = jblk, .tid = tid,
    .checksum = tag->checksum, .escaped = tag->escaped,
  };
  return 0;
}

static errcode_t
collect_descriptor (struct recover *rc, const struct mark *m)
{
  size_t offset = JBD2_FIRST_TAG;
  uint32_t jblk = m->jblk;
  struct jbd2_tag tag;
  const uint8_t *block;
  errcode_t err;

  err = log_block (rc, m->jblk, &block);
  while (!err && jbd2_get_tag (&rc->j->format, block, &offset, &tag)) {
    jblk = advance (rc, jblk, 1);
    err = add_logged (rc, &tag, m->tid, jblk);
  }
  return err;
}

static int
compare_targets (const void *av, const void *bv)
{
  const struct target *a = av, *b = bv;

  return (a->blkno > b->blkno) - (a->blkno < b->blkno);
}

static struct target *
find_target (const struct recover *rc, uint64_t blkno)
{
  const struct target key = { .blkno = blkno };

  if (rc->target_count == 0)
    return NULL;
  return bsearch (&key, rc->targets, rc->target_count, sizeof key,
                  compare_targets);
}

static errcode_t
collect (struct recover *rc)
{
  size_t i, n = 0;
  errcode_t err;

  for (i = 0; i < rc->mark_count; i++) {
    if (rc->marks[i].revoke || !is_complete (rc, rc->marks[i].tid))
      continue;
    err = collect_descriptor (rc, &rc->marks[i]);
    if (err)
      return err;
  }
  if (rc->logged_count == 0)
    return 0;
  rc->targets = calloc (rc->logged_count, sizeof *rc->targets);
  if (rc->targets == NULL)
    return ENOMEM;
  for (i = 0; i < rc->logged_count; i++)
    rc->targets[i].blkno = rc->logged[i].blkno;
  qsort (rc->targets, rc->logged_count, sizeof *rc->targets, compare_targets);
  for (i = 0; i < rc->logged_count; i++)
    if (i == 0 || rc->targets[i].blkno != rc->targets[n - 1].blkno)
      rc->targets[n++] = rc->targets[i];
  rc->target_count = n;
  for (i = 0; i < rc->logged_count; i++)
    rc->logged[i].target = find_target (rc, rc->logged[i].blkno)
      - rc->targets;
  return 0;
}

/* Revoke. */

static errcode_t
read_revokes (struct recover *rc, const struct mark *m)
{
  const struct jbd2_format *f = &rc->j->format;
  const uint32_t size = jbd2_revoke_size (f);
  const uint8_t *block;
  struct jbd2_revoke head;
  uint32_t at = sizeof head, used;
  errcode_t err = log_block (rc, m->jblk, &block);

  if (err)
    return err;
  memcpy (&head, block, sizeof head);
  used = ext2fs_be32_to_cpu (head.used);
  if (used > rc->block_size - (f->csum_v2 || f->csum_v3 ? 4 : 0))
    return corrupt ("impossible revoke block at", m->jblk);
  for (; at + size <= used; at += size) {
    uint64_t blkno = 0;
    struct target *t;
    uint32_t i;

    for (i = 0; i < size; i++)
      blkno = blkno << 8 | block[at + i];
    t = find_target (rc, blkno);
    if (t && (!t->revoked || jbd2_tid_geq (m->tid, t->revoke_tid))) {
      t->revoked = true;
      t->revoke_tid = m->tid;
    }
  }
  return 0;
}

static errcode_t
revoke (struct recover *rc)
{
  size_t i;
  errcode_t err = 0;

  for (i = 0; i < rc->mark_count && !err; i++)
    if (rc->marks[i].revoke && is_complete (rc, rc->marks[i].tid))
      err = read_revokes (rc, &rc->marks[i]);
  return err;
}

/* Verify. */

/* Also decides which copy of each target counts. */
static errcode_t
verify_logged (struct recover *rc, struct recovery *r)
{
  const struct jbd2_format *f = &rc->j->format;
  const uint8_t *block;
  size_t i;
  errcode_t err;

  for (i = 0; i < rc->logged_count; i++) {
    struct logged *l = &rc->logged[i];
    struct target *t = &rc->targets[l->target];

    if (t->revoked && jbd2_tid_geq (t->revoke_tid, l->tid)) {
      r->revoked++;
      continue;
    }
    if (f->csum_v2 || f->csum_v3) {
      err = log_block (rc, l->jblk, &block);
      if (err)
        return err;
      if (jbd2_data_checksum (f, l->tid, block) != l->checksum)
        return corrupt ("wrong checksum of block", l->blkno);
    }
    t->used = true;
    t->last = i;
  }
  return 0;
}

/* The block that counts for T, as it is to be written, into BUF. */
static errcode_t
content (struct recover *rc, const struct target *t, uint8_t *buf)
{
  const struct logged *l = &rc->logged[t->last];
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);
  const uint8_t *block;
  errcode_t err = log_block (rc, l->jblk, &block);

  if (err)
    return err;
  memcpy (buf, block, rc->block_size);
  if (l->escaped)
    memcpy (buf, &magic, sizeof magic);
  return 0;
}

static struct ext2_super_block *
super_in (const struct recover *rc)
{
  return (struct ext2_super_block *) (void *)
    (rc->super + SUPER_OFFSET % rc->block_size);
}

/* rc->super becomes the block that holds the superblock, on the device
 * or of the log; with the errors recorded so far.
 */
static errcode_t
prepare_super (struct recover *rc)
{
  const size_t from = offsetof (struct ext2_super_block, s_error_count);
  const size_t to = offsetof (struct ext2_super_block, s_mount_opts);
  const struct target *t = find_target (rc, rc->super_block);
  const uint16_t error = ext2fs_cpu_to_le16 (EXT2_ERROR_FS);
  struct ext2_super_block *sb, old;
  errcode_t err;

  rc->super = malloc (rc->block_size);
  if (rc->super == NULL)
    return ENOMEM;
  sb = super_in (rc);
  err = device_pread (rc->fs->dev, rc->super, rc->block_size,
                      rc->super_block * rc->block_size);
  if (err) {
    log_error ("cannot read the superblock to replay the journal");
    return err;
  }
  old = *sb;
  super_get_rest (sb, rc->super_rest);
  if (t && t->used) {
    if ((err = content (rc, t, rc->super)))
      return err;
    if (ext2fs_le16_to_cpu (sb->s_magic) != EXT2_SUPER_MAGIC)
      return corrupt ("it holds no superblock for block", rc->super_block);
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
  for (i = 0; i < rc->target_count && !err; i++) {
    struct target *t = &rc->targets[i];

    if (!t->used)
      continue;
    if (t->blkno < rc->fs->first_block || t->blkno >= device)
      err = corrupt ("it holds a block outside the filesystem,", t->blkno);
    else if (syszone_overlaps (&journal, t->blkno, 1))
      err = corrupt ("it holds a block of the journal,", t->blkno);
    else if (t->blkno >= end) {
      t->used = false;
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

  log_error ("the journal could not be replayed: %s: see to the device, "
             "then try again", errcode_text (err, why, sizeof why));
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
  return err ? err : device_flush (rc->out);
}

/* Step 1: in the log's order, neighbours together. */
static errcode_t
write_blocks (struct recover *rc, struct recovery *r)
{
  const uint32_t bs = rc->block_size, most = WINDOW / bs;
  uint8_t *batch = malloc (WINDOW);
  uint64_t start = 0;
  uint32_t n = 0;
  size_t i;
  errcode_t err = batch ? 0 : ENOMEM;

  for (i = 0; i < rc->logged_count && !err; i++) {
    const struct target *t = &rc->targets[rc->logged[i].target];

    if (!t->used || t->last != i)
      continue;
    r->blocks++;
    if (t->blkno == rc->super_block)
      continue;
    if (n > 0 && (n == most || t->blkno != start + n)) {
      err = device_pwrite (rc->out, batch, (uint64_t) n * bs, start * bs, 0);
      n = 0;
    }
    if (n == 0)
      start = t->blkno;
    if (!err)
      err = content (rc, t, batch + (size_t) n++ * bs);
  }
  if (n > 0 && !err)
    err = device_pwrite (rc->out, batch, (uint64_t) n * bs, start * bs, 0);
  free (batch);
  return err ? err : device_flush (rc->out);
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
  err = journal_write_super (rc->j, rc->out, DEVICE_FUA);
  if (!err && rc->out != rc->fs->dev)
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
  return err ? write_error (err) : 0;
}

static errcode_t
read_log (struct recover *rc, struct recovery *r)
{
  errcode_t err;

  if (!(err = scan (rc)) && !(err = check_fast_commits (rc)) &&
      !(err = collect (rc)) && !(err = revoke (rc)) &&
      !(err = verify_logged (rc, r)) && !(err = prepare_super (rc)))
    err = check_targets (rc);
  if (err == ENOMEM)
    log_error ("not enough memory to replay the journal");
  return err;
}

errcode_t
recover_journal (struct filesystem *fs, struct journal *j,
                 struct device *out, struct recovery *r)
{
  struct recover rc = {
    .fs = fs, .j = j, .out = out, .block_size = fs->block_size,
    .window = malloc (WINDOW),
    .super_block = SUPER_OFFSET / fs->block_size,
  };
  errcode_t err = rc.window ? 0 : ENOMEM;

  lock_assert_held (LOCK_FS);
  memset (r, 0, sizeof *r);
  if (j->super.h.type == ext2fs_cpu_to_be32 (JBD2_SUPER_V2)) {
    rc.csum_v1 = j->super.compat & ext2fs_cpu_to_be32 (JBD2_COMPAT_CHECKSUM);
    rc.async = j->super.incompat & ext2fs_cpu_to_be32 (JBD2_INCOMPAT_ASYNC);
  }
  if (!err)
    err = read_log (&rc, r);
  if (!err) {
    r->transactions = rc.end_tid - rc.start_tid;
    err = write_blocks (&rc, r);
    if (!err)
      err = finish (&rc);
    if (err)
      write_error (err);
  }
  free (rc.window);
  free (rc.marks);
  free (rc.logged);
  free (rc.targets);
  free (rc.super);
  return err;
}

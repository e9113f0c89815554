/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Recovery: reading the log.
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
#include "recover-log.h"

/* Fast commits.  Source: the kernel's ext4 documentation. */
#define FAST_TAG_HEAD 9u

errcode_t
recover_corrupt (const char *what, uint64_t number)
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

errcode_t
recover_log_block (struct recover *rc, uint32_t jblk, const uint8_t **block)
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

static errcode_t
add_error (const struct recover *rc, errcode_t err)
{
  if (err == EFBIG)
    log_error ("the journal changes more than %zu blocks, which would take "
               "too much memory: mount the filesystem with Linux once",
               rc->targets.most);
  return err;
}

/* The blocks that a descriptor describes.  Those of a transaction that
 * turns out not to be complete are collected for nothing.
 */
static errcode_t
collect (struct recover *rc, const uint8_t *block)
{
  size_t offset = JBD2_FIRST_TAG;
  struct jbd2_tag tag;
  errcode_t err = 0;

  while (!err && jbd2_get_tag (&rc->j->format, block, &offset, &tag))
    err = targets_add (&rc->targets, tag.blkno);
  return add_error (rc, err);
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
  err = collect (rc, block);
  if (err)
    return err;
  if (rc->csum_v1 && !w->failed) {
    w->crc = ext2fs_crc32_be (w->crc, block, rc->block_size);
    for (i = 0; i < n; i++) {
      err = recover_log_block (rc, advance (rc, w->next, i), &block);
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
      return recover_corrupt ("wrong checksum in transaction",
                      w->failed ? rc->end_tid : w->tid);
  }
  else if (w->failed)
    return recover_corrupt ("wrong checksum in transaction", rc->end_tid);
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
  const unsigned type = jbd2_type (block, w->tid);

  w->next = advance (rc, w->next, 1);
  switch (type) {
  case JBD2_DESCRIPTOR:
    return scan_descriptor (rc, w, block, end);
  case JBD2_REVOKE:
    if (!jbd2_tail_ok (&rc->j->format, block))
      w->bad = true;
    rc->revokes = true;
    return 0;
  case JBD2_COMMIT:
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
    err = recover_log_block (rc, w.next, &block);
    if (!err)
      err = scan_block (rc, &w, block, &end);
  }
  if (!w.failed)
    rc->end_tid = w.tid;
  free (w.copy);
  return err;
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
  err = recover_log_block (rc, j->end + 1, &b);
  if (err)
    return err;
  /* Tag and length (16 bits each), features and tid (32): little-endian. */
  if ((b[0] | b[1] << 8) != FAST_TAG_HEAD ||
      (b[8] | b[9] << 8 | b[10] << 16 | (uint32_t) b[11] << 24)
      != rc->end_tid)
    return 0;
  /* e2fsck 1.47 goes wrong about a log that wraps around; and Linux refuses
   * some of them.
   */
  log_error ("the journal holds fast commits, which cannot be replayed here: "
             "mount the filesystem with Linux once; only if Linux refuses, "
             "run e2fsck -fy on a copy, which may lose what was written last");
  return EXT2_ET_UNSUPP_FEATURE;
}

errcode_t
recover_scan (struct recover *rc)
{
  errcode_t err = scan (rc);

  if (!err)
    err = add_error (rc, targets_sort (&rc->targets));
  return err ? err : check_fast_commits (rc);
}

/* Walking along the complete transactions again. */

static errcode_t
visit_tags (struct recover *rc, const struct recover_visitor *v,
            const uint8_t *block, uint32_t tid, uint32_t *next,
            uint32_t *left)
{
  size_t offset = JBD2_FIRST_TAG;
  struct jbd2_tag tag;
  errcode_t err = 0;

  /* The visitor may move the window. */
  memcpy (rc->descriptor, block, rc->block_size);
  while (!err && *left > 0 &&
         jbd2_get_tag (&rc->j->format, rc->descriptor, &offset, &tag)) {
    if (v->tag)
      err = v->tag (rc, &tag, tid, *next);
    *next = advance (rc, *next, 1);
    --*left;
  }
  return err;
}

errcode_t
recover_changed (void)
{
  log_error ("the journal is being changed by somebody else: try again when "
             "that has ended");
  return EBUSY;
}

errcode_t
recover_walk (struct recover *rc, const struct recover_visitor *v)
{
  uint32_t next = ext2fs_be32_to_cpu (rc->j->super.start);
  uint32_t left = rc->j->end - rc->j->first, tid = rc->start_tid;
  const uint8_t *block;
  errcode_t err = 0;

  while (!err && tid != rc->end_tid) {
    const uint32_t jblk = next;
    const bool more = left-- > 0;
    unsigned type;

    err = more ? recover_log_block (rc, jblk, &block) : recover_changed ();
    if (err)
      break;
    next = advance (rc, jblk, 1);
    type = jbd2_type (block, tid);
    if (type == JBD2_DESCRIPTOR)
      err = visit_tags (rc, v, block, tid, &next, &left);
    else if (type == JBD2_COMMIT)
      tid++;
    else if (type != JBD2_REVOKE)
      err = recover_changed ();
    else if (v->revoke)
      err = v->revoke (rc, block, tid, jblk);
  }
  return err;
}

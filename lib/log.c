/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writing the log.  The invariants are in log.h.
 *
 * A transaction in the log:
 *
 *   revoke blocks     block numbers not to be replayed from earlier ones
 *   descriptor block  where the blocks after it belong
 *   that many blocks  as they are to be in place, but with the journal's
 *   ...               magic at their beginning replaced by zero
 *   commit block
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "errors.h"
#include "fs.h"
#include "log.h"

/* How Linux sets the features of a journal that it writes. */
static void
set_features (struct filesystem *fs, struct jbd2_super *js)
{
  uint32_t incompat = JBD2_INCOMPAT_REVOKE;
  uint32_t gone = JBD2_INCOMPAT_ASYNC | JBD2_INCOMPAT_CSUM_V2 |
    JBD2_INCOMPAT_CSUM_V3 | JBD2_INCOMPAT_FAST;

  if (ext2fs_has_feature_64bit (fs->e2->super))
    incompat |= JBD2_INCOMPAT_64BIT;
  js->csum_type = 0;
  if (ext2fs_has_feature_metadata_csum (fs->e2->super)) {
    incompat |= JBD2_INCOMPAT_CSUM_V3;
    js->csum_type = JBD2_CSUM_CRC32C;
  }
  js->compat &= ~ext2fs_cpu_to_be32 (JBD2_COMPAT_CHECKSUM);
  js->incompat = (js->incompat & ~ext2fs_cpu_to_be32 (gone))
    | ext2fs_cpu_to_be32 (incompat);
}

/* Most blocks of a transaction that still fits when the log is empty. */
static uint32_t
most_blocks (const struct log *log)
{
  uint32_t n = log->capacity;

  while (n > 0 && log_space (log, n, n) > log->capacity)
    n--;
  return n;
}

errcode_t
log_new (struct filesystem *fs, struct log **logp)
{
  struct journal *j = fs->journal;
  struct log *log;

  if (j->super.h.type != ext2fs_cpu_to_be32 (JBD2_SUPER_V2)) {
    log_warning ("serving read-only: the journal is of the oldest kind, "
                 "without revoke records; make a new one with tune2fs "
                 "-O ^has_journal, then tune2fs -j");
    return ENOTSUP;
  }
  log = calloc (1, sizeof *log);
  if (log == NULL)
    return ENOMEM;
  set_features (fs, &j->super);         /* on disk with log_set_tail */
  jbd2_format_of (&j->super, &j->format);
  j->end = j->blocks;           /* without an area for fast commits */
  log->journal = j;
  log->head = j->first;
  log->capacity = j->end - j->first - 1;
  log->tid = ext2fs_be32_to_cpu (j->super.sequence);
  log->max_running = most_blocks (log);
  if (log->max_running < 2 * MAX_OPERATION) {
    log_warning ("serving read-only: the journal has only %u blocks for "
                 "the log; make a larger one with tune2fs "
                 "-O ^has_journal, then tune2fs -j",
                 (unsigned) log->capacity);
    free (log);
    return ENOTSUP;
  }
  *logp = log;
  return 0;
}

errcode_t
log_reserve (struct filesystem *fs, struct log *log)
{
  const struct journal *j = log->journal;
  size_t i;
  errcode_t err = 0;

  for (i = 0; i < j->run_count && !err; i++)
    err = device_reserve (fs->dev, (uint64_t) j->runs[i].len << fs->block_bits,
                          j->runs[i].pblk << fs->block_bits);
  return err;
}

void
log_free (struct filesystem *fs, struct log *log)
{
  if (log == NULL)
    return;
  mcache_thaw (fs->mc, &log->logged, true);
  free (log);
}

static uint32_t
divide_up (size_t n, unsigned by)
{
  return (n + by - 1) / by;
}

uint32_t
log_space (const struct log *log, size_t blocks, size_t revoked)
{
  const struct jbd2_format *f = &log->journal->format;

  return divide_up (revoked, jbd2_revokes_per_block (f)) +
    divide_up (blocks, jbd2_tags_per_block (f)) + blocks + 1;
}

bool
log_has_room (const struct log *log, uint32_t blocks)
{
  return blocks <= log->capacity - log->used;
}

/* A stream of blocks at the head of the log, written in large pieces. */
struct stream {
  struct filesystem *fs;
  struct log *log;
  uint32_t head, used;          /* the log's, with what has been put in */
  uint32_t start, count;        /* blocks of the journal in the buffer */
  uint32_t room;                /* of them, before they part on the device */
  uint64_t pblk;                /* where they go */
};

static errcode_t
stream_flush (struct stream *s)
{
  struct filesystem *fs = s->fs;
  uint32_t n = s->count;

  s->count = s->room = 0;
  return n == 0 ? 0
    : device_pwrite (fs->dev, fs->commit_batch, (uint64_t) n * fs->block_size,
                     s->pblk << fs->block_bits, 0);
}

/* *BLOCK is where to put the next block. */
static errcode_t
stream_next (struct stream *s, uint8_t **block)
{
  struct filesystem *fs = s->fs;
  struct log *log = s->log;
  errcode_t err;

  if (s->count == s->room) {
    err = stream_flush (s);
    if (err)
      return err;
    s->start = s->head;
    s->pblk = journal_block (log->journal, s->head, &s->room);
    if (s->room > log->journal->end - s->head)
      s->room = log->journal->end - s->head;
    if (s->room > COMMIT_BATCH / fs->block_size)
      s->room = COMMIT_BATCH / fs->block_size;
  }
  *block = fs->commit_batch + (size_t) s->count++ * fs->block_size;
  s->used++;
  if (++s->head == log->journal->end)
    s->head = log->journal->first;
  return 0;
}

static errcode_t
write_revokes (struct stream *s, const struct log_content *c)
{
  const struct jbd2_format *f = &s->log->journal->format;
  const unsigned size = jbd2_revoke_size (f);
  const unsigned most = jbd2_revokes_per_block (f);
  size_t i = 0;
  errcode_t err;

  while (i < c->nrevoked) {
    size_t n = c->nrevoked - i < most ? c->nrevoked - i : most, k;
    struct jbd2_revoke *h;
    uint8_t *block, *p;

    err = stream_next (s, &block);
    if (err)
      return err;
    jbd2_begin (f, block, JBD2_REVOKE, s->log->tid);
    h = (void *) block;
    h->used = ext2fs_cpu_to_be32 (sizeof *h + n * size);
    for (k = 0, p = block + sizeof *h; k < n; k++, p += size) {
      uint64_t wide = ext2fs_cpu_to_be64 (c->revoked[i + k]);

      memcpy (p, (uint8_t *) &wide + (8 - size), size);
    }
    jbd2_set_tail (f, block);
    i += n;
  }
  return 0;
}

static bool
has_magic (const uint8_t *data)
{
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);

  return memcmp (data, &magic, sizeof magic) == 0;
}

static void
escape (uint8_t *data)
{
  memset (data, 0, sizeof (uint32_t));
}

/* Of a block as it will be in the log. */
static uint32_t
checksum (struct log *log, uint8_t *data, bool escaped)
{
  uint8_t first[sizeof (uint32_t)];
  uint32_t sum;

  memcpy (first, data, sizeof first);
  if (escaped)
    escape (data);
  sum = jbd2_data_checksum (&log->journal->format, log->tid, data);
  memcpy (data, first, sizeof first);
  return sum;
}

/* The descriptor of N blocks. */
static errcode_t
write_descriptor (struct stream *s, const struct frozen_block *b, unsigned n)
{
  const struct jbd2_format *f = &s->log->journal->format;
  size_t offset = JBD2_FIRST_TAG;
  uint8_t *block;
  unsigned i;
  errcode_t err;

  err = stream_next (s, &block);
  if (err)
    return err;
  jbd2_begin (f, block, JBD2_DESCRIPTOR, s->log->tid);
  for (i = 0; i < n; i++) {
    struct jbd2_tag tag = {
      .blkno = b[i].blkno,
      .escaped = has_magic (b[i].data),
      .same_uuid = i > 0,
      .last = i == n - 1,
    };

    tag.checksum = checksum (s->log, b[i].data, tag.escaped);
    jbd2_put_tag (f, block, &offset, &tag, s->log->journal->super.uuid);
  }
  jbd2_set_tail (f, block);
  return 0;
}

static errcode_t
write_blocks (struct stream *s, const struct frozen_set *set)
{
  const unsigned most = jbd2_tags_per_block (&s->log->journal->format);
  size_t i = 0, k;
  uint8_t *block;
  errcode_t err;

  while (i < set->count) {
    size_t n = set->count - i < most ? set->count - i : most;

    err = write_descriptor (s, &set->blocks[i], n);
    for (k = i; k < i + n && !err; k++) {
      err = stream_next (s, &block);
      if (err)
        break;
      memcpy (block, set->blocks[k].data, s->fs->block_size);
      if (has_magic (block))
        escape (block);
    }
    if (err)
      return err;
    i += n;
  }
  return 0;
}

/* J2 */
static errcode_t
prepare_commit (struct stream *s)
{
  uint8_t *block;
  errcode_t err;

  s->log->commit = s->head;
  err = stream_next (s, &block);
  if (!err)
    memset (block, 0, s->fs->block_size);
  return err;
}

errcode_t
log_write (struct filesystem *fs, struct log *log,
           const struct log_content *c)
{
  struct stream s = {
    .fs = fs, .log = log, .head = log->head, .used = log->used,
  };
  errcode_t err;

  assert (log_has_room (log, log_space (log, c->set->count, c->nrevoked)));
  if ((err = write_revokes (&s, c)) || (err = write_blocks (&s, c->set)) ||
      (err = prepare_commit (&s)) || (err = stream_flush (&s)))
    return err;
  log->written.head = s.head;
  log->written.used = s.used;
  return 0;
}

/* Times do not go back, or replay takes the commit for a stale one. */
static uint64_t
commit_time (struct log *log, uint32_t *nsec)
{
  struct timespec now;

  clock_gettime (CLOCK_REALTIME, &now);
  *nsec = 0;
  if ((uint64_t) now.tv_sec >= log->time) {
    log->time = now.tv_sec;
    *nsec = now.tv_nsec;
  }
  return log->time;
}

errcode_t
log_commit (struct filesystem *fs, struct log *log)
{
  const struct jbd2_format *f = &log->journal->format;
  uint8_t *block = fs->commit_batch;
  struct jbd2_commit *h = (void *) block;
  uint32_t nsec, len;
  errcode_t err;

  jbd2_begin (f, block, JBD2_COMMIT, log->tid);
  h->sec = ext2fs_cpu_to_be64 (commit_time (log, &nsec));
  h->nsec = ext2fs_cpu_to_be32 (nsec);
  jbd2_set_commit (f, block);
  err = device_pwrite (fs->dev, block, fs->block_size,
                       journal_block (log->journal, log->commit, &len)
                       << fs->block_bits, DEVICE_FUA);
  if (err)
    return err;
  log->tid++;                   /* J5 */
  log->head = log->written.head;
  log->used = log->written.used;
  return 0;
}

/* The journal's superblock. */

errcode_t
log_set_tail (struct filesystem *fs, struct log *log, uint32_t start,
              uint32_t tid)
{
  struct jbd2_super *js = &log->journal->super;

  js->start = ext2fs_cpu_to_be32 (start);
  js->sequence = ext2fs_cpu_to_be32 (tid);
  return journal_write_super (log->journal, fs->dev, DEVICE_FUA);
}

errcode_t
log_end (struct filesystem *fs, struct log *log)
{
  assert (log->used == 0 && log->logged.count == 0);
  return log_set_tail (fs, log, 0, log->tid);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Logs for the tests of recovery: see mklog.h. */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "mklog.h"

#define REVOKE JBD2_INCOMPAT_REVOKE
#define WIDE JBD2_INCOMPAT_64BIT
#define ASYNC JBD2_INCOMPAT_ASYNC
#define V2 JBD2_INCOMPAT_CSUM_V2
#define V3 JBD2_INCOMPAT_CSUM_V3

const struct mklog_kind mklog_kinds[MKLOG_KINDS] = {
  { "v1", JBD2_SUPER_V1, 0, 0 },
  { "plain", JBD2_SUPER_V2, 0, REVOKE },
  { "64bit", JBD2_SUPER_V2, 0, REVOKE | WIDE },
  { "csum1", JBD2_SUPER_V2, JBD2_COMPAT_CHECKSUM, REVOKE },
  { "csum2", JBD2_SUPER_V2, 0, REVOKE | V2 },
  { "csum2-64bit", JBD2_SUPER_V2, 0, REVOKE | V2 | WIDE },
  { "csum3", JBD2_SUPER_V2, 0, REVOKE | V3 },
  { "csum3-64bit", JBD2_SUPER_V2, 0, REVOKE | V3 | WIDE },
  { "csum1-async", JBD2_SUPER_V2, JBD2_COMPAT_CHECKSUM, REVOKE | ASYNC },
  { "csum3-async", JBD2_SUPER_V2, 0, REVOKE | V3 | WIDE | ASYNC },
};

bool
mklog_has_csum (const struct mklog_kind *k)
{
  return k->incompat & (V2 | V3);
}

uint8_t *
mklog_in_place (const struct mklog *l, uint64_t pblk)
{
  return l->md->mem + pblk * l->f.block_size;
}

uint8_t *
mklog_journal_at (const struct mklog *l, uint32_t jblk)
{
  uint32_t len;

  return mklog_in_place (l, journal_block (l->journal, jblk, &len));
}

struct journal
mklog_find_journal (struct memdev *md)
{
  struct filesystem *fs = image_open (md);
  struct journal j = *fs->journal;

  j.runs = malloc (j.run_count * sizeof *j.runs);
  assert_non_null (j.runs);
  memcpy (j.runs, fs->journal->runs, j.run_count * sizeof *j.runs);
  image_close (fs, NULL);
  return j;
}

void
mklog_set_start (struct mklog *l, uint32_t start, uint32_t tid)
{
  l->js->start = ext2fs_cpu_to_be32 (start);
  l->js->sequence = ext2fs_cpu_to_be32 (tid);
  jbd2_set_super (l->js);
  if (start)
    l->at = start;
  l->tid = tid;
}

void
mklog_open (struct mklog *l, const struct mklog_kind *kind, struct memdev *md,
          const struct journal *journal)
{
  memset (l, 0, sizeof *l);
  l->kind = kind;
  l->journal = journal;
  l->md = md;
  l->f.block_size = journal->format.block_size;
  l->js = (struct jbd2_super *) (void *) mklog_journal_at (l, 0);
  l->js->h.type = ext2fs_cpu_to_be32 (kind->type);
  l->js->compat = ext2fs_cpu_to_be32 (kind->compat);
  l->js->incompat = ext2fs_cpu_to_be32 (kind->incompat);
  l->js->csum_type = mklog_has_csum (kind) ? JBD2_CSUM_CRC32C : 0;
  if (kind->type == JBD2_SUPER_V1)
    memset (&l->js->compat, 0, sizeof *l->js
            - offsetof (struct jbd2_super, compat));
  jbd2_format_of (l->js, &l->f);
  l->first = 1;
  l->end = journal->blocks;
  l->crc = ~0u;
  l->time = 1000;
  mklog_set_start (l, l->first, 10);
  image_super (l->md)->s_feature_incompat |= EXT3_FEATURE_INCOMPAT_RECOVER;
}

void
mklog_close (struct mklog *l)
{
  memdev_free (l->md);
}

/* The next block of the log, in place. */
static uint8_t *
next (struct mklog *l)
{
  const size_t n = sizeof l->last / sizeof *l->last;
  uint8_t *p = mklog_journal_at (l, l->at);

  l->used++;
  if (++l->at == l->end)
    l->at = l->first;
  memmove (l->last, l->last + 1, (n - 1) * sizeof *l->last);
  l->last[n - 1] = p;
  return p;
}

void
mklog_pattern (const struct mklog *l, uint8_t *p, uint64_t pblk,
             uint32_t tid)
{
  struct rng rng = { pblk * 1000003 + tid };
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);

  rng_fill (&rng, p, l->f.block_size);
  if (pblk % 5 == 0)
    memcpy (p, &magic, sizeof magic);
}

static void
add_crc (struct mklog *l, const uint8_t *block)
{
  l->crc = ext2fs_crc32_be (l->crc, block, l->f.block_size);
}

/* One of the blocks that DESC describes. */
static void
put_block (struct mklog *l, uint8_t *desc, size_t *offset,
           struct jbd2_tag *tag, const uint8_t *data)
{
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);
  uint8_t *p = next (l);

  if (data)
    memcpy (p, data, l->f.block_size);
  else
    mklog_pattern (l, p, tag->blkno, l->tid);
  if (memcmp (p, &magic, sizeof magic) == 0) {
    memset (p, 0, sizeof magic);
    tag->escaped = true;
  }
  tag->checksum = jbd2_data_checksum (&l->f, l->tid, p);
  jbd2_put_tag (&l->f, desc, offset, tag, l->js->uuid);
}

void
mklog_put (struct mklog *l, const uint64_t *pblks, unsigned n,
         const uint8_t *data)
{
  const unsigned most = jbd2_tags_per_block (&l->f);
  const uint32_t len = l->end - l->first;

  while (n > 0) {
    const unsigned now = n < most ? n : most;
    uint8_t *desc = next (l);
    size_t offset = JBD2_FIRST_TAG;
    unsigned i;

    jbd2_begin (&l->f, desc, JBD2_DESCRIPTOR, l->tid);
    for (i = 0; i < now; i++) {
      struct jbd2_tag tag = { .blkno = pblks[i], .same_uuid = i > 0,
                              .last = i == now - 1 };

      put_block (l, desc, &offset, &tag, data);
    }
    jbd2_set_tail (&l->f, desc);
    if (l->kind->compat & JBD2_COMPAT_CHECKSUM) {
      add_crc (l, desc);
      for (i = now; i > 0; i--)
        add_crc (l, mklog_journal_at (l, l->first
                                      + (l->at - l->first + len - i) % len));
    }
    pblks += now;
    n -= now;
  }
}

void
mklog_revoke (struct mklog *l, const uint64_t *pblks, unsigned n)
{
  const unsigned most = jbd2_revokes_per_block (&l->f);
  const unsigned size = jbd2_revoke_size (&l->f);

  while (n > 0) {
    const unsigned now = n < most ? n : most;
    uint8_t *p = next (l);
    struct jbd2_revoke *head = (void *) p;
    unsigned i, k;

    jbd2_begin (&l->f, p, JBD2_REVOKE, l->tid);
    head->used = ext2fs_cpu_to_be32 (sizeof *head + now * size);
    for (i = 0; i < now; i++)
      for (k = 0; k < size; k++)
        p[sizeof *head + i * size + k] = pblks[i] >> 8 * (size - 1 - k);
    jbd2_set_tail (&l->f, p);
    pblks += now;
    n -= now;
  }
}

void
mklog_commit (struct mklog *l)
{
  uint8_t *p = next (l);
  struct jbd2_commit *c = (void *) p;

  jbd2_begin (&l->f, p, JBD2_COMMIT, l->tid);
  c->sec = ext2fs_cpu_to_be64 (l->time);
  if (l->kind->compat & JBD2_COMPAT_CHECKSUM) {
    c->csum_type = JBD2_CSUM_CRC32;
    c->csum_size = 4;
    c->checksum[0] = ext2fs_cpu_to_be32 (l->crc);
  }
  jbd2_set_commit (&l->f, p);
  l->crc = ~0u;
  l->time++;
  l->tid++;
}

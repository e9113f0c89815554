/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Logs for journals: see fuzz-log.h. */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "fuzz-case.h"
#include "fuzz-log.h"
#include "fuzz-sum.h"
#include "journal.h"

void
fuzz_log_init (struct fuzz_log *l, struct fuzz_base *b)
{
  memset (l, 0, sizeof *l);
  l->base = b;
}

/* Block N of the journal. */
static uint8_t *
journal_at (struct fuzz_log *l, uint32_t n)
{
  const uint32_t bs = l->base->block_size;
  uint32_t len;

  return fuzz_device_at (l->base->dev,
                         journal_block (l->base->fs->journal, n, &len) * bs,
                         bs);
}

static struct jbd2_super *
super_at (struct fuzz_log *l)
{
  return (void *) journal_at (l, 0);
}

static void
set_start (struct fuzz_log *l, uint32_t start, uint32_t tid)
{
  struct jbd2_super *js = super_at (l);

  js->start = ext2fs_cpu_to_be32 (start);
  js->sequence = ext2fs_cpu_to_be32 (tid);
  l->at = start;
  l->tid = tid;
}

/* The first record: the journal is as the records before have made it. */
static void
start (struct fuzz_log *l)
{
  const struct journal *j = l->base->fs->journal;

  l->started = true;
  jbd2_format_of (super_at (l), &l->f);
  l->f.block_size = l->base->block_size;
  l->first = j->first;
  l->end = j->end;
  set_start (l, l->first, 10);
}

static uint8_t *
next (struct fuzz_log *l)
{
  uint8_t *p = journal_at (l, l->at);

  if (++l->at == l->end)
    l->at = l->first;
  return p;
}

/* PLACE's block as it would be with VALUE changed, in memory of its own. */
static uint8_t *
changed_block (struct fuzz_log *l, const struct fuzz_place *p,
               const struct fuzz_record *r)
{
  const uint32_t bs = l->base->block_size;
  const uint64_t blk = p->offset / bs;
  uint8_t *d = fuzz_device_at (l->base->dev, blk * bs, bs);
  uint8_t *old = malloc (bs), *new = malloc (bs);
  unsigned i;

  if (d == NULL || old == NULL || new == NULL)
    fuzz_die ("cannot log block %llu", (unsigned long long) blk);
  memcpy (old, d, bs);
  for (i = 0; i < 8 && r->at % p->len + i < p->len; i++)
    d[p->offset % bs + r->at % p->len + i] ^= r->value >> 8 * i;
  fuzz_sum (l->base, p);
  memcpy (new, d, bs);
  memcpy (d, old, bs);
  free (old);
  return new;
}

static void
add_block (struct fuzz_log *l, const struct fuzz_record *r)
{
  const struct fuzz_place *p = fuzz_place (l->base, r->class, r->index);

  if (p == NULL || l->block_count == FUZZ_LOG_MOST)
    return;
  l->content[l->block_count] = changed_block (l, p, r);
  l->blocks[l->block_count++] = p->offset / l->base->block_size;
}

static void
add_revoke (struct fuzz_log *l, const struct fuzz_record *r)
{
  const struct fuzz_place *p = fuzz_place (l->base, r->class, r->index);

  if (p && l->revoke_count < FUZZ_LOG_MOST)
    l->revokes[l->revoke_count++] = p->offset / l->base->block_size;
}

/* A descriptor and its blocks. */
static void
write_blocks (struct fuzz_log *l)
{
  const uint32_t magic = ext2fs_cpu_to_be32 (JBD2_MAGIC);
  uint8_t *desc;
  size_t offset = JBD2_FIRST_TAG;
  unsigned i;

  if (l->block_count == 0)
    return;
  desc = next (l);
  jbd2_begin (&l->f, desc, JBD2_DESCRIPTOR, l->tid);
  for (i = 0; i < l->block_count; i++) {
    struct jbd2_tag tag = { .blkno = l->blocks[i], .same_uuid = i > 0,
                            .last = i == l->block_count - 1 };
    uint8_t *p = next (l);

    memcpy (p, l->content[i], l->f.block_size);
    free (l->content[i]);
    if (memcmp (p, &magic, sizeof magic) == 0) {
      memset (p, 0, sizeof magic);
      tag.escaped = true;
    }
    tag.checksum = jbd2_data_checksum (&l->f, l->tid, p);
    jbd2_put_tag (&l->f, desc, &offset, &tag, super_at (l)->uuid);
  }
  jbd2_set_tail (&l->f, desc);
  l->block_count = 0;
}

static void
write_revokes (struct fuzz_log *l)
{
  const unsigned size = jbd2_revoke_size (&l->f);
  struct jbd2_revoke *head;
  unsigned i, k;
  uint8_t *p;

  if (l->revoke_count == 0)
    return;
  p = next (l);
  head = (void *) p;
  jbd2_begin (&l->f, p, JBD2_REVOKE, l->tid);
  head->used = ext2fs_cpu_to_be32 (sizeof *head + l->revoke_count * size);
  for (i = 0; i < l->revoke_count; i++)
    for (k = 0; k < size; k++)
      p[sizeof *head + i * size + k] = l->revokes[i] >> 8 * (size - 1 - k);
  jbd2_set_tail (&l->f, p);
  l->revoke_count = 0;
}

static void
commit (struct fuzz_log *l, uint32_t time)
{
  struct jbd2_commit *c;

  write_blocks (l);
  write_revokes (l);
  c = (void *) next (l);
  jbd2_begin (&l->f, c, JBD2_COMMIT, l->tid);
  c->sec = ext2fs_cpu_to_be64 ((uint64_t) time);
  jbd2_set_commit (&l->f, c);
  l->tid++;
}

void
fuzz_log_record (struct fuzz_log *l, const struct fuzz_record *r)
{
  if (l->base->fs->journal == NULL)
    return;
  if (!l->started)
    start (l);
  switch (r->kind) {
  case FUZZ_LOG_BLOCK:
    add_block (l, r);
    break;
  case FUZZ_LOG_REVOKE:
    add_revoke (l, r);
    break;
  case FUZZ_LOG_COMMIT:
    commit (l, r->at);
    break;
  case FUZZ_LOG_START:
    set_start (l, l->first + r->at % (l->end - l->first), r->value);
    break;
  }
}

void
fuzz_log_fini (struct fuzz_log *l)
{
  while (l->block_count > 0)
    free (l->content[--l->block_count]);
}

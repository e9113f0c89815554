/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The format of a jbd2 journal. */

#include <config.h>

#include <string.h>

#include "jbd2.h"

#define TAG_ESCAPED   1u
#define TAG_SAME_UUID 2u
#define TAG_LAST      8u

#define UUID_SIZE 16u
#define TAIL_SIZE 4u            /* checksum of descriptors and revokes */

static uint32_t
get32 (const void *block, size_t offset)
{
  uint32_t v;

  memcpy (&v, (const uint8_t *) block + offset, sizeof v);
  return ext2fs_be32_to_cpu (v);
}

static void
put32 (void *block, size_t offset, uint32_t v)
{
  v = ext2fs_cpu_to_be32 (v);
  memcpy ((uint8_t *) block + offset, &v, sizeof v);
}

static uint16_t
get16 (const void *block, size_t offset)
{
  uint16_t v;

  memcpy (&v, (const uint8_t *) block + offset, sizeof v);
  return ext2fs_be16_to_cpu (v);
}

static void
put16 (void *block, size_t offset, uint16_t v)
{
  v = ext2fs_cpu_to_be16 (v);
  memcpy ((uint8_t *) block + offset, &v, sizeof v);
}

static bool
has_csum (const struct jbd2_format *f)
{
  return f->csum_v2 || f->csum_v3;
}

void
jbd2_format_of (const struct jbd2_super *js, struct jbd2_format *f)
{
  const bool v2 = js->h.type == ext2fs_cpu_to_be32 (JBD2_SUPER_V2);
  const uint32_t incompat = v2 ? ext2fs_be32_to_cpu (js->incompat) : 0;

  f->block_size = ext2fs_be32_to_cpu (js->block_size);
  f->wide = incompat & JBD2_INCOMPAT_64BIT;
  f->csum_v2 = incompat & JBD2_INCOMPAT_CSUM_V2;
  f->csum_v3 = incompat & JBD2_INCOMPAT_CSUM_V3;
  f->seed = ext2fs_crc32c_le (~0u, js->uuid, sizeof js->uuid);
}

unsigned
jbd2_type (const void *block, uint32_t tid)
{
  if (get32 (block, offsetof (struct jbd2_header, magic)) != JBD2_MAGIC ||
      get32 (block, offsetof (struct jbd2_header, tid)) != tid)
    return 0;
  return get32 (block, offsetof (struct jbd2_header, type));
}

void
jbd2_begin (const struct jbd2_format *f, void *block,
            enum jbd2_block_type type, uint32_t tid)
{
  memset (block, 0, f->block_size);
  put32 (block, offsetof (struct jbd2_header, magic), JBD2_MAGIC);
  put32 (block, offsetof (struct jbd2_header, type), type);
  put32 (block, offsetof (struct jbd2_header, tid), tid);
}

/* Tags.
 *
 *          v3            otherwise
 *   0      block         block
 *   4      flags (32)    checksum (16), flags (16)
 *   8      block, high   block, high (if wide)
 *   12     checksum
 *
 * With v2 the tag is two bytes longer than its fields.
 */
static size_t
tag_size (const struct jbd2_format *f)
{
  if (f->csum_v3)
    return 16;
  return 8 + (f->wide ? 4 : 0) + (f->csum_v2 ? 2 : 0);
}

static size_t
tags_end (const struct jbd2_format *f)
{
  return f->block_size - (has_csum (f) ? TAIL_SIZE : 0);
}

bool
jbd2_get_tag (const struct jbd2_format *f, const void *block, size_t *offset,
              struct jbd2_tag *tag)
{
  const size_t at = *offset, size = tag_size (f);
  uint32_t flags;

  if (at < JBD2_FIRST_TAG || at > tags_end (f) || tags_end (f) - at < size)
    return false;
  tag->blkno = get32 (block, at);
  if (f->csum_v3) {
    flags = get32 (block, at + 4);
    tag->checksum = get32 (block, at + 12);
  }
  else {
    tag->checksum = get16 (block, at + 4);
    flags = get16 (block, at + 6);
  }
  if (f->wide)
    tag->blkno |= (uint64_t) get32 (block, at + 8) << 32;
  tag->escaped = flags & TAG_ESCAPED;
  tag->same_uuid = flags & TAG_SAME_UUID;
  tag->last = flags & TAG_LAST;
  *offset = tag->last ? SIZE_MAX
    : at + size + (tag->same_uuid ? 0 : UUID_SIZE);
  return true;
}

unsigned
jbd2_tags_per_block (const struct jbd2_format *f)
{
  return (tags_end (f) - JBD2_FIRST_TAG - UUID_SIZE) / tag_size (f);
}

void
jbd2_put_tag (const struct jbd2_format *f, void *block, size_t *offset,
              const struct jbd2_tag *tag, const uint8_t uuid[16])
{
  const size_t at = *offset;
  const uint32_t flags = (tag->escaped ? TAG_ESCAPED : 0) |
    (tag->same_uuid ? TAG_SAME_UUID : 0) | (tag->last ? TAG_LAST : 0);

  put32 (block, at, (uint32_t) tag->blkno);
  if (f->csum_v3) {
    put32 (block, at + 4, flags);
    put32 (block, at + 12, tag->checksum);
  }
  else {
    put16 (block, at + 4, tag->checksum);
    put16 (block, at + 6, flags);
  }
  if (f->csum_v3 || f->wide)
    put32 (block, at + 8, tag->blkno >> 32);
  *offset += tag_size (f);
  if (!tag->same_uuid) {
    memcpy ((uint8_t *) block + *offset, uuid, UUID_SIZE);
    *offset += UUID_SIZE;
  }
}

unsigned
jbd2_revoke_size (const struct jbd2_format *f)
{
  return f->wide ? 8 : 4;
}

unsigned
jbd2_revokes_per_block (const struct jbd2_format *f)
{
  return (tags_end (f) - sizeof (struct jbd2_revoke)) / jbd2_revoke_size (f);
}

/* Checksums. */

uint32_t
jbd2_data_checksum (const struct jbd2_format *f, uint32_t tid,
                    const void *block)
{
  const uint32_t be_tid = ext2fs_cpu_to_be32 (tid);
  uint32_t sum;

  if (!has_csum (f))
    return 0;
  sum = ext2fs_crc32c_le (f->seed, (const void *) &be_tid, sizeof be_tid);
  sum = ext2fs_crc32c_le (sum, block, f->block_size);
  return f->csum_v3 ? sum : sum & 0xffff;
}

/* Of BLOCK, LEN bytes, with the four bytes at OFFSET taken as zero. */
static uint32_t
sum_without (uint32_t seed, const uint8_t *block, size_t len, size_t offset)
{
  static const uint8_t zero[4];
  uint32_t sum = ext2fs_crc32c_le (seed, block, offset);

  sum = ext2fs_crc32c_le (sum, zero, sizeof zero);
  return ext2fs_crc32c_le (sum, block + offset + sizeof zero,
                           len - offset - sizeof zero);
}

/* A log block's own checksum, which stands at AT. */
static void
set_sum (const struct jbd2_format *f, void *block, size_t at)
{
  if (has_csum (f))
    put32 (block, at, sum_without (f->seed, block, f->block_size, at));
}

static bool
sum_ok (const struct jbd2_format *f, const void *block, size_t at)
{
  return !has_csum (f) ||
    get32 (block, at) == sum_without (f->seed, block, f->block_size, at);
}

void
jbd2_set_tail (const struct jbd2_format *f, void *block)
{
  set_sum (f, block, f->block_size - TAIL_SIZE);
}

bool
jbd2_tail_ok (const struct jbd2_format *f, const void *block)
{
  return sum_ok (f, block, f->block_size - TAIL_SIZE);
}

void
jbd2_set_commit (const struct jbd2_format *f, void *block)
{
  set_sum (f, block, offsetof (struct jbd2_commit, checksum));
}

bool
jbd2_commit_ok (const struct jbd2_format *f, const void *block)
{
  return sum_ok (f, block, offsetof (struct jbd2_commit, checksum));
}

static bool
super_has_csum (const struct jbd2_super *js)
{
  struct jbd2_format f;

  jbd2_format_of (js, &f);
  return has_csum (&f);
}

static uint32_t
super_sum (const struct jbd2_super *js)
{
  return sum_without (~0u, (const uint8_t *) js, sizeof *js,
                      offsetof (struct jbd2_super, checksum));
}

void
jbd2_set_super (struct jbd2_super *js)
{
  if (super_has_csum (js))
    js->checksum = ext2fs_cpu_to_be32 (super_sum (js));
}

bool
jbd2_super_ok (const struct jbd2_super *js)
{
  return !super_has_csum (js) ||
    ext2fs_be32_to_cpu (js->checksum) == super_sum (js);
}

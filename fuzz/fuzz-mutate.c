/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* How libFuzzer changes inputs: a record at a time, with values that mean
 * something where they go.
 */

#include <config.h>

#include <stddef.h>
#include <string.h>

#include "fuzz-case.h"

/* Of libFuzzer. */
extern size_t LLVMFuzzerMutate (uint8_t *data, size_t size, size_t max_size);

extern size_t LLVMFuzzerCustomMutator (uint8_t *data, size_t size,
                                       size_t max_size, unsigned seed);
extern size_t LLVMFuzzerCustomCrossOver (const uint8_t *a, size_t a_size,
                                         const uint8_t *b, size_t b_size,
                                         uint8_t *out, size_t max_size,
                                         unsigned seed);

static uint64_t state;

static uint64_t
rnd (void)
{
  uint64_t z = state += UINT64_C (0x9e3779b97f4a7c15);

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t
below (uint64_t n)
{
  return rnd () % n;
}

static uint8_t
pick (const uint8_t *list)
{
  unsigned n;

  for (n = 0; list[n] != 255; n++)
    ;
  return list[below (n)];
}

#define FIELD(type, name) (uint16_t) offsetof (struct type, name)

static const uint16_t super_fields[] = {
  FIELD (ext2_super_block, s_inodes_count),
  FIELD (ext2_super_block, s_blocks_count),
  FIELD (ext2_super_block, s_free_blocks_count),
  FIELD (ext2_super_block, s_first_data_block),
  FIELD (ext2_super_block, s_log_block_size),
  FIELD (ext2_super_block, s_log_cluster_size),
  FIELD (ext2_super_block, s_blocks_per_group),
  FIELD (ext2_super_block, s_clusters_per_group),
  FIELD (ext2_super_block, s_inodes_per_group),
  FIELD (ext2_super_block, s_state),
  FIELD (ext2_super_block, s_rev_level),
  FIELD (ext2_super_block, s_first_ino),
  FIELD (ext2_super_block, s_inode_size),
  FIELD (ext2_super_block, s_feature_compat),
  FIELD (ext2_super_block, s_feature_incompat),
  FIELD (ext2_super_block, s_feature_ro_compat),
  FIELD (ext2_super_block, s_r_blocks_count),
  FIELD (ext2_super_block, s_reserved_gdt_blocks),
  FIELD (ext2_super_block, s_journal_uuid),
  FIELD (ext2_super_block, s_journal_inum),
  FIELD (ext2_super_block, s_journal_dev),
  FIELD (ext2_super_block, s_last_orphan),
  FIELD (ext2_super_block, s_desc_size),
  FIELD (ext2_super_block, s_first_meta_bg),
  FIELD (ext2_super_block, s_jnl_blocks),
  FIELD (ext2_super_block, s_blocks_count_hi),
  FIELD (ext2_super_block, s_min_extra_isize),
  FIELD (ext2_super_block, s_want_extra_isize),
  FIELD (ext2_super_block, s_mmp_update_interval),
  FIELD (ext2_super_block, s_mmp_block),
  FIELD (ext2_super_block, s_log_groups_per_flex),
  FIELD (ext2_super_block, s_checksum_type),
  FIELD (ext2_super_block, s_snapshot_inum),
  FIELD (ext2_super_block, s_error_count),
  FIELD (ext2_super_block, s_backup_bgs),
  FIELD (ext2_super_block, s_checksum_seed),
  FIELD (ext2_super_block, s_orphan_file_inum),
};

static const uint16_t inode_fields[] = {
  FIELD (ext2_inode_large, i_mode), FIELD (ext2_inode_large, i_size),
  FIELD (ext2_inode_large, i_size_high), FIELD (ext2_inode_large, i_dtime),
  FIELD (ext2_inode_large, i_links_count),
  FIELD (ext2_inode_large, i_blocks), FIELD (ext2_inode_large, i_flags),
  FIELD (ext2_inode_large, i_generation),
  FIELD (ext2_inode_large, i_file_acl),
  FIELD (ext2_inode_large, i_extra_isize),
  FIELD (ext2_inode_large, i_block), FIELD (ext2_inode_large, i_block) + 2,
  FIELD (ext2_inode_large, i_block) + 6,
  160, 164, 168, 172, 176,      /* the attributes */
};

#define PICK_FIELD(a) (a)[below (sizeof (a) / sizeof *(a))]

static uint32_t
some_offset (unsigned class)
{
  switch (class) {
  case FUZZ_SUPER:
    return below (8) ? PICK_FIELD (super_fields) : below (256) * 4;
  case FUZZ_INODE:
    return below (3) == 0 ? 40 + below (15) * 4
      : below (8) ? PICK_FIELD (inode_fields) : below (256);
  case FUZZ_TREE:
    return below (4) == 0 ? below (6) * 2
      : below (2) ? 12 + below (below (2) ? 4 : 84) * 12 + below (6) * 2
      : below (below (2) ? 8 : 256) * 4;
  case FUZZ_DESC:
    return below (32) * 2;
  case FUZZ_DIR: case FUZZ_JOURNAL: case FUZZ_MMP: case FUZZ_ORPHAN:
    return below (8) ? below (below (2) ? 16 : 256) * 4 : below (1024);
  default:
    return below (1024);
  }
}

static uint64_t
some_number (void)
{
  static const uint64_t edges[] = {
    0, 1, 2, 3, 4, 7, 8, 11, 12, 13, 15, 16, 127, 128, 255, 256, 257, 1023,
    1024, 1025, 2047, 2048, 3071, 3072, 4095, 4096, 8192, 32767, 32768,
    32769, 65535, 65536, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
    0x100000000, 0xfffffffffff, 0x1000000000000, 0x7fffffffffffffff,
    0x8000000000000000, 0xffffffffffffffff,
  };

  switch (below (8)) {
  case 0: case 1: case 2:
    return edges[below (sizeof edges / sizeof *edges)] + below (3) - 1;
  case 3: case 4:
    return below (64);
  case 5:
    return below (4096);
  case 6:
    return UINT64_C (1) << below (64);
  default:
    return rnd ();
  }
}

static uint64_t
some_value (unsigned kind)
{
  switch (kind) {
  case FUZZ_POINT: case FUZZ_COPY:
    return pick (fuzz_harness.classes) | below (128) << 8
      | (below (2) ? 0 : (below (5) - 2) << 24 & 0xff000000);
  case FUZZ_EXTENT:
    return (some_number () & 0xffffffff)
      | ((below (2) ? below (40) : some_number ()) & 0xffff) << 32
      | below (4096) << 48;
  case FUZZ_NAME:
    return below (128) | (below (2) ? 4 * below (256) : some_number ()) << 32
      | below (256) << 48 | below (256) << 56;
  case FUZZ_BECOME:
    return pick (fuzz_harness.classes) | below (100) << 8;
  case FUZZ_FILL:
    return below (256) | below (1024) << 8;
  case FUZZ_READ: case FUZZ_WRITE: case FUZZ_ZERO: case FUZZ_TRIM:
  case FUZZ_STATUS: case FUZZ_CACHE:
    return (some_number () & 0xffffff) | below (256) << 24
      | (below (8) ? 0 : some_number () << 32);
  default:
    return some_number ();
  }
}

static void
some_record (struct fuzz_record *r)
{
  r->kind = pick (fuzz_harness.kinds);
  if (r->kind >= FUZZ_READ) {
    r->class = below (2) ? 0 : rnd ();
    r->index = below (3) ? below (3) : rnd ();
    r->at = below (2) ? below (1 << 20) : some_number ();
  }
  else {
    r->class = pick (fuzz_harness.classes);
    r->index = below (below (2) ? 8 : FUZZ_MOST_PLACES);
    r->at = some_offset (r->class);
  }
  r->value = some_value (r->kind);
}

static void
change_record (struct fuzz_record *r)
{
  switch (below (6)) {
  case 0:
    r->kind = pick (fuzz_harness.kinds);
    break;
  case 1:
    if (r->kind >= FUZZ_READ)
      r->class = rnd ();
    else
      r->class = pick (fuzz_harness.classes);
    break;
  case 2:
    r->index = below (2) ? r->index + 1u : below (128);
    break;
  case 3:
    r->at = r->kind >= FUZZ_READ ? (uint32_t) some_number ()
      : some_offset (r->class);
    break;
  case 4:
    r->value = some_value (r->kind);
    break;
  case 5:
    r->value += below (2) * 2 - 1;
    break;
  }
}

static void
change_head (uint8_t *p)
{
  struct fuzz_record h;

  fuzz_record_get (p, &h);
  switch (below (5)) {
  case 0: case 1:
    h.kind = pick (fuzz_harness.bases);
    break;
  case 2:
    h.class = below (2) ? 0 : h.class ^ 1u << below (8);
    break;
  case 3:
    h.index = below (3) ? 0 : below (FUZZ_FAULTS);
    h.at = below (200);
    break;
  case 4:
    h.value = below (4) ? 0 : below (48);
    break;
  }
  fuzz_record_put (p, &h);
}

/* Makes room for a record at N of SIZE bytes, or takes it away. */
static size_t
insert (uint8_t *data, size_t size, size_t n, const struct fuzz_record *r)
{
  uint8_t *p = data + n * FUZZ_RECORD;

  memmove (p + FUZZ_RECORD, p, size - n * FUZZ_RECORD);
  fuzz_record_put (p, r);
  return size + FUZZ_RECORD;
}

static size_t
erase (uint8_t *data, size_t size, size_t n)
{
  uint8_t *p = data + n * FUZZ_RECORD;

  memmove (p, p + FUZZ_RECORD, size - (n + 1) * FUZZ_RECORD);
  return size - FUZZ_RECORD;
}

static size_t
mutate_once (uint8_t *data, size_t size, size_t max_size)
{
  const size_t records = size / FUZZ_RECORD - 1;
  const size_t n = records ? 1 + below (records) : 0;
  struct fuzz_record r;

  switch (below (8)) {
  case 0: case 1:
    if (size + FUZZ_RECORD > max_size || records >= FUZZ_MOST_RECORDS)
      return size;
    if (n && below (3) == 0)
      fuzz_record_get (data + n * FUZZ_RECORD, &r);
    else
      some_record (&r);
    return insert (data, size, 1 + below (records + 1), &r);
  case 2:
    return records > 1 ? erase (data, size, n) : size;
  case 3:
    change_head (data);
    return size;
  case 4:
    if (n == 0)
      return size;
    LLVMFuzzerMutate (data + n * FUZZ_RECORD, FUZZ_RECORD, FUZZ_RECORD);
    return size;
  default:
    if (n == 0)
      return size;
    fuzz_record_get (data + n * FUZZ_RECORD, &r);
    change_record (&r);
    fuzz_record_put (data + n * FUZZ_RECORD, &r);
    return size;
  }
}

size_t
LLVMFuzzerCustomMutator (uint8_t *data, size_t size, size_t max_size,
                         unsigned seed)
{
  unsigned n;

  state = seed;
  if (max_size < 2 * FUZZ_RECORD)
    return size < max_size ? size : max_size;
  size -= size % FUZZ_RECORD;
  if (size == 0) {
    memset (data, 0, FUZZ_RECORD);
    change_head (data);
    size = FUZZ_RECORD;
  }
  for (n = 1 + below (3); n > 0; n--)
    size = mutate_once (data, size, max_size - max_size % FUZZ_RECORD);
  return size;
}

/* The head of A, then records of both, in order. */
size_t
LLVMFuzzerCustomCrossOver (const uint8_t *a, size_t a_size, const uint8_t *b,
                           size_t b_size, uint8_t *out, size_t max_size,
                           unsigned seed)
{
  size_t a_at = FUZZ_RECORD, b_at = FUZZ_RECORD, size = FUZZ_RECORD;

  state = seed;
  if (a_size < FUZZ_RECORD || max_size < FUZZ_RECORD)
    return 0;
  memcpy (out, a, FUZZ_RECORD);
  while (size + FUZZ_RECORD <= max_size &&
         size / FUZZ_RECORD <= FUZZ_MOST_RECORDS) {
    const bool first = below (2);

    if (first && a_at + FUZZ_RECORD <= a_size)
      memcpy (out + size, a + a_at, FUZZ_RECORD);
    else if (!first && b_at + FUZZ_RECORD <= b_size)
      memcpy (out + size, b + b_at, FUZZ_RECORD);
    else if (a_at + FUZZ_RECORD > a_size || b_at + FUZZ_RECORD > b_size)
      break;
    else
      continue;
    a_at += first * FUZZ_RECORD;
    b_at += !first * FUZZ_RECORD;
    size += FUZZ_RECORD;
  }
  return size;
}

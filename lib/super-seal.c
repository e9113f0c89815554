/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The superblock's checksum, such that half a write does no harm.
 *
 * A power cut may tear the write in the middle: disks promise no more than
 * 512 bytes.  All fields that change in use are in the first half, but
 * s_checksum is in the second, so a torn write would leave a superblock
 * that Linux refuses and e2fsck replaces by a backup, if there is one.
 * Therefore the second half is left as it is, and s_snapshot_id, which
 * means nothing unless s_snapshot_inum is set (nothing sets it: snapshots
 * never came into Linux), gets the one value for which s_checksum is right.
 * A CRC is linear, so that value exists and is found by running the CRC
 * backwards.
 *
 * Only the kind of an error that is put on record lies in the second half
 * too; then the write can be torn, as Linux's can.
 */

#include <config.h>

#include <stddef.h>
#include <string.h>

#include "super-seal.h"

/* The state of a CRC-32C before COUNT zero bytes that led to CRC. */
static uint32_t
unwind_crc (uint32_t crc, size_t count)
{
  for (count *= 8; count > 0; count--)
    crc = crc & 0x80000000 ? (crc ^ 0x82f63b78) << 1 | 1 : crc << 1;
  return crc;
}

static uint32_t
sum (struct ext2_super_block *sb)
{
  return ext2fs_crc32c_le (~0u, (uint8_t *) sb,
                           offsetof (struct ext2_super_block, s_checksum));
}

void
super_get_rest (const struct ext2_super_block *sb, uint8_t rest[SUPER_REST])
{
  memcpy (rest, (const uint8_t *) sb + SUPER_REST, SUPER_REST);
}

void
super_seal (struct ext2_super_block *sb, uint8_t rest[SUPER_REST])
{
  const size_t from = offsetof (struct ext2_super_block, s_snapshot_id);
  const size_t to = offsetof (struct ext2_super_block, s_checksum);
  const size_t before = SUPER_REST - sizeof sb->s_checksum;
  uint32_t want;

  _Static_assert (offsetof (struct ext2_super_block, s_checksum) == 1020,
                  "the checksum is at the end");
  if (sb->s_feature_ro_compat &
      ext2fs_cpu_to_le32 (EXT4_FEATURE_RO_COMPAT_METADATA_CSUM)) {
    memcpy (&want, rest + before, sizeof want);
    if (sb->s_snapshot_inum == 0 &&
        memcmp ((uint8_t *) sb + SUPER_REST, rest, before) == 0) {
      sb->s_snapshot_id = 0;
      sb->s_snapshot_id = ext2fs_cpu_to_le32
        (unwind_crc (sum (sb) ^ ext2fs_le32_to_cpu (want), to - from));
    }
    sb->s_checksum = ext2fs_cpu_to_le32 (sum (sb));
  }
  super_get_rest (sb, rest);
}

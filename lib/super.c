/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Which filesystems are served, which only for reading, which not.
 *
 * Every feature flag is in one of the tables below or unknown.  A flag
 * whose upkeep this code does not do (quota files, for one) makes the
 * filesystem read-only, whatever libext2fs would permit.
 * Source for the flags: ext2_fs.h and the kernel's ext4 documentation.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "errors.h"
#include "super.h"

#define SUPER_OFFSET 1024
#define SUPER_SIZE 1024

struct feature {
  uint32_t mask;                /* 0: the end, for what is unknown */
  const char *name;
  const char *remedy;           /* where it is not the same for all */
};

/* Incompatible features that need nothing, or nothing beyond what the
 * code does.  RECOVER and JOURNAL_DEV are judged on their own, MMP is
 * looked after by mmp.c.
 */
#define INCOMPAT_SERVED                                                 \
  (EXT2_FEATURE_INCOMPAT_FILETYPE | EXT2_FEATURE_INCOMPAT_META_BG |     \
   EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT |        \
   EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_EA_INODE |     \
   EXT4_FEATURE_INCOMPAT_CSUM_SEED | EXT4_FEATURE_INCOMPAT_LARGEDIR |   \
   EXT4_FEATURE_INCOMPAT_INLINE_DATA | EXT4_FEATURE_INCOMPAT_ENCRYPT |  \
   EXT4_FEATURE_INCOMPAT_CASEFOLD)

#define INCOMPAT_JUDGED                                                 \
  (EXT3_FEATURE_INCOMPAT_RECOVER | EXT3_FEATURE_INCOMPAT_JOURNAL_DEV |  \
   EXT4_FEATURE_INCOMPAT_MMP)

static const struct feature incompat_refused[] = {
  { EXT2_FEATURE_INCOMPAT_COMPRESSION, "compression", NULL },
  { EXT4_FEATURE_INCOMPAT_DIRDATA, "dirdata", NULL },
  { 0, "unknown", NULL },
};

/* Read-only compatible features whose upkeep is done, or is none: a project
 * is only counted where there is quota as well.
 */
#define RO_COMPAT_SERVED                                                \
  (EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER |                                \
   EXT2_FEATURE_RO_COMPAT_LARGE_FILE |                                  \
   EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM | \
   EXT4_FEATURE_RO_COMPAT_DIR_NLINK |                                   \
   EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE |                                 \
   EXT4_FEATURE_RO_COMPAT_METADATA_CSUM |                               \
   EXT4_FEATURE_RO_COMPAT_PROJECT | EXT4_FEATURE_RO_COMPAT_VERITY |     \
   EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT)

/* What to do about those is not the same for each: tune2fs does not turn
 * all of them off.
 */
#define WITH_LINUX "write to it with Linux"

static const struct feature ro_compat_readonly[] = {
  { EXT4_FEATURE_RO_COMPAT_BIGALLOC, "bigalloc", WITH_LINUX ", or copy the "
    "files to a filesystem without it" },
  { EXT4_FEATURE_RO_COMPAT_QUOTA, "quota", WITH_LINUX ", or turn it off with "
    "tune2fs -O ^quota" },
  { EXT4_FEATURE_RO_COMPAT_READONLY, "read-only", "turn it off with tune2fs "
    "-O ^read-only" },
  { EXT4_FEATURE_RO_COMPAT_SHARED_BLOCKS, "shared_blocks", "give each file "
    "blocks of its own with e2fsck -fy -E unshare_blocks" },
  { EXT4_FEATURE_RO_COMPAT_HAS_SNAPSHOT, "has_snapshot", WITH_LINUX },
  { EXT4_FEATURE_RO_COMPAT_REPLICA, "replica", WITH_LINUX },
  { 0, "unknown", WITH_LINUX },
};

/* The first one in TABLE that is in FLAGS, or the table's end. */
static const struct feature *
find_feature (uint32_t flags, const struct feature *table)
{
  while (table->mask != 0 && !(flags & table->mask))
    table++;
  return table;
}

/* The name of F, or the number of the lowest one of FLAGS. */
static const char *
feature_name (const struct feature *f, uint32_t flags, char *buf, size_t len)
{
  if (f->mask != 0)
    return f->name;
  snprintf (buf, len, "0x%x", flags & -flags);
  return buf;
}

static errcode_t
check_incompat (const struct ext2_super_block *sb)
{
  uint32_t other = sb->s_feature_incompat
    & ~(INCOMPAT_SERVED | INCOMPAT_JUDGED);
  char buf[16];

  if (sb->s_feature_incompat & EXT3_FEATURE_INCOMPAT_JOURNAL_DEV) {
    log_error ("this is an external journal device, not a filesystem: "
               "serve the filesystem that it belongs to");
    return EXT2_ET_UNSUPP_FEATURE;
  }
  if (other) {
    log_error ("the filesystem has the unknown incompatible feature %s: "
               "it cannot be served; a newer version may know it, or serve "
               "it from Linux",
               feature_name (find_feature (other, incompat_refused), other,
                             buf, sizeof buf));
    return EXT2_ET_UNSUPP_FEATURE;
  }
  return 0;
}

/* The journal is not in the filesystem.  Replaying it takes e2fsck, and
 * tune2fs removes it although it does not find its device, but not if there
 * is something to replay.
 */
static errcode_t
refuse_external_journal (const struct ext2_super_block *sb)
{
  const bool recover
    = sb->s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER;

  log_error ("the filesystem has an external journal, which is not "
             "supported: %stune2fs -f -O ^has_journal removes it",
             recover ? "e2fsck -fy -j JOURNAL-DEVICE replays what is in it, "
             "then " : "");
  return EXT2_ET_UNSUPP_FEATURE;
}

/* As in Linux, what is an internal journal is said by s_journal_inum alone:
 * some tools set s_journal_uuid as well, which only means something without
 * it.
 */
static errcode_t
check_journal (const struct ext2_super_block *sb)
{
  static const uint8_t no_uuid[16];

  if (!(sb->s_feature_compat & EXT3_FEATURE_COMPAT_HAS_JOURNAL)) {
    if (sb->s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER) {
      log_error ("the superblock says needs_recovery but has no journal: "
                 "run e2fsck");
      return EXT2_ET_CORRUPT_SUPERBLOCK;
    }
    return 0;
  }
  if (sb->s_journal_inum != 0 && sb->s_journal_dev != 0) {
    log_error ("the superblock names a journal in the filesystem and an "
               "external one, and Linux refuses it too: debugfs -w -R 'ssv "
               "journal_dev 0' leaves the one in the filesystem");
    return EXT2_ET_CORRUPT_SUPERBLOCK;
  }
  if (sb->s_journal_inum != 0)
    return 0;
  if (sb->s_journal_dev != 0 ||
      memcmp (sb->s_journal_uuid, no_uuid, sizeof no_uuid) != 0)
    return refuse_external_journal (sb);
  log_error ("the superblock says has_journal but does not say where: run "
             "e2fsck -f");
  return EXT2_ET_CORRUPT_SUPERBLOCK;
}

/* Is the state one in which the bitmaps and trees can be trusted?  Errors
 * that were counted, but do not show in the state any more, may have been
 * repaired or not.
 */
static errcode_t
check_state (const struct ext2_super_block *sb, bool want_write,
             struct super_verdict *v)
{
  bool refuse = want_write;
  const char *what;

  if (sb->s_state & EXT2_ERROR_FS)
    what = "the filesystem is marked as having errors";
  else if (!(sb->s_state & EXT2_VALID_FS))
    what = "the filesystem was not unmounted cleanly";
  else if (sb->s_error_count != 0) {
    what = "the filesystem has errors on record";
    refuse = false;
    v->readonly = true;
  }
  else
    return 0;
  if (refuse) {
    log_error ("%s: run e2fsck -f, or serve it read-only with -r", what);
    return EROFS;
  }
  if (!v->recover)
    log_warning ("%s%s: what is read may be wrong, run e2fsck -f",
                 want_write ? "serving read-only: " : "", what);
  return 0;
}

static void
check_readonly (const struct ext2_super_block *sb, struct super_verdict *v)
{
  const uint32_t other = sb->s_feature_ro_compat & ~RO_COMPAT_SERVED;
  const struct feature *f = find_feature (other, ro_compat_readonly);
  char buf[16];

  if (other) {
    log_warning ("serving read-only: writing with the feature %s is not "
                 "supported: %s", feature_name (f, other, buf, sizeof buf),
                 f->remedy);
    v->readonly = true;
  }
}

/* e2fsck tries a copy of the superblock by itself where libext2fs finds
 * fault, and otherwise says to.
 */
static errcode_t
impossible (const char *what)
{
  log_error ("the superblock's %s is impossible: run e2fsck -f, with the "
             "option -b that it tells if it cannot read the superblock",
             what);
  return EXT2_ET_CORRUPT_SUPERBLOCK;
}

/* What the kernel requires of the layout of groups.  libext2fs lets some
 * of these pass, and our own code relies on them: a bitmap is one block.
 */
static errcode_t
check_groups (const struct ext2_super_block *sb, uint32_t block_size)
{
  const uint32_t inode_size = sb->s_rev_level == EXT2_GOOD_OLD_REV
    ? EXT2_GOOD_OLD_INODE_SIZE : sb->s_inode_size;
  const bool bigalloc
    = sb->s_feature_ro_compat & EXT4_FEATURE_RO_COMPAT_BIGALLOC;
  uint32_t per_block;
  const char *what = NULL;

  if (inode_size < EXT2_GOOD_OLD_INODE_SIZE || inode_size > block_size ||
      (inode_size & (inode_size - 1)) != 0)
    what = "inode size";
  else if (per_block = block_size / inode_size,
           sb->s_inodes_per_group < per_block ||
           sb->s_inodes_per_group > 8 * block_size)
    what = "number of inodes in a group";
  else if (sb->s_blocks_per_group < 8)
    what = "number of blocks in a group";
  else if (bigalloc)
    ;
  else if (sb->s_blocks_per_group > 8 * block_size ||
           sb->s_blocks_per_group <= sb->s_inodes_per_group / per_block + 3)
    what = "number of blocks in a group";
  else if (sb->s_first_data_block != (block_size == 1024))
    what = "first data block";
  else if (sb->s_reserved_gdt_blocks > block_size / 4)
    what = "number of reserved descriptor blocks";
  else if (sb->s_rev_level > EXT2_GOOD_OLD_REV &&
           sb->s_first_ino < EXT2_GOOD_OLD_FIRST_INO)
    what = "first inode";
  return what ? impossible (what) : 0;
}

static uint64_t
blocks_of (const struct ext2_super_block *sb)
{
  uint64_t blocks = sb->s_blocks_count;

  if (sb->s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT)
    blocks |= (uint64_t) sb->s_blocks_count_hi << 32;
  return blocks;
}

/* How many groups there can be: each costs memory, before anything has
 * been seen of it.  mke2fs makes none of less than 248 blocks (-g takes
 * 256 or more, and may be reduced by 8); what makes smaller ones
 * (genext2fs) makes only one.  Without meta_bg each copy of the
 * superblock has all descriptors behind it, in the same group.  For the
 * last limit, libext2fs computes offsets of descriptors in 32 bits.
 */
#define LEAST_BLOCKS 248
#define FEW_GROUPS 1024
#define MOST_DESCRIPTORS (UINT64_C (1) << 31)   /* bytes */

static errcode_t
check_group_count (const struct ext2_super_block *sb, uint32_t block_size)
{
  const uint64_t per_group = sb->s_blocks_per_group;
  const uint64_t blocks = blocks_of (sb) - sb->s_first_data_block;
  const uint64_t groups = blocks / per_group + (blocks % per_group != 0);
  const uint64_t size = sb->s_feature_incompat & EXT4_FEATURE_INCOMPAT_64BIT
    ? sb->s_desc_size : EXT2_MIN_DESC_SIZE;
  const char *what = NULL;

  if (size < EXT2_MIN_DESC_SIZE || size > EXT2_MAX_DESC_SIZE ||
      (size & (size - 1)) != 0)
    what = "size of group descriptors";
  else if (groups > UINT32_MAX ||
           (groups > FEW_GROUPS && per_group < LEAST_BLOCKS) ||
           (!(sb->s_feature_incompat & EXT2_FEATURE_INCOMPAT_META_BG) &&
            2 + (groups * size - 1) / block_size > per_group))
    what = "number of block groups";
  else if (groups * sb->s_inodes_per_group != sb->s_inodes_count)
    what = "number of inodes";
  if (what)
    return impossible (what);
  if (groups > MOST_DESCRIPTORS / size) {
    log_error ("the filesystem has %llu block groups, more than can be "
               "served: serve it from Linux", (unsigned long long) groups);
    return EXT2_ET_UNSUPP_FEATURE;
  }
  return 0;
}

static errcode_t
check_geometry (const struct ext2_super_block *sb, uint64_t device_size,
                uint32_t block_size)
{
  const uint64_t blocks = blocks_of (sb);

  if (blocks <= sb->s_first_data_block)
    return impossible ("number of blocks");
  if (blocks > device_size / block_size) {
    log_error ("the filesystem (%llu blocks of %u bytes) is larger than "
               "its device (%llu bytes): the image is truncated; restore "
               "it, or shrink the filesystem with resize2fs",
               (unsigned long long) blocks, block_size,
               (unsigned long long) device_size);
    return EXT2_ET_CORRUPT_SUPERBLOCK;
  }
  return 0;
}

errcode_t
super_check (struct device *dev, bool want_write, struct super_verdict *v)
{
  union {
    struct ext2_super_block sb;
    uint8_t bytes[SUPER_SIZE];
  } u;
  errcode_t err;

  v->readonly = !want_write;
  v->recover = v->mmp = false;
  if (dev->size < SUPER_OFFSET + SUPER_SIZE) {
    log_error ("not an ext2/3/4 filesystem: the device has only %llu bytes",
               (unsigned long long) dev->size);
    return EXT2_ET_BAD_MAGIC;
  }
  err = device_pread (dev, u.bytes, SUPER_SIZE, SUPER_OFFSET);
  if (err) {
    char why[128];

    log_error ("cannot read the superblock: %s",
               errcode_text (err, why, sizeof why));
    return err;
  }
#ifdef WORDS_BIGENDIAN
  ext2fs_swap_super (&u.sb);
#endif
  if (u.sb.s_magic != EXT2_SUPER_MAGIC) {
    log_error ("not an ext2/3/4 filesystem: no magic number in the "
               "superblock; for a partitioned disk add --filter=partition "
               "after --filter=ext2");
    return EXT2_ET_BAD_MAGIC;
  }
  if (u.sb.s_log_block_size > EXT2_MAX_BLOCK_LOG_SIZE - 10) {
    log_error ("not an ext2/3/4 filesystem: impossible block size");
    return EXT2_ET_CORRUPT_SUPERBLOCK;
  }
  v->judged = u.sb;
  v->block_size = 1024u << u.sb.s_log_block_size;
  v->mmp = u.sb.s_feature_incompat & EXT4_FEATURE_INCOMPAT_MMP;

  if ((err = check_incompat (&u.sb)) ||
      (err = check_groups (&u.sb, v->block_size)) ||
      (err = check_geometry (&u.sb, dev->size, v->block_size)) ||
      (err = check_group_count (&u.sb, v->block_size)) ||
      (err = check_journal (&u.sb)))
    return err;
  v->recover = u.sb.s_feature_incompat & EXT3_FEATURE_INCOMPAT_RECOVER;
  if ((err = check_state (&u.sb, want_write, v)))
    return err;
  if (v->recover)
    v->readonly = true;
  else if (want_write)
    check_readonly (&u.sb, v);
  return 0;
}

errcode_t
super_identify (struct device *dev, uint8_t uuid[16], bool *mmp)
{
  struct ext2_super_block sb;
  errcode_t err;

  if (dev->size < SUPER_OFFSET + sizeof sb)
    return EXT2_ET_BAD_MAGIC;
  err = device_pread (dev, &sb, sizeof sb, SUPER_OFFSET);
  if (err)
    return err;
  if (ext2fs_le16_to_cpu (sb.s_magic) != EXT2_SUPER_MAGIC)
    return EXT2_ET_BAD_MAGIC;
  memcpy (uuid, sb.s_uuid, sizeof sb.s_uuid);
  *mmp = ext2fs_le32_to_cpu (sb.s_feature_incompat) &
    EXT4_FEATURE_INCOMPAT_MMP;
  return 0;
}

bool
super_unchanged (const struct super_verdict *v,
                 const struct ext2_super_block *sb)
{
  const struct ext2_super_block *old = &v->judged;

  return sb->s_feature_compat == old->s_feature_compat &&
    sb->s_feature_incompat == old->s_feature_incompat &&
    sb->s_feature_ro_compat == old->s_feature_ro_compat &&
    sb->s_rev_level == old->s_rev_level &&
    sb->s_log_block_size == old->s_log_block_size &&
    sb->s_first_data_block == old->s_first_data_block &&
    sb->s_blocks_count == old->s_blocks_count &&
    sb->s_blocks_count_hi == old->s_blocks_count_hi &&
    sb->s_blocks_per_group == old->s_blocks_per_group &&
    sb->s_reserved_gdt_blocks == old->s_reserved_gdt_blocks &&
    sb->s_desc_size == old->s_desc_size &&
    sb->s_first_meta_bg == old->s_first_meta_bg &&
    sb->s_mmp_block == old->s_mmp_block &&
    sb->s_inodes_count == old->s_inodes_count &&
    sb->s_inodes_per_group == old->s_inodes_per_group &&
    sb->s_inode_size == old->s_inode_size &&
    sb->s_first_ino == old->s_first_ino &&
    sb->s_journal_inum == old->s_journal_inum;
}

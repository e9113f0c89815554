/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Finding the journal and judging its superblock. */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "fs.h"
#include "inode.h"
#include "journal.h"
#include "map.h"

static errcode_t
refuse (const char *what)
{
  log_error ("the journal cannot be used: %s: run e2fsck -f", what);
  return EXT2_ET_CORRUPT_JOURNAL_SB;
}

static errcode_t
add_run (struct journal *j, uint64_t jblk, uint64_t pblk, uint64_t len)
{
  struct journal_run *r;

  if (j->run_count > 0) {
    r = &j->runs[j->run_count - 1];
    if (r->pblk + r->len == pblk) {
      r->len += len;
      return 0;
    }
  }
  /* Room for 1, 2, 4, ... runs. */
  if ((j->run_count & (j->run_count - 1)) == 0) {
    size_t n = j->run_count ? 2 * j->run_count : 1;

    r = realloc (j->runs, n * sizeof *r);
    if (r == NULL)
      return ENOMEM;
    j->runs = r;
  }
  j->runs[j->run_count++] = (struct journal_run) { jblk, len, pblk };
  return 0;
}

/* All blocks of INODE, of which there must be COUNT.  A table that is in
 * use many times makes COUNT huge in a small image, so whether a block is
 * there twice is asked whenever there are twice as many pieces: memory is
 * in proportion to the tables that exist.
 */
static errcode_t
collect_runs (struct journal *j, struct inode *inode, uint64_t count)
{
  struct filesystem *fs = inode->fs;
  struct syszone seen = { .count = 0 };
  size_t next_look = 256;
  uint64_t lblk;
  struct mapping m;
  errcode_t err = 0;

  for (lblk = 0; lblk < count && !err; lblk += m.len) {
    if ((err = map_lookup (inode, lblk, count - lblk, &m)))
      break;
    if (m.len > count - lblk)
      m.len = count - lblk;
    if (m.state != MAP_WRITTEN || !filesystem_valid_data (fs, m.pblk, m.len))
      err = EXT2_ET_CORRUPT_JOURNAL_SB;
    else if (!(err = syszone_add (&seen, m.pblk, m.len)))
      err = add_run (j, lblk, m.pblk, m.len);
    if (!err && seen.count >= next_look) {
      if (!syszone_finish (&seen))
        err = EXT2_ET_CORRUPT_JOURNAL_SB;
      next_look = 2 * seen.count > 256 ? 2 * seen.count : 256;
    }
  }
  if (!err && !syszone_finish (&seen))
    err = EXT2_ET_CORRUPT_JOURNAL_SB;
  syszone_free (&seen);
  return err == EXT2_ET_CORRUPT_JOURNAL_SB
    ? refuse ("its file has holes, or blocks that cannot be its own") : err;
}

static errcode_t
check_inode (struct inode *inode)
{
  const uint64_t blocks = inode->size >> inode->fs->block_bits;

  if (!LINUX_S_ISREG (inode->raw->i_mode) ||
      inode->raw->i_links_count == 0 || inode->kind == INLINE_DATA ||
      (inode->raw->i_flags & EXT4_ENCRYPT_FL))
    return refuse ("its inode is not that of a journal");
  if (blocks < JBD2_MIN_BLOCKS || blocks > inode->fs->blocks ||
      blocks > UINT32_MAX)
    return refuse ("its size is impossible");
  return 0;
}

/* The superblock. */

static errcode_t
check_features (const struct jbd2_super *js)
{
  const uint32_t compat = ext2fs_be32_to_cpu (js->compat);
  const uint32_t incompat = ext2fs_be32_to_cpu (js->incompat);
  struct jbd2_format f;

  if ((incompat & ~JBD2_INCOMPAT_KNOWN) || js->ro_compat) {
    log_error ("the journal has unknown features (incompatible 0x%x, "
               "read-only 0x%x): a newer version may know them, or use "
               "Linux", (unsigned) incompat,
               (unsigned) ext2fs_be32_to_cpu (js->ro_compat));
    return EXT2_ET_UNSUPP_FEATURE;
  }
  jbd2_format_of (js, &f);
  if (!f.csum_v2 && !f.csum_v3)
    return 0;
  if ((f.csum_v2 && f.csum_v3) || (compat & JBD2_COMPAT_CHECKSUM))
    return refuse ("it has two kinds of checksums");
  if (js->csum_type != JBD2_CSUM_CRC32C)
    return refuse ("its checksums are of an unknown type");
  if (!jbd2_super_ok (js))
    return refuse ("the checksum of its superblock is wrong");
  return 0;
}

static uint32_t
fast_blocks (const struct jbd2_super *js)
{
  uint32_t n = ext2fs_be32_to_cpu (js->fast_blocks);

  if (js->h.type != ext2fs_cpu_to_be32 (JBD2_SUPER_V2) ||
      !(ext2fs_be32_to_cpu (js->incompat) & JBD2_INCOMPAT_FAST))
    return 0;
  return n ? n : JBD2_DEFAULT_FAST_BLOCKS;
}

/* Checks j->super; the journal's file has j->blocks blocks, of which the
 * journal may use fewer.
 */
static errcode_t
check_super (struct journal *j, uint32_t block_size)
{
  const struct jbd2_super *js = &j->super;
  const uint32_t type = ext2fs_be32_to_cpu (js->h.type);
  const uint32_t max_len = ext2fs_be32_to_cpu (js->max_len);
  const uint32_t start = ext2fs_be32_to_cpu (js->start);
  uint32_t fast;
  errcode_t err;

  if (ext2fs_be32_to_cpu (js->h.magic) != JBD2_MAGIC ||
      (type != JBD2_SUPER_V1 && type != JBD2_SUPER_V2))
    return refuse ("it has no superblock");
  if (type == JBD2_SUPER_V2 && (err = check_features (js)))
    return err;
  jbd2_format_of (js, &j->format);
  if (j->format.block_size != block_size)
    return refuse ("its block size is not the filesystem's");
  if (max_len < JBD2_MIN_BLOCKS || max_len > j->blocks)
    return refuse ("its length is not that of its file");
  j->blocks = max_len;
  fast = fast_blocks (js);
  if (fast > max_len - JBD2_MIN_BLOCKS)
    return refuse ("the area for fast commits is too large");
  j->first = ext2fs_be32_to_cpu (js->first);
  j->end = max_len - fast;
  if (j->first == 0 || j->first >= j->end ||
      (start != 0 && (start < j->first || start >= j->end)))
    return refuse ("its log is not inside it");
  return 0;
}

static errcode_t
load (struct filesystem *fs, struct inode *inode, struct journal *j)
{
  errcode_t err = check_inode (inode);

  if (err)
    return err;
  j->blocks = inode->size >> fs->block_bits;
  err = collect_runs (j, inode, j->blocks);
  if (!err)
    err = device_pread (fs->dev, &j->super, sizeof j->super,
                        j->runs[0].pblk << fs->block_bits);
  return err ? err : check_super (j, fs->block_size);
}

errcode_t
journal_load (struct filesystem *fs, struct journal **jp)
{
  const struct ext2_super_block *sb = fs->e2->super;
  struct inode *inode;
  struct journal *j;
  char why[128];
  errcode_t err;

  lock_assert_held (LOCK_FS);
  *jp = NULL;
  if (!ext2fs_has_feature_journal (fs->e2->super) || sb->s_journal_inum == 0)
    return 0;
  err = inode_load (fs, sb->s_journal_inum, &inode);
  if (err) {
    log_error ("cannot read the journal's inode: %s: run e2fsck -f",
               errcode_text (err, why, sizeof why));
    return err;
  }
  j = calloc (1, sizeof *j);
  err = j ? load (fs, inode, j) : ENOMEM;
  inode_free (inode);
  if (err) {
    if (err != EXT2_ET_CORRUPT_JOURNAL_SB && err != EXT2_ET_UNSUPP_FEATURE)
      log_error ("cannot read the journal: %s",
                 errcode_text (err, why, sizeof why));
    journal_free (j);
    return err;
  }
  *jp = j;
  return 0;
}

void
journal_free (struct journal *j)
{
  if (j)
    free (j->runs);
  free (j);
}

uint64_t
journal_block (const struct journal *j, uint32_t jblk, uint32_t *len)
{
  size_t lo = 0, hi = j->run_count;
  const struct journal_run *r;

  /* The last run that begins at JBLK or before. */
  while (hi - lo > 1) {
    size_t mid = lo + (hi - lo) / 2;

    if (j->runs[mid].jblk <= jblk)
      lo = mid;
    else
      hi = mid;
  }
  r = &j->runs[lo];
  *len = r->len - (jblk - r->jblk);
  if (*len > j->blocks - jblk)
    *len = j->blocks - jblk;
  return r->pblk + (jblk - r->jblk);
}

errcode_t
journal_write_super (struct journal *j, struct device *dev, unsigned flags)
{
  jbd2_set_super (&j->super);
  return device_pwrite (dev, &j->super, sizeof j->super,
                        j->runs[0].pblk * j->format.block_size, flags);
}

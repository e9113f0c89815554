/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Small images of each kind of filesystem, and where their metadata lie:
 * see damage.h.  The same ones each time, so that a case has the same
 * number each time.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "damage.h"
#include "jbd2.h"

const char *const damage_files[FILES] = {
  "/deep", "/dir/slow", "/dir/sub/../sub/../../tiny", "/sparse", "/dir/sub/small",
  "/dir/kept-deep", "/kept-full", "/dir/kept-tiny",
};

const char *const region_names[REGION_KINDS] = {
  "superblock", "descriptor", "block bitmap", "inode bitmap", "inode",
  "extents", "indirect", "directory", "link", "attributes", "mmp",
  "orphans", "backup", "journal superblock", "journal",
};

#define SAME "-N 96 -U 5ca1ab1e-0000-4000-8000-00000000d15c "

const struct damage_config damage_configs[] = {
  { "ext2", "-t ext2 -b 1024 -I 128 " SAME, 2048, false, false },
  { "ext3", "-t ext3 -b 1024 -J size=1 " SAME, 3072, false, false },
  { "ext3-dirty", "-t ext3 -b 1024 -J size=1 " SAME, 3072, true, false },
  { "ext4", "-t ext4 -b 1024 -O ^metadata_csum,^has_journal " SAME, 2048,
    false, false },
  { "ext4-csum", "-t ext4 -b 1024 -O metadata_csum,64bit -J size=1 " SAME,
    3072, false, false },
  { "ext4-dirty", "-t ext4 -b 1024 -O metadata_csum,64bit -J size=1 " SAME,
    3072, true, false },
  { "ext4-4k", "-t ext4 -b 4096 -O metadata_csum,^has_journal " SAME, 4096,
    false, false },
  { "ext4-groups", "-t ext4 -b 1024 -g 512 -O metadata_csum,^has_journal,"
    "^resize_inode " SAME, 2048, false, false },
  { "ext4-uninit", "-t ext4 -b 1024 -g 512 -O uninit_bg,^metadata_csum,"
    "^has_journal,^resize_inode " SAME, 2048, false, false },
  { "ext4-metabg", "-t ext4 -b 1024 -g 256 -O meta_bg,64bit,^resize_inode,"
    "^metadata_csum,^has_journal " SAME, 2048, false, false },
  { "ext4-sparse2", "-t ext4 -b 1024 -g 512 -O sparse_super2,^has_journal,"
    "^resize_inode,^metadata_csum " SAME, 2048, false, false },
  { "ext4-inline", "-t ext4 -b 1024 -I 256 -O inline_data,metadata_csum,"
    "metadata_csum_seed,64bit,^has_journal " SAME, 2048, false, false },
  { "ext4-mmp", "-t ext4 -b 1024 -O mmp,metadata_csum,^has_journal " SAME,
    2048, false, false },
  { "ext4-orphan", "-t ext4 -b 1024 -O orphan_file,metadata_csum "
    "-J size=1 " SAME, 3072, false, false },
  { "ext4-bigalloc", "-t ext4 -b 1024 -C 4096 -O bigalloc,metadata_csum,"
    "^has_journal,^resize_inode " SAME, 4096, false, true },
  { NULL, NULL, 0, false, false },
};

/* Making one. */

#define DEEP (UINT64_C (600) << 10)

/* debugfs with the LINES, and 'write's of memory to be had from FD. */
static void
debugfs_lines (struct memdev *md, const char *lines)
{
  char name[] = "/tmp/ext2unit.XXXXXX", command[300], path[64];
  int fd = mkstemp (name);

  must (fd != -1);
  must (write (fd, lines, strlen (lines)) == (ssize_t) strlen (lines));
  close (fd);
  snprintf (command, sizeof command, "debugfs -w -f %s %s >/dev/null 2>&1",
            name, memdev_path (md, path, sizeof path));
  must (system (command) == 0);
  unlink (name);
}

/* A file of SIZE bytes, filled or a hole between its ends. */
static void
put_file (struct memdev *md, const char *path, uint64_t size, bool filled)
{
  struct memdev *content = memdev_new (size);
  char from[64], lines[300];

  content->mem[0] = content->mem[size - 1] = 'e';
  if (filled)
    image_content (path, content->mem, size);
  snprintf (lines, sizeof lines, "write %s %s\n",
            memdev_path (content, from, sizeof from), path);
  debugfs_lines (md, lines);
  memdev_free (content);
}

static void
put_names (struct memdev *md)
{
  char lines[24 * 256], name[180];
  size_t n = 0;
  unsigned i;

  memset (name, 'x', sizeof name - 1);
  name[sizeof name - 1] = 0;
  for (i = 0; i < 24; i++)
    n += snprintf (lines + n, sizeof lines - n, "mknod %02u%s p\n", i, name);
  debugfs_lines (md, lines);
}

static void
put_everything (struct memdev *md)
{
  char slow[400];

  debugfs_lines (md, "mkdir dir\nmkdir dir/sub\n");
  put_file (md, "/deep", DEEP + 99, false);
  put_file (md, "/full", 120 << 10, true);
  put_file (md, "/tiny", 100, true);
  put_file (md, "/sparse", 900 << 10, false);
  put_file (md, "/dir/sub/small", 5000, true);
  put_file (md, "/dir/kept-deep", DEEP / 2, false);
  put_file (md, "/kept-full", 100 << 10, true);
  put_file (md, "/dir/kept-tiny", 120, true);
  /* Too long for the inode. */
  snprintf (slow, sizeof slow, "symlink dir/slow %s../full\n",
            "sub/../sub/../sub/../sub/../sub/../sub/../sub/../sub/../");
  debugfs_lines (md, slow);
  put_names (md);
}

/* An attribute too large for the inode. */
static void
put_attribute (struct memdev *md)
{
  struct memdev *content = memdev_new (600);
  char from[64], lines[200];

  image_content ("attribute", content->mem, 600);
  snprintf (lines, sizeof lines, "ea_set -f %s /kept-full user.large\n",
            memdev_path (content, from, sizeof from));
  debugfs_lines (md, lines);
  memdev_free (content);
}

/* Every other block of a file, so that it has a tree, and some blocks
 * that are allocated but not written.
 */
static void
fill_deep (struct filesystem *fs, const char *path)
{
  struct inode *inode = image_iget (fs, path);
  const uint64_t bs = fs->block_size;
  uint8_t *data = malloc (bs);
  uint64_t at;

  assert_non_null (data);
  image_content (path, data, bs);
  for (at = 0; at + bs < inode->size; at += 2 * bs)
    assert_ok (file_write (inode, data, bs, at, 0));
  assert_ok (file_zero (inode, 20 * bs, 31 * bs, 0));
  free (data);
  iput (inode);
}

/* Transactions that are in the journal only. */
static void
leave_dirty (struct memdev *md)
{
  struct memdev *copy = memdev_copy (md);
  struct filesystem *fs = image_open (copy);
  struct inode *deep = image_iget (fs, "/deep");
  struct inode *sparse = image_iget (fs, "/sparse");
  uint64_t at;

  for (at = 0; at < 5; at++) {
    assert_ok (file_write (sparse, "dirty", 5, at * 7777, 0));
    assert_ok (file_trim (deep, 100 << 10, at << 16, 0));
    assert_ok (file_write (deep, "dirty", 5, 3000 + at * 9999, 0));
    assert_ok (filesystem_flush (fs));
  }
  syncer_drain (fs);            /* no write is under way */
  memcpy (md->mem, copy->mem, md->dev.size);
  iput (deep);
  image_close (fs, sparse);
  memdev_free (copy);
}

static ext2_ino_t
number_of (ext2_filsys e2, const char *path)
{
  ext2_ino_t ino = 0;

  must (ext2fs_namei (e2, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino) == 0);
  return ino;
}

static ext2_filsys
open_image (struct memdev *md)
{
  ext2_filsys e2;
  char path[64];

  must (ext2fs_open (memdev_path (md, path, sizeof path),
                     EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0,
                     unix_io_manager, &e2) == 0);
  return e2;
}

/* A file that was deleted while it was open. */
static void
leave_orphan (struct memdev *md)
{
  ext2_filsys e2;
  char lines[200];
  ext2_ino_t ino;

  put_file (md, "/gone", 3000, true);
  e2 = open_image (md);
  ino = number_of (e2, "/gone");
  ext2fs_close_free (&e2);
  snprintf (lines, sizeof lines, "unlink /gone\nsif <%u> links_count 0\n"
            "sif <%u> dtime 0\nssv last_orphan %u\n"
            "feature orphan_present\n", ino, ino, ino);
  debugfs_lines (md, lines);
}

static struct memdev *
make_image (const struct damage_config *c)
{
  static const struct image_file none[] = { { NULL, 0, false } };
  struct memdev *md;
  struct filesystem *fs;

  md = image_make (c->args, (uint64_t) c->kib << 10, none);
  put_everything (md);
  put_attribute (md);
  /* With indexed directories, where they can be. */
  assert_in_range (image_fsck (md, "-fyD", 1), 0, 1);
  if (!c->readonly) {
    fs = image_open (md);
    fill_deep (fs, "/deep");
    fill_deep (fs, "/dir/kept-deep");
    image_close (fs, NULL);
  }
  image_assert_clean (md);
  if (c->dirty)
    leave_dirty (md);
  if (strstr (c->args, "orphan"))
    leave_orphan (md);
  return md;
}

/* Where the metadata lie. */

static struct region *
add (struct victim *v, enum region_kind kind, uint64_t offset, uint32_t len,
     uint32_t number)
{
  if (v->region_count == v->region_size) {
    v->region_size = v->region_size ? 2 * v->region_size : 64;
    v->regions = realloc (v->regions,
                          v->region_size * sizeof *v->regions);
    must (v->regions != NULL);
  }
  v->regions[v->region_count] = (struct region) {
    .kind = kind, .offset = offset, .len = len, .number = number,
  };
  return &v->regions[v->region_count++];
}

static void
add_groups (struct victim *v)
{
  ext2_filsys e2 = v->e2;
  const uint32_t bs = e2->blocksize, size = EXT2_DESC_SIZE (e2->super);
  const uint32_t per_block = EXT2_DESC_PER_BLOCK (e2->super);
  blk64_t super, old_desc, new_desc, blk;
  dgrp_t g;

  for (g = 0; g < e2->group_desc_count; g++) {
    blk = ext2fs_descriptor_block_loc2 (e2, e2->super->s_first_data_block,
                                        g / per_block);
    add (v, R_DESC, blk * bs + g % per_block * size, size, g);
    add (v, R_BLOCK_BITMAP, ext2fs_block_bitmap_loc (e2, g) * bs,
         e2->super->s_blocks_per_group / 8, g);
    if (g == 0)
      add (v, R_INODE_BITMAP, ext2fs_inode_bitmap_loc (e2, g) * bs,
           e2->super->s_inodes_per_group / 8, g);
    ext2fs_super_and_bgd_loc2 (e2, g, &super, &old_desc, &new_desc, NULL);
    if (g > 0 && super)
      add (v, R_BACKUP, super * bs, 1024, g);
    if (g > 0 && old_desc)
      add (v, R_BACKUP, old_desc * bs, size * e2->group_desc_count, g);
  }
}

struct walk {
  struct victim *v;
  ext2_ino_t ino;
  enum region_kind tree, data;  /* data REGION_KINDS: not metadata */
};

static int
note_block (ext2_filsys e2, blk64_t *blk, e2_blkcnt_t lblk, blk64_t ref,
            int ref_offset, void *opaque)
{
  struct walk *w = opaque;
  enum region_kind kind = lblk < 0 ? w->tree : w->data;

  (void) ref;
  (void) ref_offset;
  if (kind != REGION_KINDS)
    add (w->v, kind, *blk * e2->blocksize, e2->blocksize, w->ino);
  return 0;
}

static void
add_inode (struct victim *v, ext2_ino_t ino, struct ext2_inode *inode)
{
  ext2_filsys e2 = v->e2;
  const uint32_t bs = e2->blocksize, size = EXT2_INODE_SIZE (e2->super);
  const uint32_t in_group = (ino - 1) % e2->super->s_inodes_per_group;
  const dgrp_t g = (ino - 1) / e2->super->s_inodes_per_group;
  struct walk w = {
    .v = v, .ino = ino, .data = REGION_KINDS,
    .tree = inode->i_flags & EXT4_EXTENTS_FL ? R_EXTENTS : R_INDIRECT,
  };

  add (v, R_INODE, ext2fs_inode_table_loc (e2, g) * bs + in_group * size,
       size, ino);
  if (ext2fs_file_acl_block (e2, inode))
    add (v, R_ATTRIBUTES, ext2fs_file_acl_block (e2, inode) * bs, bs, ino);
  if (LINUX_S_ISDIR (inode->i_mode))
    w.data = R_DIRECTORY;
  else if (LINUX_S_ISLNK (inode->i_mode))
    w.data = R_LINK;
  else if (ino == e2->super->s_orphan_file_inum)
    w.data = R_ORPHANS;
  if (ext2fs_inode_has_valid_blocks2 (e2, inode))
    ext2fs_block_iterate3 (e2, ino, BLOCK_FLAG_READ_ONLY, NULL, note_block,
                           &w);
}

/* All that are in use, but few of those that are only names. */
static void
add_inodes (struct victim *v)
{
  struct ext2_inode inode;
  unsigned names = 0;
  ext2_ino_t ino;

  for (ino = 2; ino <= v->e2->super->s_inodes_count; ino++) {
    if (ext2fs_read_inode (v->e2, ino, &inode) != 0 || inode.i_mode == 0)
      continue;
    if (LINUX_S_ISFIFO (inode.i_mode) && names++ > 0)
      continue;
    add_inode (v, ino, &inode);
  }
}

uint64_t
victim_journal_offset (struct victim *v, uint32_t at)
{
  blk64_t blk = 0;

  must (ext2fs_bmap2 (v->e2, v->e2->super->s_journal_inum, NULL, NULL, 0, at,
                      NULL, &blk) == 0 && blk != 0);
  return blk * v->e2->blocksize;
}

/* The log from its start on, or if it is empty a few blocks of it. */
static void
add_log (struct victim *v, const struct jbd2_super *js)
{
  const uint32_t bs = v->e2->blocksize;
  uint32_t start = ext2fs_be32_to_cpu (js->start), tid, at;
  bool empty = start == 0;
  struct jbd2_format f;
  struct jbd2_tag tag;

  jbd2_format_of (js, &f);
  tid = ext2fs_be32_to_cpu (js->sequence);
  for (at = empty ? 1 : start; !empty || at < 4; at++) {
    uint64_t offset = victim_journal_offset (v, at);
    const uint8_t *p = v->md->mem + offset;
    const unsigned type = jbd2_type (p, tid);
    size_t in = JBD2_FIRST_TAG, was = in;

    if (!empty && type == 0)
      break;
    add (v, R_JOURNAL, offset, bs, 0);
    if (type == JBD2_COMMIT)
      tid++;
    if (type != JBD2_DESCRIPTOR)
      continue;
    for (; jbd2_get_tag (&f, p, &in, &tag); was = in)
      add (v, R_JOURNAL, victim_journal_offset (v, ++at), bs, 0)->tag = offset + was;
  }
}

static void
add_journal (struct victim *v)
{
  struct jbd2_super js;
  uint64_t offset;

  if (!ext2fs_has_feature_journal (v->e2->super))
    return;
  offset = victim_journal_offset (v, 0);
  memcpy (&js, v->md->mem + offset, sizeof js);
  add (v, R_JOURNAL_SUPER, offset, sizeof js, 0);
  add_log (v, &js);
}

/* Block numbers that a pointer must not have, or not this one. */

static void
note (struct victim *v, uint64_t blk)
{
  must (v->special_count < sizeof v->special / sizeof v->special[0]);
  v->special[v->special_count++] = blk;
}

static int
note_data (ext2_filsys e2, blk64_t *blk, e2_blkcnt_t lblk, blk64_t ref,
           int ref_offset, void *opaque)
{
  (void) e2;
  (void) lblk;
  (void) ref;
  (void) ref_offset;
  *(blk64_t *) opaque = *blk;
  return BLOCK_ABORT;
}

static void
note_special (struct victim *v)
{
  static const char *const files[] = { "/deep", "/kept-full",
    "/dir/kept-deep" };
  ext2_filsys e2 = v->e2;
  const uint64_t blocks = ext2fs_blocks_count (e2->super);
  bool seen[REGION_KINDS] = { false };
  blk64_t blk;
  size_t i;

  /* The first and the second of each kind. */
  for (i = 0; i < v->region_count; i++) {
    const struct region *r = &v->regions[i], *before = r - 1;

    if (!seen[r->kind] || (i > 0 && before->kind == r->kind &&
                           v->special_count < 40))
      note (v, r->offset / e2->blocksize);
    seen[r->kind] = true;
  }
  for (i = 0; i < sizeof files / sizeof files[0]; i++) {
    blk = 0;
    ext2fs_block_iterate3 (e2, number_of (e2, files[i]),
                           BLOCK_FLAG_READ_ONLY | BLOCK_FLAG_DATA_ONLY, NULL,
                           note_data, &blk);
    if (blk)
      note (v, blk);
  }
  note (v, 0);
  note (v, blocks - 1);
  note (v, blocks);
}

void
victim_init (struct victim *v, const struct damage_config *c)
{
  memset (v, 0, sizeof *v);
  v->config = c;
  v->md = make_image (c);
  v->scratch = memdev_copy (v->md);
  v->e2 = open_image (v->md);
  add (v, R_SUPER, 1024, 1024, 0);
  add_groups (v);
  if (ext2fs_has_feature_mmp (v->e2->super))
    add (v, R_MMP, v->e2->super->s_mmp_block * v->e2->blocksize, 1024, 0);
  add_inodes (v);
  add_journal (v);
  note_special (v);
}

void
victim_free (struct victim *v)
{
  ext2fs_close_free (&v->e2);
  memdev_free (v->scratch);
  memdev_free (v->md);
  free (v->regions);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The filesystems that inputs damage: see fuzz-base.h. */

#include <config.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz-base.h"
#include "journal.h"

const char *const fuzz_files[FUZZ_FILES] = {
  "deep", "full", "other", "tiny", "holes", "dir/sub/file",
  "dir/link", "loop1", "long", "many", "nobody",
};

#define MOST_BASES 32

static char *names[MOST_BASES];
static struct fuzz_base *bases[MOST_BASES];
static unsigned base_count;

static const char *
directory (void)
{
  const char *dir = getenv ("FUZZ_IMAGES");

  return dir ? dir : FUZZ_IMAGES;
}

static int
is_base (const struct dirent *d)
{
  return strstr (d->d_name, ".base") != NULL;
}

static void
list (void)
{
  struct dirent **found;
  const int n = scandir (directory (), &found, is_base, alphasort);
  int i;

  if (n <= 0 || n > MOST_BASES)
    fuzz_die ("no images in %s (set FUZZ_IMAGES)", directory ());
  for (i = 0; i < n; i++) {
    names[i] = strdup (found[i]->d_name);
    free (found[i]);
  }
  free (found);
  base_count = n;
}

unsigned
fuzz_bases (void)
{
  if (base_count == 0)
    list ();
  return base_count;
}

unsigned
fuzz_base_number (const char *name)
{
  unsigned i;

  for (i = 0; i < fuzz_bases (); i++)
    if (strncmp (names[i], name, strlen (name)) == 0)
      return i;
  fuzz_die ("no image %s", name);
}

/* The packed form: see pack in make-images.py. */

static uint64_t
varint (FILE *f)
{
  uint64_t v = 0;
  unsigned shift = 0;
  int c;

  do {
    c = getc (f);
    v |= (uint64_t) (c & 127) << shift;
    shift += 7;
  } while (c != EOF && (c & 128) && shift < 63);
  return c == EOF ? 0 : v;
}

static void
unpack (struct fuzz_base *b, const char *name)
{
  char path[4096], magic[8];
  uint64_t n, at = 0;
  FILE *f;

  snprintf (path, sizeof path, "%s/%s", directory (), name);
  f = fopen (path, "re");
  if (f == NULL || fread (magic, 8, 1, f) != 1 ||
      memcmp (magic, "ext2base", 8) != 0 || fread (&n, 8, 1, f) != 1)
    fuzz_die ("%s: cannot be read", path);
  b->size = ext2fs_le64_to_cpu (n);
  b->mem = calloc (1, b->size);
  if (b->mem == NULL)
    fuzz_die ("no memory");
  while ((n = varint (f)) != 0 && n / 2 <= b->size - at) {
    if (n & 1)
      memset (b->mem + at, getc (f), n / 2);
    else if (fread (b->mem + at, n / 2, 1, f) != 1)
      fuzz_die ("%s: ends too early", path);
    at += n / 2;
  }
  if (!feof (f))
    fuzz_die ("%s: not a packed image", path);
  fclose (f);
}

/* The places. */

static void
add (struct fuzz_base *b, enum fuzz_class class, uint32_t owner,
     uint64_t offset, uint32_t len)
{
  if (b->count[class] < FUZZ_MOST_PLACES && offset < b->size)
    b->places[class][b->count[class]++]
      = (struct fuzz_place) { offset, len, owner, class };
}

static void
add_block (struct fuzz_base *b, enum fuzz_class class, uint32_t owner,
           uint64_t blk)
{
  add (b, class, owner, blk * b->block_size, b->block_size);
}

static void
find_groups (struct fuzz_base *b)
{
  ext2_filsys e2 = b->fs->e2;
  const unsigned size = EXT2_DESC_SIZE (e2->super);
  const unsigned per_block = EXT2_DESC_PER_BLOCK (e2->super);
  dgrp_t g;

  for (g = 0; g < e2->group_desc_count; g++) {
    const uint64_t blk
      = ext2fs_descriptor_block_loc2 (e2, e2->super->s_first_data_block,
                                      g / per_block);

    add (b, FUZZ_DESC, g, blk * b->block_size + g % per_block * size, size);
    add_block (b, FUZZ_BLOCK_BITMAP, g, ext2fs_block_bitmap_loc (e2, g));
    add_block (b, FUZZ_INODE_BITMAP, g, ext2fs_inode_bitmap_loc (e2, g));
  }
}

struct walk {
  struct fuzz_base *b;
  uint32_t ino;
  enum fuzz_class class;        /* of what is not tree */
};

static int
note_block (ext2_filsys e2, blk64_t *blk, e2_blkcnt_t lblk, blk64_t ref,
            int ref_offset, void *opaque)
{
  const struct walk *w = opaque;

  (void) e2;
  (void) ref;
  (void) ref_offset;
  if (lblk < 0)
    add_block (w->b, FUZZ_TREE, w->ino, *blk);
  else if (w->class != FUZZ_DATA || lblk < 4)
    add_block (w->b, w->class, w->ino, *blk);
  return 0;
}

static void
find_inode (struct fuzz_base *b, uint32_t ino)
{
  ext2_filsys e2 = b->fs->e2;
  const uint32_t per_group = e2->super->s_inodes_per_group;
  const unsigned size = EXT2_INODE_SIZE (e2->super);
  struct walk w = { b, ino, FUZZ_DATA };
  struct ext2_inode inode;

  if (ext2fs_read_inode (e2, ino, &inode) != 0 || inode.i_mode == 0)
    return;
  add (b, FUZZ_INODE, ino,
       ext2fs_inode_table_loc (e2, (ino - 1) / per_group) * b->block_size
       + (ino - 1) % per_group * size, size);
  if (LINUX_S_ISDIR (inode.i_mode))
    w.class = FUZZ_DIR;
  else if (ino == EXT2_JOURNAL_INO)
    w.class = FUZZ_JOURNAL;
  else if (ino == e2->super->s_orphan_file_inum)
    w.class = FUZZ_ORPHAN;
  if (ext2fs_inode_has_valid_blocks2 (e2, &inode))
    ext2fs_block_iterate3 (e2, ino, BLOCK_FLAG_READ_ONLY, NULL, note_block,
                           &w);
}

static void
find_free (struct fuzz_base *b)
{
  ext2_filsys e2 = b->fs->e2;
  uint64_t blk;

  for (blk = b->blocks; blk-- > b->blocks / 2;) {
    const dgrp_t g = ext2fs_group_of_blk2 (e2, blk);
    const uint8_t *map = b->mem
      + ext2fs_block_bitmap_loc (e2, g) * b->block_size;

    if (!ext2fs_bg_flags_test (e2, g, EXT2_BG_BLOCK_UNINIT) &&
        e2->cluster_ratio_bits == 0 &&
        !ext2fs_test_bit (blk - ext2fs_group_first_block2 (e2, g), map))
      add_block (b, FUZZ_FREE, 0, blk);
  }
}

static void
find_places (struct fuzz_base *b)
{
  struct ext2_super_block *sb = b->fs->e2->super;
  uint32_t ino;

  add (b, FUZZ_SUPER, 0, 1024, 1024);
  find_groups (b);
  for (ino = EXT2_ROOT_INO; ino <= sb->s_inodes_count; ino++)
    find_inode (b, ino);
  if (ext2fs_has_feature_mmp (sb))
    add_block (b, FUZZ_MMP, 0, sb->s_mmp_block);
  find_free (b);
}

static struct fuzz_base *
load (const char *name)
{
  const struct filesystem_options opts = { .readonly = true };
  struct fuzz_base *b = calloc (1, sizeof *b);

  if (b == NULL)
    fuzz_die ("no memory");
  unpack (b, name);
  b->dev = fuzz_device_new (b->mem, b->size, true);
  b->healthy = fuzz_device_new (b->mem, b->size, false);
  fuzz_device_allow (b->healthy, UINT64_MAX / 2, UINT64_MAX / 2);
  if (filesystem_open (&b->healthy->dev, &opts, &b->fs) != 0)
    fuzz_die ("%s: cannot be opened", name);
  b->block_size = b->fs->block_size;
  b->blocks = b->fs->blocks;
  find_places (b);
  return b;
}

struct fuzz_base *
fuzz_base (unsigned n)
{
  n %= fuzz_bases ();
  if (bases[n] == NULL)
    bases[n] = load (names[n]);
  return bases[n];
}

const struct fuzz_place *
fuzz_place (const struct fuzz_base *b, unsigned class, unsigned index)
{
  class %= FUZZ_CLASSES;
  return b->count[class] == 0 ? NULL
    : &b->places[class][index % b->count[class]];
}

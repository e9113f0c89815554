/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Names to inodes: what the image holds is found, and an image made to
 * do harm does none: a wrong answer, an error, but soon and without an
 * accident.  For AddressSanitizer, too.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ondisk.h"
#include "errors.h"
#include "image.h"
#include "path.h"

#define MIB (UINT64_C (1) << 20)

#define X48 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define X50 X48 "xx"
#define X200 X50 X50 X50 X50
#define X250 X200 X50
#define SLASHES50 "//////////////////////////////////////////////////"

static const struct image_file one_file[] = { { "f", 5000, true }, { NULL } };

/* debugfs with a list of commands. */

struct script {
  FILE *out;
  char *text;
  size_t len;
};

static void
script_begin (struct script *s)
{
  s->out = open_memstream (&s->text, &s->len);
  assert_non_null (s->out);
}

static void
script_run (struct script *s, struct memdev *md)
{
  struct memdev *file;
  char name[64], image[64], command[256];

  fclose (s->out);
  file = memdev_new (s->len);
  memcpy (file->mem, s->text, s->len);
  snprintf (command, sizeof command, "debugfs -w -f %s %s >/dev/null 2>&1",
            memdev_path (file, name, sizeof name),
            memdev_path (md, image, sizeof image));
  assert_int_equal (system (command), 0);
  memdev_free (file);
  free (s->text);
}

static void
script (struct memdev *md, const char *commands)
{
  struct script s;

  script_begin (&s);
  fputs (commands, s.out);
  script_run (&s, md);
}

/* Opens MD, looks PATH up, closes it. */
static errcode_t
resolve (struct memdev *md, const char *path, ext2_ino_t *ino)
{
  struct filesystem *fs = image_open (md);
  errcode_t err;

  *ino = 0;
  err = path_resolve (fs, path, ino);
  image_close (fs, NULL);
  return err;
}

#define assert_error(md, path, expected) \
  assert_same_error ((md), (path), (expected), __LINE__)

static void
assert_same_error (struct memdev *md, const char *path, errcode_t expected,
                   int line)
{
  ext2_ino_t ino;
  errcode_t err = resolve (md, path, &ino);
  char why[128];

  if (err != expected) {
    print_error ("%.200s: %s\n", path, errcode_text (err, why, sizeof why));
    _fail (__FILE__, line);
  }
}

/* The inode's number without following, by libext2fs, for sound images. */
static ext2_ino_t
number_of (struct memdev *md, const char *path)
{
  struct filesystem *fs = image_open (md);
  ext2_ino_t ino = 0;

  assert_ok (ext2fs_namei (fs->e2, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &ino));
  image_close (fs, NULL);
  return ino;
}

/* The inode and the blocks in place: small images without metadata_csum
 * and 64bit.
 */
static struct ext2_inode *
inode_at (struct memdev *md, ext2_ino_t ino)
{
  struct ext2_super_block *sb = image_super (md);
  uint64_t bs = EXT2_BLOCK_SIZE (sb);
  uint32_t group = (ino - 1) / sb->s_inodes_per_group;
  struct ext2_group_desc *desc
    = (void *) (md->mem + (sb->s_first_data_block + 1) * bs);

  return (void *)
    (md->mem + desc[group].bg_inode_table * bs
     + (ino - 1) % sb->s_inodes_per_group * EXT2_INODE_SIZE (sb));
}

static struct ext2_inode *
inode_of (struct memdev *md, const char *path)
{
  return inode_at (md, number_of (md, path));
}

static uint8_t *
block_at (struct memdev *md, uint64_t blk)
{
  return md->mem + blk * EXT2_BLOCK_SIZE (image_super (md));
}

/* What there is. */

static const char *const kinds[] = {
  "-t ext2 -b 1024 -I 128",
  "-t ext2 -b 4096",
  "-t ext3 -b 2048",
  "-t ext4 -b 1024",
  "-t ext4 -b 4096",
  "-t ext4 -b 4096 -O ^metadata_csum,^64bit",
  "-t ext4 -b 1024 -O inline_data",
  "-t ext4 -b 4096 -O inline_data",
  "-t ext4 -b 4096 -I 1024 -O inline_data",
  "-t ext4 -b 4096 -O inline_data,^metadata_csum",
  "-t ext4 -b 4096 -O ^filetype",
  "-t ext4 -b 65536",
};

static const char tree[] =
  "mkdir a\n" "mkdir a/b\n" "mkdir a/b/c\n" "mkdir " X250 "\n"
  "ln f a/f\n" "ln f a/b/f\n" "ln f a/b/c/f\n"
  /* Do not all fit into an inode. */
  "symlink a/b/one-rather-long-name ../f\n"
  "symlink a/b/two-rather-long-name ../f\n"
  "symlink a/b/three-rather-long-name ../f\n"
  "symlink a/b/four-rather-long-name ../f\n"
  "symlink a/b/five-rather-long-name ../f\n"
  "symlink a/b/six-rather-long-name ../f\n"
  "symlink relative f\n" "symlink absolute /f\n" "symlink chain a/b/c/up\n"
  "symlink a/b/c/up ../../../relative\n" "symlink dir a/b\n"
  "symlink dirslash a/b/\n" "symlink above ../../../../f\n"
  "symlink root /\n" "symlink a/here .\n" "symlink a/b/there ..\n"
  "symlink len59 ." SLASHES50 "///////f\n"
  "symlink len60 ." SLASHES50 "////////f\n"
  "symlink len61 ." SLASHES50 "/////////f\n"
  "symlink len156 ." SLASHES50 SLASHES50 SLASHES50 "////f\n"
  "symlink slow /" X250 "/../" X250 "/../" X250 "/../f\n"
  "symlink slowdir " X250 "/../a/../" X250 "/../a/b\n"
  "symlink dangling nowhere\n" "symlink fileslash f/\n"
  "symlink self self\n" "symlink loop1 loop2\n" "symlink loop2 a/loop3\n"
  "symlink a/loop3 ../loop1\n" "symlink below below/f\n";

static const struct { const char *path, *to; } found[] = {
  { "f", "/f" }, { "/f", "/f" }, { "///f", "/f" }, { "./f", "/f" },
  { "a//.//f", "/f" }, { "a/f", "/f" }, { "a/b/c/f", "/f" },
  { "/..", "/" }, { "/../../f", "/f" }, { "a/../f", "/f" },
  { "a/b/c/../../../../f", "/f" }, { "a/b/../b/./c/../f", "/f" },
  { "", "/" }, { "/", "/" }, { ".", "/" }, { "/./", "/" },
  { "a", "/a" }, { "a/", "/a" }, { "a/.", "/a" }, { "a/b/..", "/a" },
  { "a/b/c/..", "/a/b" }, { "a/b/c//", "/a/b/c" },
  { "a/b/one-rather-long-name", "/f" },
  { "a/b/six-rather-long-name", "/f" },
  { X250 "/../f", "/f" }, { X250, X250 },
  { "relative", "/f" }, { "absolute", "/f" }, { "chain", "/f" },
  { "a/b/c/up", "/f" }, { "dir", "/a/b" }, { "dir/", "/a/b" },
  { "dir/f", "/f" }, { "dir/c/..", "/a/b" }, { "dirslash", "/a/b" },
  { "dirslash/f", "/f" }, { "dir/..", "/a" }, { "dir/../f", "/f" },
  { "above", "/f" }, { "root", "/" }, { "root/root/f", "/f" },
  { "a/here/here/here", "/a" }, { "a/b/there", "/a" },
  { "a/b/there/b/there/f", "/f" }, { "len59", "/f" }, { "len60", "/f" },
  { "len61", "/f" }, { "len156", "/f" }, { "slow", "/f" },
  { "slowdir", "/a/b" }, { "slowdir/c/f", "/f" },
  { "slowdir/c/../../b/there/f", "/f" },
};

static const struct { const char *path; errcode_t err; } not_found[] = {
  { "none", EXT2_ET_FILE_NOT_FOUND },
  { "/a/none", EXT2_ET_FILE_NOT_FOUND },
  { "F", EXT2_ET_FILE_NOT_FOUND },
  { "ff", EXT2_ET_FILE_NOT_FOUND },
  { "f ", EXT2_ET_FILE_NOT_FOUND },
  { "...", EXT2_ET_FILE_NOT_FOUND },
  { "a/none/..", EXT2_ET_FILE_NOT_FOUND },
  { "a/b/c/none/f", EXT2_ET_FILE_NOT_FOUND },
  { X250 X50, EXT2_ET_FILE_NOT_FOUND },
  { "dangling", EXT2_ET_FILE_NOT_FOUND },
  { "f/", EXT2_ET_NO_DIRECTORY },
  { "f/.", EXT2_ET_NO_DIRECTORY },
  { "f/..", EXT2_ET_NO_DIRECTORY },
  { "f/f", EXT2_ET_NO_DIRECTORY },
  { "relative/", EXT2_ET_NO_DIRECTORY },
  { "relative/x", EXT2_ET_NO_DIRECTORY },
  { "slow/", EXT2_ET_NO_DIRECTORY },
  { "fileslash", EXT2_ET_NO_DIRECTORY },
  { "self", EXT2_ET_SYMLINK_LOOP },
  { "loop1", EXT2_ET_SYMLINK_LOOP },
  { "loop2/f", EXT2_ET_SYMLINK_LOOP },
  { "a/loop3", EXT2_ET_SYMLINK_LOOP },
  { "below", EXT2_ET_SYMLINK_LOOP },
};

static void
check_found (struct filesystem *fs, const char *path, const char *to)
{
  ext2_ino_t ino = 0, expected = 0;
  errcode_t err = path_resolve (fs, path, &ino);

  assert_ok (ext2fs_namei (fs->e2, EXT2_ROOT_INO, EXT2_ROOT_INO, to,
                           &expected));
  if (err || ino != expected)
    fail_msg ("%.200s: error %ld, inode %u, expected %u", path, (long) err,
              (unsigned) ino, (unsigned) expected);
}

static void
test_tree (void **state)
{
  struct memdev *md;
  struct filesystem *fs;
  ext2_ino_t ino;
  errcode_t err;
  size_t i, j;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    md = image_make (kinds[i], 16 * MIB, one_file);
    script (md, tree);
    fs = image_open (md);
    for (j = 0; j < sizeof found / sizeof *found; j++)
      check_found (fs, found[j].path, found[j].to);
    for (j = 0; j < sizeof not_found / sizeof *not_found; j++) {
      err = path_resolve (fs, not_found[j].path, &ino);
      if (err != not_found[j].err)
        fail_msg ("%.200s: error %ld", not_found[j].path, (long) err);
    }
    image_close (fs, NULL);
    assert_int_equal (memdev_count (md, MEMDEV_CHANGES), 0);
    memdev_free (md);
  }
}

static void
assert_leads (struct memdev *md, const char *path, const char *to)
{
  struct filesystem *fs = image_open (md);

  check_found (fs, path, to);
  image_close (fs, NULL);
}

/* As many as can be followed, and one more. */
static void
test_many_links (void **state)
{
  struct memdev *md = image_make ("-t ext4", 16 * MIB, one_file);
  struct script s;
  unsigned i;

  (void) state;
  script_begin (&s);
  fprintf (s.out, "symlink l40 f\n");
  for (i = 0; i < 40; i++)
    fprintf (s.out, "symlink l%u l%u\n", i, i + 1);
  script_run (&s, md);
  assert_leads (md, "l1", "/f");
  assert_error (md, "l0", EXT2_ET_SYMLINK_LOOP);
  memdev_free (md);
}

static void
test_long_paths (void **state)
{
  struct memdev *md = image_make ("-t ext4", 16 * MIB, one_file);
  char *path = malloc (70000);
  unsigned i;

  (void) state;
  assert_non_null (path);
  script (md, "mkdir a\n" "mkdir " X250 "\n"
          "symlink grow " X250 "/../" X250 "/../" X250 "/../grow\n");
  for (i = 0; i < 4000; i++)
    memcpy (path + i * 5, "a/../", 5);
  strcpy (path + 2047 * 5, "f");
  assert_leads (md, path, "/f");
  memcpy (path + 2047 * 5, "a/../a/../f", 12);
  assert_error (md, path, ENAMETOOLONG);

  memset (path, '/', 70000);
  strcpy (path + 65535, "f");
  assert_leads (md, path, "/f");
  strcpy (path + 65535, "ff");
  assert_error (md, path, ENAMETOOLONG);

  /* The link makes it too long. */
  memcpy (path, "grow", 4);
  path[65535] = '\0';
  assert_error (md, path, ENAMETOOLONG);
  free (path);
  memdev_free (md);
}

/* Thousands of names, then with a hash tree over them. */
static void
names (const char *args, uint64_t size, unsigned count)
{
  struct image_file *files = calloc (count + 1, sizeof *files);
  char (*text)[240] = calloc (count, sizeof *text);
  struct filesystem *fs;
  struct memdev *md;
  struct ext2_inode *root;
  ext2_ino_t ino, expected;
  unsigned i, round;
  char missing[16];

  assert_non_null (files);
  assert_non_null (text);
  for (i = 0; i < count; i++) {
    snprintf (text[i], sizeof *text, "name-%u%.*s", i, (int) (i % 200), X200);
    files[i].name = text[i];
  }
  md = image_make (args, size, files);
  for (round = 0; round < 2; round++) {
    fs = image_open (md);
    root = inode_at (md, EXT2_ROOT_INO);
    assert_int_equal (!!(root->i_flags & EXT2_INDEX_FL), round);
    for (i = 0; i < count; i += 97) {
      assert_ok (path_resolve (fs, text[i], &ino));
      assert_ok (ext2fs_namei (fs->e2, EXT2_ROOT_INO, EXT2_ROOT_INO, text[i],
                               &expected));
      assert_int_equal (ino, expected);
      snprintf (missing, sizeof missing, "nam-%u", i);
      assert_int_equal (path_resolve (fs, missing, &ino),
                        EXT2_ET_FILE_NOT_FOUND);
    }
    image_close (fs, NULL);
    if (round == 0)
      assert_in_range (image_fsck (md, "-fyD", 1), 0, 1);
  }
  memdev_free (md);
  free (text);
  free (files);
}

static void
test_many_names (void **state)
{
  (void) state;
  names ("-t ext4 -b 1024 -N 4000 -O ^metadata_csum", 16 * MIB, 2000);
  names ("-t ext4 -b 1024 -N 4000", 16 * MIB, 1000);
  names ("-t ext4 -b 4096 -N 4000", 16 * MIB, 1000);
  names ("-t ext2 -b 1024 -N 4000", 16 * MIB, 1000);
  /* Records of 64 KiB. */
  names ("-t ext4 -b 65536 -N 2000", 64 * MIB, 700);
}

/* Symbolic links that should not be. */

/* l(n) is 300 times "l(n+1)/": 300^8 steps for who counts only how deep
 * they are.
 */
static void
test_bomb (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 4096", 16 * MIB, one_file);
  struct timespec start, end;
  struct script s;
  unsigned i, j;

  (void) state;
  script_begin (&s);
  fprintf (s.out, "symlink l39 .\n");
  for (i = 10; i < 39; i++) {
    fprintf (s.out, "symlink l%u ", i);
    for (j = 0; j < 300; j++)
      fprintf (s.out, "l%u/", i + 1);
    fprintf (s.out, "\n");
  }
  script_run (&s, md);
  clock_gettime (CLOCK_PROCESS_CPUTIME_ID, &start);
  assert_leads (md, "l39/l39/l39/f", "/f");
  assert_error (md, "l33/f", EXT2_ET_SYMLINK_LOOP);
  assert_error (md, "l38", EXT2_ET_SYMLINK_LOOP);
  assert_error (md, "l10", EXT2_ET_SYMLINK_LOOP);
  assert_error (md, "l10/l10/l10/l10", EXT2_ET_SYMLINK_LOOP);
  clock_gettime (CLOCK_PROCESS_CPUTIME_ID, &end);
  assert_true (end.tv_sec - start.tv_sec < 10);
  memdev_free (md);
}

/* A fast, a slow and an inline one in an image each, and /f. */
#define PLAIN "-t ext4 -b 1024 -O ^metadata_csum,^64bit"
#define INLINED PLAIN ",inline_data"

static struct memdev *
make_link (const char *args, const char *target)
{
  struct memdev *md = image_make (args, 16 * MIB, one_file);
  struct script s;

  script_begin (&s);
  fprintf (s.out, "symlink l %s\n", target);
  script_run (&s, md);
  return md;
}

static const uint32_t lengths[] = {
  0, 1, 59, 60, 61, 121, 1023, 1024, 4095, 4096, 65536, 0x7fffffff, 0xfffffff0,
  0xffffffff,
};

/* Whatever length it claims.  High words count, too. */
static void
lie_about_length (struct memdev *md)
{
  struct ext2_inode *raw = inode_of (md, "l");
  ext2_ino_t ino;
  size_t i;

  for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    raw->i_size = lengths[i];
    raw->i_size_high = 0;
    resolve (md, "l", &ino);
    if (lengths[i] == 0 || lengths[i] > 4095)
      assert_error (md, "l", EXT2_FILSYS_CORRUPTED);
    raw->i_size_high = 1;
    assert_error (md, "l", EXT2_FILSYS_CORRUPTED);
  }
}

static void
test_fast_link (void **state)
{
  struct memdev *md = make_link (PLAIN, X50);
  struct ext2_inode *raw = inode_of (md, "l");

  (void) state;
  assert_error (md, "l", EXT2_ET_FILE_NOT_FOUND);
  raw->i_size = 59;             /* includes zeros */
  assert_error (md, "l", EXT2_FILSYS_CORRUPTED);
  memset (raw->i_block, '/', 60);
  assert_leads (md, "l", "/");
  raw->i_flags |= EXT4_ENCRYPT_FL;
  assert_error (md, "l", ENOKEY);
  raw->i_flags &= ~EXT4_ENCRYPT_FL;
  lie_about_length (md);
  memdev_free (md);
}

static void
test_slow_link (void **state)
{
  struct memdev *md = make_link (PLAIN, X250 "/../f");
  struct ext2_inode *raw = inode_of (md, "l");
  const uint32_t size = raw->i_size;
  unsigned i;

  (void) state;
  lie_about_length (md);
  raw->i_size = size;
  raw->i_size_high = 0;

  /* A block that is a table, outside, or none. */
  raw->i_flags &= ~EXT4_EXTENTS_FL;
  memset (raw->i_block, 0, 60);
  for (i = 0; i < 4; i++) {
    static const uint32_t blk[] = { 0, 1, 10, 0xfffffff0 };

    raw->i_block[0] = blk[i];
    assert_error (md, "l", EXT2_FILSYS_CORRUPTED);
  }
  raw->i_flags |= EXT4_EXTENTS_FL;
  assert_error (md, "l", EXT2_FILSYS_CORRUPTED);
  memdev_free (md);
}

/* The value is longer than the size says, or shorter, or nowhere. */
static void
test_inline_link (void **state)
{
  struct memdev *md = make_link (INLINED, X50 "/../" X50 "/../f");
  struct ext2_inode *raw = inode_of (md, "l");
  const uint32_t size = raw->i_size;
  uint32_t *words = (uint32_t *) raw;
  uint32_t saved, j;
  ext2_ino_t ino;
  unsigned i;

  (void) state;
  assert_true (raw->i_flags & EXT4_INLINE_DATA_FL);
  assert_true (size > 100);
  raw->i_size = 60;             /* and 52 bytes in the value */
  assert_error (md, "l", EXT2_ET_FILE_NOT_FOUND);
  raw->i_size = size + 1;
  assert_error (md, "l", EXT2_FILSYS_CORRUPTED);
  lie_about_length (md);

  /* Everything behind the fixed fields: places, lengths, names. */
  raw->i_size = size;
  raw->i_size_high = 0;
  for (i = EXT2_GOOD_OLD_INODE_SIZE / 4; i < 256 / 4; i++) {
    saved = words[i];
    for (j = 0; j < 5; j++) {
      static const uint32_t bad[] = { 0, 0xffffffff, 0xffff, 0xff, 0x8000 };

      words[i] = bad[j];
      resolve (md, "l", &ino);
    }
    words[i] = saved;
  }
  assert_error (md, "l", EXT2_ET_FILE_NOT_FOUND);
  memdev_free (md);
}

/* Directories that should not be. */

static struct ext2_dir_entry *
entry_at (struct memdev *md, uint64_t blk, unsigned at)
{
  return (void *) (block_at (md, blk) + at);
}

static void
test_entries (void **state)
{
  struct memdev *md = image_make ("-t ext2 -b 1024", 16 * MIB, one_file);
  struct ext2_inode *root = inode_at (md, EXT2_ROOT_INO);
  struct ext2_dir_entry *first = entry_at (md, root->i_block[0], 0);
  const struct ext2_dir_entry saved = *first;
  size_t i;

  (void) state;
  assert_leads (md, "f", "/f");
  for (i = 0; i < 9; i++) {
    static const uint16_t bad[] = { 0, 1, 4, 7, 8, 13, 1022, 1028, 65535 };

    first->rec_len = bad[i];
    assert_error (md, "f", EXT2_ET_DIR_CORRUPTED);
  }
  *first = saved;
  first->name_len = 5;
  assert_error (md, "f", EXT2_ET_DIR_CORRUPTED);
  *first = saved;

  /* An entry that leaves less than an entry. */
  first->rec_len = 1020;
  assert_error (md, "f", EXT2_ET_DIR_CORRUPTED);
  first->rec_len = 1024;
  assert_error (md, "f", EXT2_ET_FILE_NOT_FOUND);

  /* An inode that cannot be. */
  first->inode = 0xffffffff;
  first->name_len = 1;
  first->name[0] = 'f';
  assert_error (md, "f", EXT2_ET_BAD_INODE_NUM);
  first->inode = image_super (md)->s_inodes_count;
  assert_error (md, "f/", EXT2_ET_NO_DIRECTORY);

  /* None of it in use; no directory; not all of it there. */
  first->inode = 0;
  assert_error (md, "f", EXT2_ET_FILE_NOT_FOUND);
  root->i_size = 1023;
  assert_error (md, "f", EXT2_ET_FILE_NOT_FOUND);
  root->i_size = 1024;
  root->i_block[0] = 0;
  assert_error (md, "f", EXT2_ET_FILE_NOT_FOUND);
  root->i_block[0] = 3;         /* metadata */
  assert_error (md, "f", EXT2_FILSYS_CORRUPTED);
  memdev_free (md);
}

/* Block 1024 leads to itself wherever one looks, and is at the same time
 * a block of a directory with one entry of 1024 bytes.  It is at one place
 * only, as a table and as a directory's block.
 */
static void
test_cyclic_blocks (void **state)
{
  struct memdev *md = image_make ("-t ext2 -b 1024 -N 64", 16 * MIB,
                                  one_file);
  const uint64_t blocks = image_super (md)->s_blocks_count;
  uint32_t *table = (void *) block_at (md, 1024);
  struct ext2_inode *raw;
  unsigned i;

  (void) state;
  script (md, "mkdir d\n");
  raw = inode_of (md, "d");
  for (i = 0; i < 256; i++)
    table[i] = ext2fs_cpu_to_le32 (1024);
  for (i = 0; i < 15; i++)
    raw->i_block[i] = 1024;
  raw->i_size = (12 + 256) * 1024;
  assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  raw->i_size = blocks * 1024;
  assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  memset (raw->i_block, 0, 13 * sizeof *raw->i_block);
  assert_error (md, "d/f", EXT2_FILSYS_CORRUPTED);
  raw->i_size = (blocks + 1) * 1024;
  assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  raw->i_size_high = 3;
  assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  raw->i_size_high = 0xffffffff;
  assert_error (md, "d/f", EXT2_FILSYS_CORRUPTED);
  memdev_free (md);
}

/* Checksums of both kinds of directory blocks. */
static void
test_checksum (void **state)
{
  static const char args[] = "-t ext4 -b 1024 -O metadata_csum,^64bit "
    "-N 2000";
  struct image_file files[1001];
  char text[1000][64];
  struct filesystem *fs;
  struct memdev *md;
  blk64_t blk[4];
  unsigned i;

  (void) state;
  memset (files, 0, sizeof files);
  for (i = 0; i < 1000; i++) {
    snprintf (text[i], sizeof text[i], "%s%u", X50, i);
    files[i].name = text[i];
  }
  md = image_make (args, 16 * MIB, files);
  assert_in_range (image_fsck (md, "-fyD", 1), 0, 1);
  fs = image_open (md);
  for (i = 0; i < 4; i++)
    assert_ok (ext2fs_bmap2 (fs->e2, EXT2_ROOT_INO, NULL, NULL, 0, i, NULL,
                             &blk[i]));
  image_close (fs, NULL);
  assert_error (md, "none", EXT2_ET_FILE_NOT_FOUND);
  for (i = 0; i < 4; i++) {     /* the root of the tree, then leaves */
    block_at (md, blk[i])[40] ^= 1;
    assert_error (md, "none", EXT2_ET_DIR_CSUM_INVALID);
    block_at (md, blk[i])[40] ^= 1;
  }
  assert_error (md, "none", EXT2_ET_FILE_NOT_FOUND);
  memdev_free (md);
}

/* Entries in the attribute, too: 68 bytes at the end of the inode. */
static void
test_inline_attribute (void **state)
{
  struct memdev *md = image_make (INLINED, 16 * MIB, one_file);
  struct ext2_inode *raw;
  struct ext2_ext_attr_entry *attr;
  struct ext2_dir_entry *e;
  uint8_t *first;

  (void) state;
  script (md, "mkdir d\n" "ln f d/f\n");
  raw = inode_of (md, "d");
  first = (uint8_t *) raw + EXT2_GOOD_OLD_INODE_SIZE + 4
    + ((struct ext2_inode_large *) raw)->i_extra_isize;
  attr = (void *) first;
  assert_memory_equal (EXT2_EXT_ATTR_NAME (attr), "data", 4);
  attr->e_value_size = 68;
  attr->e_value_offs = (uint8_t *) raw + 256 - 68 - first;
  e = (void *) ((uint8_t *) raw + 256 - 68);
  memset (e, 0, 68);
  e->inode = EXT2_ROOT_INO;
  e->rec_len = 12;
  e->name_len = 1;
  e->name[0] = 'r';
  e = (void *) ((uint8_t *) e + 12);
  e->inode = number_of (md, "f");
  e->rec_len = 56;
  e->name_len = 48;
  memcpy (e->name, X48, 48);
  assert_error (md, "d/r", EXT2_ET_FILE_NOT_FOUND);
  raw->i_size = 60 + 68;
  assert_leads (md, "d/f", "/f");
  assert_leads (md, "d/r", "/");
  assert_leads (md, "d/r/d/r/f", "/f");
  assert_leads (md, "d/" X48, "/f");
  assert_error (md, "d/none", EXT2_ET_FILE_NOT_FOUND);
  raw->i_size = 60 + 64;        /* ends in the last entry */
  assert_error (md, "d/none", EXT2_ET_DIR_CORRUPTED);
  raw->i_size = 60 + 12;
  assert_error (md, "d/none", EXT2_ET_FILE_NOT_FOUND);
  e->rec_len = 60;
  raw->i_size = 60 + 68;
  assert_error (md, "d/none", EXT2_ET_DIR_CORRUPTED);
  memdev_free (md);
}

static void
test_inline_directory (void **state)
{
  struct memdev *md = image_make (INLINED, 16 * MIB, one_file);
  struct ext2_inode *raw;
  ext2_ino_t ino;
  unsigned i;

  (void) state;
  script (md, "mkdir d\n" "ln f d/f\n");
  raw = inode_of (md, "d");
  assert_true (raw->i_flags & EXT4_INLINE_DATA_FL);
  assert_leads (md, "d/f", "/f");
  for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    raw->i_size = lengths[i];
    resolve (md, "d/none", &ino);
    if (raw->i_size != 60)
      assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  }
  raw->i_size = 60;
  assert_leads (md, "d/../f", "/f");
  raw->i_block[0] = 0;          /* the parent */
  assert_error (md, "d/../f", EXT2_ET_BAD_INODE_NUM);
  raw->i_block[0] = number_of (md, "d");
  assert_leads (md, "d/../../../f", "/f");
  ((uint16_t *) raw->i_block)[4] = 60;  /* length of the first record */
  assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  ((uint16_t *) raw->i_block)[4] = 0;
  assert_error (md, "d/f", EXT2_ET_DIR_CORRUPTED);
  memdev_free (md);
}

static void
test_encrypted_directory (void **state)
{
  struct memdev *md = image_make (PLAIN, 16 * MIB, one_file);

  (void) state;
  script (md, "mkdir d\n" "ln f d/f\n");
  inode_of (md, "d")->i_flags |= EXT4_ENCRYPT_FL;
  assert_error (md, "d/f", ENOKEY);
  assert_leads (md, "d/../f", "/f");
  memdev_free (md);
}

/* Bytes changed at random in inodes and directories: any answer. */
static void
damage (const char *args, uint64_t seed)
{
  static const char *const paths[] = {
    "f", "relative", "chain", "len60", "len156", "slow", "slowdir/c/f",
    "a/b/there/b/there/f", "a/b/six-rather-long-name", "none", "loop1",
  };
  struct memdev *image = image_make (args, 4 * MIB, one_file), *md;
  const struct filesystem_options opts = { .readonly = true };
  struct rng rng = { seed };
  struct filesystem *fs;
  unsigned round, i, n;
  ext2_ino_t ino;
  uint32_t inodes;

  script (image, tree);
  inodes = image_super (image)->s_inodes_count
    - image_super (image)->s_free_inodes_count;
  for (round = 0; round < image_scale (400); round++) {
    md = memdev_copy (image);
    n = 1 + rng_below (&rng, 8);
    for (i = 0; i < n; i++) {
      ino = 1 + rng_below (&rng, inodes);
      if (ino == EXT2_ROOT_INO || (ino > 2 && ino < 11))
        ino = 11 + rng_below (&rng, inodes - 10);
      if (rng_below (&rng, 4) == 0) {
        struct ext2_inode *root = inode_at (image, EXT2_ROOT_INO);
        uint32_t blk = root->i_flags & EXT4_EXTENTS_FL ? root->i_block[5]
          : root->i_block[0];

        if (!(root->i_flags & EXT4_INLINE_DATA_FL))
          block_at (md, blk)[rng_below (&rng, 1024)] = rng_next (&rng);
      }
      else
        ((uint8_t *) inode_at (md, ino))[rng_below (&rng, 256)]
          = rng_below (&rng, 2) ? rng_next (&rng) : 0xff;
    }
    if (filesystem_open (&md->dev, &opts, &fs) == 0) {
      for (i = 0; i < sizeof paths / sizeof *paths; i++)
        path_resolve (fs, paths[i], &ino);
      filesystem_close (fs);
    }
    memdev_free (md);
  }
  memdev_free (image);
}

static void
test_damage (void **state)
{
  (void) state;
  damage ("-t ext4 -b 1024 -I 256 -N 64 -O ^metadata_csum,^64bit,^has_journal",
          1);
  damage ("-t ext4 -b 1024 -I 256 -N 64 "
          "-O ^metadata_csum,^64bit,^has_journal,inline_data", 2);
  damage ("-t ext2 -b 1024 -I 256 -N 64", 3);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_tree),
    cmocka_unit_test (test_many_links),
    cmocka_unit_test (test_long_paths),
    cmocka_unit_test (test_many_names),
    cmocka_unit_test (test_bomb),
    cmocka_unit_test (test_fast_link),
    cmocka_unit_test (test_slow_link),
    cmocka_unit_test (test_inline_link),
    cmocka_unit_test (test_entries),
    cmocka_unit_test (test_cyclic_blocks),
    cmocka_unit_test (test_checksum),
    cmocka_unit_test (test_inline_directory),
    cmocka_unit_test (test_inline_attribute),
    cmocka_unit_test (test_encrypted_directory),
    cmocka_unit_test (test_damage),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a filesystem claims to be costs nothing before it has been seen:
 * superblocks that ask for gigabytes of group descriptors are refused after
 * a few reads and with little memory, and honest ones, however large or
 * odd, are opened.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ondisk.h"
#include "errors.h"
#include "image.h"

#define GIB (UINT64_C (1) << 30)
#define MIB (UINT64_C (1) << 20)
#define BS 1024u

/* A device of any size: a superblock, what FILL puts into blocks that are
 * full of zeros otherwise, and no memory.
 */
struct claim {
  struct device dev;
  struct ext2_super_block sb;
  void (*fill) (const struct claim *c, uint64_t blk, uint8_t *block);
  uint64_t reads;
};

static errcode_t
claim_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  struct claim *c = (struct claim *) dev;
  uint8_t block[BS];
  uint8_t *p = buf;
  uint32_t n;

  c->reads++;
  for (; count > 0; p += n, offset += n, count -= n) {
    memset (block, 0, BS);
    if (offset / BS == 1)
      memcpy (block, &c->sb, BS);
    else if (c->fill)
      c->fill (c, offset / BS, block);
    n = BS - offset % BS;
    if (n > count)
      n = count;
    memcpy (p, block + offset % BS, n);
  }
  return 0;
}

static const struct device_ops claim_ops = { .pread = claim_pread };

/* Of SIZE bytes in groups of PER_GROUP blocks, each with one block of
 * inodes.
 */
static struct claim
claim_new (uint64_t size, uint32_t per_group, uint32_t incompat)
{
  const uint64_t blocks = size / BS;
  struct claim c = {
    .dev = { .ops = &claim_ops, .size = size, .parallel = true },
    .sb = {
      .s_magic = EXT2_SUPER_MAGIC, .s_state = EXT2_VALID_FS,
      .s_rev_level = EXT2_DYNAMIC_REV, .s_first_data_block = 1,
      .s_blocks_count = (uint32_t) blocks,
      .s_blocks_count_hi = blocks >> 32,
      .s_blocks_per_group = per_group, .s_clusters_per_group = per_group,
      .s_inodes_per_group = BS / 128, .s_inode_size = 128,
      .s_first_ino = 11, .s_desc_size = 64,
      .s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | incompat,
      .s_feature_ro_compat = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER,
    },
  };

  c.sb.s_inodes_count = (blocks - 1 + per_group - 1) / per_group
    * c.sb.s_inodes_per_group;
  if (blocks >> 32)
    c.sb.s_feature_incompat |= EXT4_FEATURE_INCOMPAT_64BIT;
  else
    c.sb.s_desc_size = 0;
  return c;
}

/* What the process may still get.  Not under sanitizers, which take far
 * more than they are asked for.
 */
static void
limit_memory (uint64_t more)
{
  const char *s = getenv ("EXT2_SANITIZER");
  struct rlimit limit;
  unsigned long have = 0;
  char line[256];
  FILE *f;

  if (s && *s)
    return;
  f = fopen ("/proc/self/status", "r");
  must (f != NULL);
  while (fgets (line, sizeof line, f))
    if (sscanf (line, "VmData: %lu kB", &have) == 1)
      break;
  fclose (f);
  must (have > 0);
  limit.rlim_cur = limit.rlim_max = have * UINT64_C (1024) + more;
  must (setrlimit (RLIMIT_DATA, &limit) == 0);
}

/* Opening C fails with EXPECT, in a child with so much memory and after at
 * most so many reads.
 */
#define assert_open(c, expect, memory, reads) \
  assert_open_at ((c), (expect), (memory), (reads), __LINE__)

static void
assert_open_at (struct claim *c, errcode_t expect, uint64_t memory,
                uint64_t reads, int line)
{
  const struct filesystem_options opts = { .readonly = true };
  struct filesystem *fs;
  char why[128];
  errcode_t err;
  int status;
  pid_t child = fork ();

  assert_true (child >= 0);
  if (child == 0) {
    limit_memory (memory);
    err = filesystem_open (&c->dev, &opts, &fs);
    if (err != expect)
      fprintf (stderr, "line %d: %s\n", line,
               errcode_text (err, why, sizeof why));
    else if (c->reads > reads)
      fprintf (stderr, "line %d: %llu reads\n", line,
               (unsigned long long) c->reads);
    else
      _exit (0);
    _exit (1);
  }
  assert_int_equal (waitpid (child, &status, 0), child);
  if (!WIFEXITED (status) || WEXITSTATUS (status) != 0)
    _fail (__FILE__, line);
}

/* What any opening takes: buffers, a cache, the C library's reserve. */
#define LITTLE (4 * MIB)

/* Nothing but a superblock.  Three reads are the superblock, twice, and one
 * of descriptors.
 */
static void
test_only_claims (void **state)
{
  static const uint64_t sizes[] = { 64 * GIB, 256 * GIB, 1024 * GIB,
                                    64 * 1024 * GIB };
  static const uint32_t few[] = { 8, 16, 128, 240 };
  struct claim c;
  size_t i, k;

  (void) state;
  for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (k = 0; k < sizeof few / sizeof *few; k++) {
      c = claim_new (sizes[i], few[k], 0);
      assert_open (&c, EXT2_ET_CORRUPT_SUPERBLOCK, LITTLE, 1);
      c = claim_new (sizes[i], few[k], EXT2_FEATURE_INCOMPAT_META_BG);
      assert_open (&c, EXT2_ET_CORRUPT_SUPERBLOCK, LITTLE, 1);
    }
    /* All descriptors behind the superblock, in one group? */
    c = claim_new (sizes[i], 256, 0);
    assert_open (&c, EXT2_ET_CORRUPT_SUPERBLOCK, LITTLE, 1);
    /* Such groups there can be, but too many are not served. */
    c = claim_new (sizes[i], 256, EXT2_FEATURE_INCOMPAT_META_BG);
    assert_open (&c, sizes[i] < 16 * 1024 * GIB ? EXT2_FILSYS_CORRUPTED
                 : EXT2_ET_UNSUPP_FEATURE, LITTLE, 3);
    c = claim_new (sizes[i], 8192, EXT2_FEATURE_INCOMPAT_META_BG);
    assert_open (&c, EXT2_FILSYS_CORRUPTED, LITTLE, 3);
    c.sb.s_first_meta_bg = 100;
    assert_open (&c, EXT2_FILSYS_CORRUPTED, LITTLE, 3);
    if (sizes[i] > 1024 * GIB) {
      c.sb.s_first_meta_bg = 500000;    /* 488 MiB of them in one place */
      assert_open (&c, EXT2_FILSYS_CORRUPTED, LITTLE, 3);
    }
  }
}

static void
put_desc (const struct claim *c, uint8_t *p, uint64_t block_bitmap,
          uint64_t inode_bitmap, uint64_t inode_table)
{
  struct ext4_group_desc d = {
    .bg_block_bitmap = (uint32_t) block_bitmap,
    .bg_block_bitmap_hi = block_bitmap >> 32,
    .bg_inode_bitmap = (uint32_t) inode_bitmap,
    .bg_inode_bitmap_hi = inode_bitmap >> 32,
    .bg_inode_table = (uint32_t) inode_table,
    .bg_inode_table_hi = inode_table >> 32,
  };

  memcpy (p, &d, c->sb.s_desc_size ? sizeof d : sizeof d / 2);
}

/* All metadata near the end of the group, and apart from each other. */
static void
put_apart (const struct claim *c, uint64_t group, uint8_t *p)
{
  const uint64_t end = 1 + (group + 1) * c->sb.s_blocks_per_group;

  put_desc (c, p, end - 6, end - 4, end - 2);
}

/* Side by side with those of 15 others, in a group without descriptors. */
static void
put_flex (const struct claim *c, uint64_t group, uint8_t *p)
{
  const uint64_t first = 1
    + (group / 16 * 16 + 10) * c->sb.s_blocks_per_group + group % 16;

  put_desc (c, p, first, first + 16, first + 32);
}

/* Descriptors as they should be. */
static void
fill (const struct claim *c, uint64_t blk, uint8_t *block,
      void (*put) (const struct claim *c, uint64_t group, uint8_t *p))
{
  const size_t size = c->sb.s_desc_size ? 64 : 32, n = BS / size;
  const uint64_t groups = c->sb.s_inodes_count / c->sb.s_inodes_per_group;
  const uint64_t end = 2 + (groups + n - 1) / n;
  size_t i;

  for (i = 0; blk >= 2 && blk < end && i < n; i++)
    put (c, (blk - 2) * n + i, block + i * size);
}

static void
fill_apart (const struct claim *c, uint64_t blk, uint8_t *block)
{
  fill (c, blk, block, put_apart);
}

static void
fill_flex (const struct claim *c, uint64_t blk, uint8_t *block)
{
  fill (c, blk, block, put_flex);
}

/* The same descriptors in every block. */
static void
fill_repeated (const struct claim *c, uint64_t blk, uint8_t *block)
{
  size_t i;

  (void) blk;
  for (i = 0; i < BS / 64; i++)
    put_apart (c, 1 + i, block + i * 64);
}

/* What groups cost is no more than gdt.h says: with descriptors of 64 bytes
 * and the metadata of each in three places; and side by side.
 */
static void
test_memory (void **state)
{
  /* Nearly the most that one group of 8192 blocks has descriptors of. */
  const uint64_t groups = 130000 / 16 * 16;
  struct claim c = claim_new ((groups * 8192 + 1) * BS, 8192,
                              EXT4_FEATURE_INCOMPAT_64BIT);

  (void) state;
  c.sb.s_desc_size = 64;
  c.fill = fill_apart;
  assert_open (&c, EXT2_ET_NO_DIRECTORY, LITTLE + groups * 160, 20);
  c.sb.s_feature_incompat |= EXT4_FEATURE_INCOMPAT_FLEX_BG;
  c.fill = fill_flex;
  assert_open (&c, EXT2_ET_NO_DIRECTORY, LITTLE + groups * 70, 20);
}

/* Descriptors that are good one by one, but the same again and again. */
static void
test_repeated (void **state)
{
  struct claim c = claim_new (1024 * GIB, 256,
                              EXT2_FEATURE_INCOMPAT_META_BG |
                              EXT4_FEATURE_INCOMPAT_64BIT);

  (void) state;
  c.sb.s_desc_size = 64;
  c.fill = fill_repeated;
  /* Without flex_bg, the second block has groups out of place. */
  assert_open (&c, EXT2_FILSYS_CORRUPTED, LITTLE, 3);
  c.sb.s_feature_incompat |= EXT4_FEATURE_INCOMPAT_FLEX_BG;
  /* 16 groups a block, until there are 1024 zones. */
  assert_open (&c, EXT2_FILSYS_CORRUPTED, LITTLE, 100);
}

static unsigned give_up_at, asked;

static bool
give_up (unsigned ms)
{
  assert_int_equal (ms, 0);
  return ++asked != give_up_at;
}

/* Between pieces one can give up; a small filesystem is never asked. */
static void
test_give_up (void **state)
{
  static const struct image_file files[] = { { NULL } };
  const struct filesystem_options opts = {
    .readonly = true, .wait = give_up,
  };
  struct claim c = claim_new ((UINT64_C (65536) * 8192 + 1) * BS, 8192,
                              0);
  struct memdev *md = image_make ("-t ext4", 16 * MIB, files);
  struct filesystem *fs;

  (void) state;
  c.fill = fill_apart;
  asked = 0;
  give_up_at = 1;
  assert_int_equal (filesystem_open (&c.dev, &opts, &fs), ECANCELED);
  assert_int_equal (asked, 1);
  asked = 0;
  assert_ok (filesystem_open (&md->dev, &opts, &fs));
  assert_int_equal (asked, 0);
  image_close (fs, NULL);
  memdev_free (md);
}

/* Two groups share nothing and keep to themselves, without flex_bg. */
static void
test_places (void **state)
{
  static const struct image_file files[] = { { NULL } };
  const struct filesystem_options opts = { .readonly = true };
  struct memdev *md = image_make ("-t ext2 -b 1024", 32 * MIB, files);
  struct ext2_group_desc *d = (struct ext2_group_desc *) (md->mem + 2048);
  struct ext2_group_desc a = d[0], b = d[1];
  struct filesystem *fs;

  (void) state;
  /* Each other's block bitmap. */
  d[0].bg_block_bitmap = b.bg_block_bitmap;
  d[1].bg_block_bitmap = a.bg_block_bitmap;
  assert_int_equal (filesystem_open (&md->dev, &opts, &fs),
                    EXT2_FILSYS_CORRUPTED);
  image_super (md)->s_feature_incompat |= EXT4_FEATURE_INCOMPAT_FLEX_BG;
  assert_ok (filesystem_open (&md->dev, &opts, &fs));
  image_close (fs, NULL);
  /* Both have the same. */
  d[0].bg_block_bitmap = a.bg_block_bitmap;
  assert_int_equal (filesystem_open (&md->dev, &opts, &fs),
                    EXT2_FILSYS_CORRUPTED);
  /* On top of the descriptors; in the inode table. */
  d[1] = b;
  d[1].bg_inode_bitmap = 2;
  assert_int_equal (filesystem_open (&md->dev, &opts, &fs),
                    EXT2_FILSYS_CORRUPTED);
  d[1].bg_inode_bitmap = a.bg_inode_table + 3;
  assert_int_equal (filesystem_open (&md->dev, &opts, &fs),
                    EXT2_FILSYS_CORRUPTED);
  d[1] = b;
  assert_ok (filesystem_open (&md->dev, &opts, &fs));
  image_close (fs, NULL);
  memdev_free (md);
}

/* What mke2fs makes when it is asked for odd things. */
static void
test_served (void **state)
{
  static const struct { const char *args; unsigned mib; } odd[] = {
    { "-t ext2 -b 1024 -g 256", 4 },
    { "-t ext2 -b 1024 -g 256 -O ^resize_inode", 16 },
    { "-t ext4 -b 1024 -g 256 -O ^resize_inode,meta_bg,^has_journal", 64 },
    { "-t ext4 -b 1024 -g 256 -O ^resize_inode,meta_bg,^flex_bg", 64 },
    { "-t ext4 -b 4096 -g 256 -O ^has_journal", 512 },
    { "-t ext4 -b 4096 -g 1000 -N 4000", 64 },
    { "-t ext4 -b 65536 -g 524288", 64 },
    { "-t ext2 -b 1024 -r 0", 16 },
    { "-t ext2 -b 1024 -N 16", 1 },
    { "-t ext4 -b 4096 -O bigalloc -C 65536", 256 },
    { "-t ext4 -b 1024 -O bigalloc -C 16384 -g 2048", 256 },
    { "-t ext4 -b 4096 -O sparse_super2 -E num_backup_sb=0", 256 },
    { "-t ext4 -b 4096 -O ^64bit -E resize=4T", 256 },
    { "-t ext4 -b 4096 -G 256", 1024 },
    { "-t ext4 -b 4096 -E packed_meta_blocks=1", 256 },
  };
  static const struct image_file files[] = { { "f", 5000, true }, { NULL } };
  struct filesystem *fs;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof odd / sizeof *odd; i++) {
    struct memdev *md = image_make (odd[i].args, odd[i].mib * MIB, files);

    if (getenv ("V"))
      fprintf (stderr, "# %s\n", odd[i].args);
    fs = image_open (md);
    image_close (fs, image_iget (fs, "f"));
    memdev_free (md);
  }
}

/* What the messages say to run helps: e2fsck, and where it cannot read the
 * superblock, a copy of that.
 */
#define SB(field) 1024 + offsetof (struct ext2_super_block, field), \
    sizeof ((struct ext2_super_block *) 0)->field
#define GD(field) 2048 + offsetof (struct ext2_group_desc, field), \
    sizeof ((struct ext2_group_desc *) 0)->field

static void
test_advice (void **state)
{
  static const struct { size_t at, len; uint32_t value; bool copy; } bad[] = {
    { SB (s_inode_size), 129, false },
    { SB (s_inodes_per_group), 3, false },
    { SB (s_inodes_count), 12345, false },
    { SB (s_blocks_per_group), 0, false },
    { SB (s_blocks_per_group), 8, false },
    { SB (s_blocks_per_group), 240, false },
    { SB (s_blocks_count), 1, false },
    { SB (s_first_data_block), 0, true },
    { SB (s_reserved_gdt_blocks), 0xffff, false },
    { SB (s_first_ino), 5, true },
    { GD (bg_block_bitmap), 0, false },
    { GD (bg_inode_bitmap), 1, false },
    { GD (bg_inode_table), 0x7fffffff, false },
  };
  static const struct image_file files[] = { { "f", 5000, true }, { NULL } };
  const struct filesystem_options opts = { 0 };
  struct memdev *image = image_make ("-t ext2 -b 1024", 16 * MIB, files);
  struct filesystem *fs;
  size_t i, k;

  (void) state;
  for (i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct memdev *md = memdev_copy (image);

    for (k = 0; k < bad[i].len; k++)
      md->mem[bad[i].at + k] = bad[i].value >> 8 * k;
    if (filesystem_open (&md->dev, &opts, &fs) == 0)
      fail_msg ("number %zu is not refused", i);
    if (bad[i].copy) {
      assert_int_equal (image_fsck (md, "-fy", 8), 8);
      assert_int_equal (image_fsck (md, "-fy -b 8193", 1), 1);
    }
    else
      assert_int_equal (image_fsck (md, "-fy", 1), 1);
    fs = image_open (md);
    assert_true (fs->writable);
    image_close (fs, image_iget (fs, "f"));
    memdev_free (md);
  }
  memdev_free (image);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_only_claims),
    cmocka_unit_test (test_memory),
    cmocka_unit_test (test_repeated),
    cmocka_unit_test (test_give_up),
    cmocka_unit_test (test_places),
    cmocka_unit_test (test_served),
    cmocka_unit_test (test_advice),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

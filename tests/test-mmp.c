/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Multiple mount protection: who gets the filesystem, who notices that he
 * has lost it, and what is on the device then.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ondisk.h"
#include "image.h"
#include "mmp.h"

/* A second of the protection is this long.  With an interval of 1 and
 * the least check interval of 5, W is 11 of them.
 */
#define SECOND_MS 40
#define W 11

#define ARGS "-t ext4 -b 1024 -O mmp,^has_journal -E mmp_update_interval=1"
#define SIZE 60000

static const struct image_file files[] = {
  { "f", SIZE, true }, { NULL },
};

/* Two servers and the test look at one block, so calls take turns: a
 * memdev has no lock of its own.
 */
struct shared {
  struct device dev;            /* first: converted back by a cast */
  struct memdev *md;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

#define TAKING_TURNS(dev, call)                                         \
  struct device *d = &((struct shared *) (dev))->md->dev;               \
  errcode_t err;                                                        \
  pthread_mutex_lock (&turn);                                           \
  err = d->ops->call;                                                   \
  pthread_mutex_unlock (&turn);                                         \
  return err

static errcode_t
shared_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  TAKING_TURNS (dev, pread (d, buf, count, offset));
}

static errcode_t
shared_pwrite (struct device *dev, const void *buf, uint32_t count,
               uint64_t offset, unsigned flags)
{
  TAKING_TURNS (dev, pwrite (d, buf, count, offset, flags));
}

static errcode_t
shared_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  TAKING_TURNS (dev, trim (d, count, offset));
}

static errcode_t
shared_flush (struct device *dev)
{
  TAKING_TURNS (dev, flush (d));
}

static const struct device_ops shared_ops = {
  .pread = shared_pread, .pwrite = shared_pwrite, .trim = shared_trim,
  .flush = shared_flush,
};

static void
share (struct shared *s, struct memdev *md)
{
  memset (s, 0, sizeof *s);
  s->md = md;
  s->dev.ops = &shared_ops;
  s->dev.size = md->dev.size;
  s->dev.writable = s->dev.parallel = s->dev.can_flush = s->dev.can_trim
    = true;
}

static uint64_t
block_offset (struct memdev *md)
{
  return image_super (md)->s_mmp_block << 10;
}

static void
get_block (struct memdev *md, struct mmp_struct *b)
{
  pthread_mutex_lock (&turn);
  memcpy (b, md->mem + block_offset (md), sizeof *b);
  pthread_mutex_unlock (&turn);
}

/* Somebody else's block, with a right checksum. */
static void
put_block (struct memdev *md, uint32_t seq, const char *node)
{
  struct ext2_super_block *sb = image_super (md);
  struct mmp_struct b;

  get_block (md, &b);
  b.mmp_seq = seq;
  memset (b.mmp_nodename, 0, sizeof b.mmp_nodename);
  strcpy ((char *) b.mmp_nodename, node);
  if (ext2fs_has_feature_metadata_csum (sb))
    b.mmp_checksum
      = ext2fs_crc32c_le (ext2fs_crc32c_le (~0u, sb->s_uuid, 16),
                          (unsigned char *) &b,
                          offsetof (struct mmp_struct, mmp_checksum));
  pthread_mutex_lock (&turn);
  memcpy (md->mem + block_offset (md), &b, sizeof b);
  pthread_mutex_unlock (&turn);
}

/* The next N calls that change the device fail, or none. */
static void
fail_changes (struct memdev *md, uint64_t n)
{
  pthread_mutex_lock (&turn);
  if (n)
    memdev_fail (md, MEMDEV_CHANGES, 1, n, EIO);
  else
    memdev_heal (md);
  pthread_mutex_unlock (&turn);
}

static uint32_t
seq_on (struct memdev *md)
{
  struct mmp_struct b;

  get_block (md, &b);
  return b.mmp_seq;
}

static void
sleep_seconds (unsigned n)
{
  struct timespec ts = { n * SECOND_MS / 1000,
                         n * SECOND_MS % 1000 * 1000000L };

  nanosleep (&ts, NULL);
}

/* Whoever has it says that he is alive. */
static void
wait_for_sign (struct memdev *md)
{
  const uint32_t seq = seq_on (md);
  unsigned i;

  for (i = 0; i < 500 && seq_on (md) == seq; i++)
    sleep_seconds (1);
  assert_int_not_equal (seq_on (md), seq);
}

/* The time that opening waited, in seconds of the protection; what to do
 * in the meantime; and when to give up.
 */
static unsigned waited, waits, give_up_at;
static void (*meanwhile) (unsigned wait);
static struct memdev *theirs;   /* for it to look at or to change */

static bool
count_wait (unsigned ms)
{
  waited += ms / SECOND_MS;
  if (++waits == give_up_at)
    return false;
  if (meanwhile)
    meanwhile (waits);
  else
    sleep_seconds (ms / SECOND_MS);
  return true;
}

static errcode_t
open_shared (struct shared *s, struct filesystem **fs)
{
  const struct filesystem_options opts = {
    .wait = count_wait, .mmp_second_ms = SECOND_MS,
  };

  waited = waits = 0;
  return filesystem_open (&s->dev, &opts, fs);
}

static struct memdev *
make_image (void)
{
  return image_make (ARGS, UINT64_C (8) << 20, files);
}

static void
put_byte (struct filesystem *fs, uint8_t byte)
{
  struct inode *inode = image_iget (fs, "f");

  assert_ok (file_write (inode, &byte, 1, 0, 0));
  iput (inode);
}

/* Opening, keeping, closing. */

static void
test_alone (void **state)
{
  struct memdev *md = make_image ();
  struct mmp_struct b;
  struct shared s;
  struct filesystem *fs;
  char host[64] = "";

  (void) state;
  share (&s, md);
  gethostname (host, sizeof host - 1);
  assert_int_equal (seq_on (md), EXT4_MMP_SEQ_CLEAN);
  assert_ok (open_shared (&s, &fs));
  assert_true (fs->writable);
  assert_int_equal (waited, W);

  get_block (md, &b);
  assert_string_equal ((char *) b.mmp_nodename, host);
  assert_int_equal (b.mmp_check_interval, 5);
  assert_in_range (seq_on (md), 1, EXT4_MMP_SEQ_MAX);
  wait_for_sign (md);
  /* Nobody's file gets the block. */
  assert_false (filesystem_valid_data (fs, image_super (md)->s_mmp_block, 1));

  put_byte (fs, 7);
  image_close (fs, NULL);
  assert_int_equal (seq_on (md), EXT4_MMP_SEQ_CLEAN);
  image_assert_clean (md);
  memdev_free (md);
}

/* The block is the only one that changes if nobody writes. */
static void
test_untouched (void **state)
{
  struct memdev *md = make_image (), *before = memdev_copy (md);
  const uint64_t at = block_offset (md);
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  assert_ok (open_shared (&s, &fs));
  image_close (fs, NULL);
  assert_memory_equal (md->mem, before->mem, at);
  assert_memory_equal (md->mem + at + 1024, before->mem + at + 1024,
                       md->dev.size - at - 1024);
  memdev_free (before);
  memdev_free (md);
}

/* Not by the clock: this process may be stopped, and the two go on in any
 * order.
 */
static void
see_sign (unsigned wait)
{
  (void) wait;
  wait_for_sign (theirs);
}

static void
test_second_refused (void **state)
{
  struct memdev *md = make_image ();
  const struct filesystem_options ro = { .readonly = true };
  struct shared a, b;
  struct filesystem *fs, *other;

  (void) state;
  share (&a, md);
  share (&b, md);
  assert_ok (open_shared (&a, &fs));
  theirs = md;
  meanwhile = see_sign;
  assert_int_equal (open_shared (&b, &other), EBUSY);
  meanwhile = NULL;
  assert_int_equal (waited, W);
  assert_false (atomic_load (&fs->aborted));
  /* Readers do not take part. */
  assert_ok (filesystem_open (&b.dev, &ro, &other));
  image_close (other, NULL);
  assert_int_not_equal (seq_on (md), EXT4_MMP_SEQ_CLEAN);

  put_byte (fs, 7);
  image_close (fs, NULL);
  assert_ok (open_shared (&b, &other));
  image_close (other, NULL);
  image_assert_clean (md);
  memdev_free (md);
}

/* A server that died: its sequence stays. */
static void
test_after_crash (void **state)
{
  struct memdev *md = make_image ();
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  put_block (md, 4711, "dead");
  assert_ok (open_shared (&s, &fs));
  assert_int_equal (waited, 2 * W);
  image_close (fs, NULL);
  assert_int_equal (seq_on (md), EXT4_MMP_SEQ_CLEAN);
  memdev_free (md);
}

/* A journal is replayed when the filesystem is ours, not before. */
static bool replayed_early;

static void
look_at_journal (unsigned wait)
{
  (void) wait;
  if (!ext2fs_has_feature_journal_needs_recovery (image_super (theirs)))
    replayed_early = true;
}

static void
test_recovery (void **state)
{
  struct memdev *md = image_make ("-t ext4 -b 1024 -O mmp "
                                  "-E mmp_update_interval=1",
                                  UINT64_C (8) << 20, files);
  struct shared s;
  struct filesystem *fs;
  struct inode *inode;
  uint8_t byte = 0;

  (void) state;
  share (&s, md);
  assert_ok (open_shared (&s, &fs));
  put_byte (fs, 7);
  assert_ok (filesystem_flush (fs));
  pthread_mutex_lock (&turn);
  theirs = memdev_copy (md);    /* as after a power cut */
  pthread_mutex_unlock (&turn);
  image_close (fs, NULL);
  memdev_free (md);

  share (&s, theirs);
  meanwhile = look_at_journal;
  replayed_early = false;
  assert_ok (open_shared (&s, &fs));
  meanwhile = NULL;
  assert_int_equal (waited, 2 * W);
  assert_false (replayed_early);
  assert_true (fs->writable);
  inode = image_iget (fs, "f");
  assert_ok (file_read (inode, &byte, 1, 0));
  assert_int_equal (byte, 7);
  image_close (fs, inode);
  assert_int_equal (seq_on (theirs), EXT4_MMP_SEQ_CLEAN);
  image_assert_clean (theirs);
  memdev_free (theirs);
}

/* Refusals that leave every byte as it was. */

static void
refused_as_it_is (struct memdev *md, errcode_t expect)
{
  const uint64_t changes = memdev_count (md, MEMDEV_CHANGES);
  struct memdev *before = memdev_copy (md);
  struct shared s;
  struct filesystem *fs;

  share (&s, md);
  assert_int_equal (open_shared (&s, &fs), expect);
  assert_int_equal (memdev_count (md, MEMDEV_CHANGES), changes);
  assert_memory_equal (md->mem, before->mem, md->dev.size);
  memdev_free (before);
}

static void
seal_super (struct memdev *md)
{
  struct ext2_super_block *sb = image_super (md);

  sb->s_checksum = ext2fs_cpu_to_le32
    (ext2fs_crc32c_le (~0u, (unsigned char *) sb,
                       offsetof (struct ext2_super_block, s_checksum)));
}

/* What the message says to run when e2fsck has died helps. */
static void
clear_mmp (struct memdev *md)
{
  struct memdev *copy = memdev_copy (md);
  char name[64], command[128];
  struct filesystem *fs;
  struct shared s;

  snprintf (command, sizeof command,
            "tune2fs -f -E clear_mmp %s >/dev/null",
            memdev_path (copy, name, sizeof name));
  assert_int_equal (system (command), 0);
  share (&s, copy);
  assert_ok (open_shared (&s, &fs));
  assert_true (fs->writable);
  image_close (fs, NULL);
  memdev_free (copy);
}

static void
test_refused (void **state)
{
  struct memdev *good = make_image (), *md;
  static const uint64_t bad_blocks[] = { 0, 1, 8192, UINT64_MAX };
  unsigned i;

  (void) state;
  md = memdev_copy (good);
  put_block (md, EXT4_MMP_SEQ_FSCK, "fsck");
  refused_as_it_is (md, EBUSY);
  assert_int_equal (waited, 0);
  clear_mmp (md);
  put_block (md, EXT4_MMP_SEQ_FSCK + 1, "unknown");
  refused_as_it_is (md, EXT2_ET_MMP_UNKNOWN_SEQ);
  md->mem[block_offset (md)] ^= 1;
  refused_as_it_is (md, EXT2_ET_MMP_MAGIC_INVALID);
  memdev_free (md);

  md = memdev_copy (good);
  md->mem[block_offset (md) + 20] ^= 1;
  refused_as_it_is (md, EXT2_ET_MMP_CSUM_INVALID);
  for (i = 0; i < 4; i++) {
    image_super (md)->s_mmp_block = bad_blocks[i];
    seal_super (md);
    refused_as_it_is (md, EXT2_ET_MMP_BAD_BLOCK);
  }
  memdev_free (md);
  memdev_free (good);
}

/* A block that could be taken, but lies in metadata; and one in its place,
 * in a filesystem that is refused for another reason.
 */
static void
test_judged_first (void **state)
{
  struct memdev *good = image_make ("-t ext4 -b 1024 -O mmp,^metadata_csum "
                                    "-E mmp_update_interval=1",
                                    UINT64_C (8) << 20, files), *md;
  const struct ext2_group_desc *desc
    = (struct ext2_group_desc *) (good->mem + 2048);
  const uint64_t places[] = {
    2, 3, desc->bg_block_bitmap, desc->bg_inode_bitmap, desc->bg_inode_table,
  };
  struct ext2_inode *root = (struct ext2_inode *)
    (good->mem + 1024 * desc->bg_inode_table
     + EXT2_INODE_SIZE (image_super (good)));
  unsigned i;

  (void) state;
  for (i = 0; i < sizeof places / sizeof *places; i++) {
    md = memdev_copy (good);
    image_super (md)->s_mmp_block = places[i];
    memcpy (md->mem + places[i] * 1024,
            good->mem + image_super (good)->s_mmp_block * 1024, 4);
    refused_as_it_is (md, i == 0 ? EXT2_FILSYS_CORRUPTED
                      : EXT2_ET_MMP_BAD_BLOCK);
    assert_int_equal (waits, 0);
    memdev_free (md);
  }
  root->i_mode = LINUX_S_IFREG | 0644;
  refused_as_it_is (good, EXT2_ET_NO_DIRECTORY);
  assert_int_equal (waits, 0);
  memdev_free (good);
}

/* Others who come while opening waits. */

static void
other_in_first (unsigned wait)
{
  if (wait == 1)
    put_block (theirs, 99, "other");
}

static void
other_in_second (unsigned wait)
{
  if (wait == 2)
    put_block (theirs, 99, "other");
}

static void
test_race (void **state)
{
  struct memdev *md = theirs = make_image ();
  struct mmp_struct b;
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  /* Clean, so that the first wait is the one after writing. */
  meanwhile = other_in_first;
  assert_int_equal (open_shared (&s, &fs), EBUSY);
  get_block (md, &b);
  assert_string_equal ((char *) b.mmp_nodename, "other");
  assert_int_equal (b.mmp_seq, 99);

  put_block (md, 4711, "dead");
  meanwhile = other_in_second;
  assert_int_equal (open_shared (&s, &fs), EBUSY);
  assert_int_equal (seq_on (md), 99);
  /* Ends while we look. */
  put_block (md, 4711, "alive");
  meanwhile = other_in_first;
  assert_int_equal (open_shared (&s, &fs), EBUSY);
  assert_int_equal (waits, 1);
  meanwhile = NULL;
  memdev_free (md);
}

static void
test_given_up (void **state)
{
  struct memdev *md = make_image ();
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  give_up_at = 1;
  assert_int_equal (open_shared (&s, &fs), ECANCELED);
  assert_int_equal (seq_on (md), EXT4_MMP_SEQ_CLEAN);
  put_block (md, 4711, "dead");
  assert_int_equal (open_shared (&s, &fs), ECANCELED);
  assert_int_equal (seq_on (md), 4711);
  give_up_at = 2;
  assert_int_equal (open_shared (&s, &fs), ECANCELED);
  assert_int_equal (seq_on (md), EXT4_MMP_SEQ_CLEAN);
  give_up_at = 0;
  memdev_free (md);
}

/* Losing it. */

static void
assert_lost (struct filesystem *fs, struct memdev *md)
{
  struct inode *inode = image_iget (fs, "f");
  struct memdev *before;
  uint8_t byte = 9;
  unsigned i;

  for (i = 0; i < 500 && !atomic_load (&fs->aborted); i++)
    sleep_seconds (1);
  assert_true (atomic_load (&fs->aborted));
  fail_changes (md, 0);
  before = memdev_copy (md);
  assert_int_equal (file_write (inode, &byte, 1, 0, 0), EROFS);
  assert_int_not_equal (device_pwrite (fs->dev, &byte, 1, 0, 0), 0);
  assert_int_not_equal (device_zero (fs->dev, 1, 0, 0), 0);
  assert_ok (file_read (inode, &byte, 1, 0));
  assert_int_not_equal (filesystem_flush (fs), 0);
  iput (inode);
  assert_int_not_equal (filesystem_close (fs), 0);
  /* Neither the superblock nor the block. */
  assert_memory_equal (md->mem, before->mem, md->dev.size);
  memdev_free (before);
}

static void
test_writes_fail (void **state)
{
  struct memdev *md = make_image ();
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  assert_ok (open_shared (&s, &fs));
  put_byte (fs, 3);             /* in the running set */
  fail_changes (md, UINT64_MAX);
  assert_lost (fs, md);
  memdev_free (md);
}

/* Writes fail six times, which is more than C seconds but less than W, if
 * nobody stops this process meanwhile: then it is right to give up.  False:
 * that was so.
 */
static bool
fail_awhile (struct memdev *md, struct filesystem *fs)
{
  struct timespec begin, end;
  uint64_t ms;

  clock_gettime (CLOCK_MONOTONIC, &begin);
  fail_changes (md, 6);
  while (atomic_load (&md->fail_seen) < 6 && !atomic_load (&fs->aborted))
    sleep_seconds (1);
  clock_gettime (CLOCK_MONOTONIC, &end);
  fail_changes (md, 0);
  ms = (end.tv_sec - begin.tv_sec) * 1000
    + (end.tv_nsec - begin.tv_nsec) / 1000000;
  return ms < (W - 2) * SECOND_MS;
}

/* Some failures are forgiven, and do not make our own block foreign. */
static void
test_writes_fail_awhile (void **state)
{
  struct memdev *md;
  struct shared s;
  struct filesystem *fs;
  unsigned tries = 0;

  (void) state;
  for (;;) {
    md = make_image ();
    share (&s, md);
    assert_ok (open_shared (&s, &fs));
    if (fail_awhile (md, fs) || ++tries == 20)
      break;
    filesystem_close (fs);
    memdev_free (md);
  }
  wait_for_sign (md);
  assert_false (atomic_load (&fs->aborted));
  put_byte (fs, 3);
  image_close (fs, NULL);
  image_assert_clean (md);
  memdev_free (md);
}

/* Too late: somebody has taken it.  Writes fail until then, so that the
 * thread is late.
 */
static void
test_taken_over (void **state)
{
  struct memdev *md = make_image ();
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  assert_ok (open_shared (&s, &fs));
  put_byte (fs, 3);
  fail_changes (md, 7);
  put_block (md, 99, "other");
  assert_lost (fs, md);
  assert_int_equal (seq_on (md), 99);
  memdev_free (md);
}

/* An abort leaves the block as one who died would. */
static void
test_abort (void **state)
{
  struct memdev *md = make_image ();
  struct shared s;
  struct filesystem *fs;

  (void) state;
  share (&s, md);
  assert_ok (open_shared (&s, &fs));
  put_byte (fs, 3);
  lock_acquire (&fs->lock);
  filesystem_abort (fs, "test", EIO);
  lock_release (&fs->lock);
  assert_int_not_equal (filesystem_close (fs), 0);
  assert_in_range (seq_on (md), 1, EXT4_MMP_SEQ_MAX);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_alone),
    cmocka_unit_test (test_untouched),
    cmocka_unit_test (test_second_refused),
    cmocka_unit_test (test_after_crash),
    cmocka_unit_test (test_recovery),
    cmocka_unit_test (test_refused),
    cmocka_unit_test (test_judged_first),
    cmocka_unit_test (test_race),
    cmocka_unit_test (test_given_up),
    cmocka_unit_test (test_writes_fail),
    cmocka_unit_test (test_writes_fail_awhile),
    cmocka_unit_test (test_taken_over),
    cmocka_unit_test (test_abort),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

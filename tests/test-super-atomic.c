/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A superblock write torn in the middle leaves a superblock with a right
 * checksum.
 */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "ondisk.h"
#include "image.h"

#define SIZE (UINT64_C (300) << 10)

static const struct image_file files[] = { { "f", SIZE, false }, { NULL } };

static void
try (const char *args)
{
  struct memdev *md = image_make (args, UINT64_C (8) << 20, files);
  struct filesystem *fs = image_open (md);
  struct inode *inode = image_iget (fs, "f");
  struct ext2_super_block before, after;
  uint8_t buf[4096];
  unsigned supers = 0;
  size_t i;

  before = *image_super (md);
  memset (buf, 1, sizeof buf);
  memdev_log_start (md);
  for (i = 0; i < 8; i++) {
    assert_ok (file_write (inode, buf, sizeof buf, i * 16384, 0));
    assert_ok (filesystem_flush (fs));
  }
  image_close (fs, inode);
  for (i = 0; i < md->log_count; i++) {
    const struct memdev_entry *e = &md->log[i];

    if (e->call != MEMDEV_WRITE || e->offset != 1024)
      continue;
    supers++;
    memcpy (&after, e->data, sizeof after);
    assert_memory_not_equal (&after, &before, 512);
    assert_memory_equal ((uint8_t *) &after + 512, (uint8_t *) &before + 512,
                         512);
    before = after;
  }
  assert_true (supers >= 2);
  image_assert_clean (md);
  memdev_free (md);
}

static void
test_halves (void **state)
{
  (void) state;
  try ("-t ext4 -b 1024");
  try ("-t ext4 -b 1024 -O ^has_journal");
  try ("-t ext4 -b 4096 -O metadata_csum_seed");
  try ("-t ext2 -b 1024");
}

int
main (void)
{
  const struct CMUnitTest tests[] = { cmocka_unit_test (test_halves) };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

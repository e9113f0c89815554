/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Opening a damaged image and reading what is in it.
 *
 * What must hold: no change if it is opened for reading; none if it is
 * refused, unless the journal is replayed or multiple mount protection
 * asks; a second opening finds no other bytes than the first.
 */

#include <config.h>

#include <stddef.h>
#include <string.h>

#include "fuzz-client.h"

static uint32_t
le32_at (const struct fuzz_base *b, uint64_t offset)
{
  uint32_t v;

  memcpy (&v, b->dev->mem + offset, sizeof v);
  return ext2fs_le32_to_cpu (v);
}

/* May opening change something although it then fails? */
static bool
may_change (const struct fuzz_base *b)
{
  const uint32_t incompat
    = le32_at (b, 1024 + offsetof (struct ext2_super_block,
                                   s_feature_incompat));

  return incompat & (EXT3_FEATURE_INCOMPAT_RECOVER |
                     EXT4_FEATURE_INCOMPAT_MMP);
}

static void
run (struct fuzz_case *c)
{
  struct fuzz_client cl = { 0 };
  uint64_t first, again;
  bool may;

  fuzz_case_damage (c);
  fuzz_device_fault (c->base->dev, c->fault, c->fault_at);
  may = may_change (c->base) || c->base->fs->journal;
  if (fuzz_client_open (&cl, c) != 0) {
    if (c->base->dev->changes > 0 && !may)
      fuzz_die ("refused, but changed");
    return;
  }
  first = fuzz_client_read_all (&cl);
  fuzz_client_close (&cl);
  if (c->base->dev->failed)
    return;
  c->base->dev->fault = FUZZ_FAULT_NONE;
  if (fuzz_client_open (&cl, c) != 0)
    fuzz_die ("opens once, but not again");
  again = fuzz_client_read_all (&cl);
  if (first != again)
    fuzz_die ("reads other bytes the second time");
  fuzz_client_close (&cl);
}

static const uint8_t bases[] = {
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255
};
static const uint8_t kinds[] = {
  FUZZ_SET8, FUZZ_SET16, FUZZ_SET32, FUZZ_SET32, FUZZ_SET64, FUZZ_ADD32,
  FUZZ_POINT, FUZZ_COPY, FUZZ_FILL, FUZZ_EXTENT, FUZZ_NAME, 255
};
static const uint8_t classes[] = {
  FUZZ_SUPER, FUZZ_SUPER, FUZZ_SUPER, FUZZ_DESC, FUZZ_DESC, FUZZ_INODE,
  FUZZ_INODE, FUZZ_TREE, FUZZ_DIR, FUZZ_JOURNAL, FUZZ_BLOCK_BITMAP,
  FUZZ_INODE_BITMAP, FUZZ_ORPHAN, FUZZ_MMP, FUZZ_DATA, 255
};

const struct fuzz_harness fuzz_harness = {
  "open", run, bases, kinds, classes
};

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Multiple mount protection: its block damaged, and changed by others while
 * opening waits.
 *
 * What must hold: who is refused has left everything but that block alone,
 * and who finds it in use, the block too.
 */

#include <config.h>

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz-client.h"

static uint32_t
le32 (const uint8_t *p)
{
  return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t) p[3] << 24;
}

/* Has anything been changed outside the block that the superblock names?
 * MEANWHILE has changed only what it has.
 */
static bool
is_kept (const struct fuzz_base *b, const uint8_t *old)
{
  const uint32_t bs = b->block_size;
  const uint64_t mmp
    = le32 (old + 1024 + offsetof (struct ext2_super_block, s_mmp_block));
  uint64_t blk;

  for (blk = 0; blk < b->blocks; blk++)
    if (blk != mmp &&
        memcmp (old + blk * bs, b->dev->mem + blk * bs, bs) != 0)
      return false;
  return true;
}

static void
run (struct fuzz_case *c)
{
  struct fuzz_base *b = c->base;
  struct fuzz_client cl = { 0 };
  unsigned i;

  /* Others change what is theirs. */
  for (i = 0; i < c->count; i++)
    if (c->records[i].kind == FUZZ_MEANWHILE && c->records[i].class != 255)
      c->records[i].class = FUZZ_MMP;
  fuzz_case_damage (c);
  if (b->old == NULL && (b->old = malloc (b->size)) == NULL)
    fuzz_die ("no memory");
  memcpy (b->old, b->dev->mem, b->size);
  fuzz_device_fault (b->dev, c->fault, c->fault_at);
  if (fuzz_client_open (&cl, c) == 0) {
    fuzz_client_run (&cl);
    fuzz_client_close (&cl);
    b->dev->fault = FUZZ_FAULT_NONE;
    if (fuzz_client_open (&cl, c) == 0)
      fuzz_client_read_all (&cl);
    fuzz_client_close (&cl);
  }
  else if (!(c->flags & FUZZ_DIRTY) && b->fs->journal == NULL &&
           !is_kept (b, b->old))
    fuzz_die ("refused, but changed");
}

static const uint8_t bases[] = { 9, 9, 13, 255 };
static const uint8_t kinds[] = {
  FUZZ_SET8, FUZZ_SET16, FUZZ_SET32, FUZZ_SET32, FUZZ_ADD32, FUZZ_POINT,
  FUZZ_COPY, FUZZ_FILL, FUZZ_MEANWHILE, FUZZ_MEANWHILE, FUZZ_WRITE,
  FUZZ_FLUSH, FUZZ_REOPEN, 255
};
static const uint8_t classes[] = {
  FUZZ_MMP, FUZZ_MMP, FUZZ_MMP, FUZZ_MMP, FUZZ_SUPER, FUZZ_DESC,
  FUZZ_INODE, 255
};

const struct fuzz_harness fuzz_harness = { "mmp", run, bases, kinds, classes };

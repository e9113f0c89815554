/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Extents and indirect blocks: requests on files whose trees are damaged.
 *
 * What must hold: the blocks of the other files, as long as the trees of
 * those that were changed do not lead there and the bitmaps know them,
 * keep their bytes; and so do superblock copies and other fixed metadata.
 */

#include <config.h>

#include "fuzz-client.h"
#include "fuzz-others.h"

static void
run (struct fuzz_case *c)
{
  struct fuzz_client cl = { 0 };
  struct fuzz_others *o;

  fuzz_case_damage (c);
  fuzz_device_fault (c->base->dev, c->fault, c->fault_at);
  o = fuzz_others_new (c);
  if (fuzz_client_open (&cl, c) == 0) {
    fuzz_client_run (&cl);
    fuzz_client_close (&cl);
    fuzz_others_check (o, &cl);
    /* What is left can be opened, or is refused. */
    c->base->dev->fault = FUZZ_FAULT_NONE;
    if (fuzz_client_open (&cl, c) == 0)
      fuzz_client_read_all (&cl);
    fuzz_client_close (&cl);
  }
  fuzz_others_free (o);
}

static const uint8_t bases[] = { 0, 2, 3, 4, 6, 8, 11, 12, 14, 255 };
static const uint8_t kinds[] = {
  FUZZ_SET8, FUZZ_SET16, FUZZ_SET32, FUZZ_SET32, FUZZ_SET64, FUZZ_ADD32,
  FUZZ_POINT, FUZZ_POINT, FUZZ_COPY, FUZZ_FILL, FUZZ_EXTENT, FUZZ_EXTENT,
  FUZZ_BECOME, FUZZ_READ, FUZZ_WRITE, FUZZ_WRITE, FUZZ_ZERO, FUZZ_TRIM,
  FUZZ_TRIM, FUZZ_STATUS, FUZZ_CACHE, FUZZ_FLUSH, 255
};
static const uint8_t classes[] = {
  FUZZ_INODE, FUZZ_TREE, FUZZ_TREE, FUZZ_TREE, FUZZ_FREE, FUZZ_DATA, 255
};

const struct fuzz_harness fuzz_harness = { "map", run, bases, kinds, classes };

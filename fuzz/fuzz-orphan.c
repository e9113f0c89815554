/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Orphans: chains and orphan files, damaged.
 *
 * What must hold: a chain or file that leads anywhere ends; and nothing of
 * them is changed by clients at work on other files.
 */

#include <config.h>

#include <string.h>

#include "fuzz-client.h"
#include "fuzz-others.h"

static void
run (struct fuzz_case *c)
{
  const struct fuzz_place *p = fuzz_place (c->base, FUZZ_ORPHAN, 0);
  struct fuzz_client cl = { 0 };
  struct fuzz_others *o;
  uint8_t before[1024];

  fuzz_case_damage (c);
  fuzz_device_fault (c->base->dev, c->fault, c->fault_at);
  if (p)
    memcpy (before, c->base->dev->mem + p->offset, sizeof before);
  o = fuzz_others_new (c);
  if (fuzz_client_open (&cl, c) == 0) {
    fuzz_client_run (&cl);
    fuzz_client_close (&cl);
    fuzz_others_check (o, &cl);
    if (p && !(c->flags & FUZZ_DIRTY) &&
        memcmp (before, c->base->dev->mem + p->offset, sizeof before) != 0)
      fuzz_die ("the orphan file has been changed");
  }
  fuzz_others_free (o);
}

static const uint8_t bases[] = { 10, 10, 10, 0, 3, 4, 255 };
static const uint8_t kinds[] = {
  FUZZ_SET8, FUZZ_SET16, FUZZ_SET32, FUZZ_SET32, FUZZ_SET64, FUZZ_POINT,
  FUZZ_FILL, FUZZ_EXTENT, FUZZ_WRITE, FUZZ_TRIM, FUZZ_READ, FUZZ_FLUSH, 255
};
static const uint8_t classes[] = {
  FUZZ_ORPHAN, FUZZ_ORPHAN, FUZZ_ORPHAN, FUZZ_INODE, FUZZ_INODE, FUZZ_SUPER,
  FUZZ_TREE, 255
};

const struct fuzz_harness fuzz_harness = {
  "orphan", run, bases, kinds, classes
};

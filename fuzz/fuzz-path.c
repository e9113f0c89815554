/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Paths: names looked up in damaged directories and symbolic links.
 *
 * What must hold: every lookup takes bounded time and device calls, and
 * what it logs is one clean line; nothing is written.
 */

#include <config.h>

#include "fuzz-client.h"

static void
run (struct fuzz_case *c)
{
  struct fuzz_client cl = { 0 };
  unsigned i;

  c->flags |= FUZZ_READONLY;
  fuzz_case_damage (c);
  fuzz_device_fault (c->base->dev, c->fault, c->fault_at);
  if (fuzz_client_open (&cl, c) != 0)
    return;
  for (i = 0; i < c->count; i++)
    if (c->records[i].kind == FUZZ_LOOKUP)
      fuzz_lookup (&cl, &c->records[i]);
  for (i = 0; i < FUZZ_FILES; i++)
    fuzz_client_file (&cl, i);
  fuzz_client_close (&cl);
}

static const uint8_t bases[] = { 0, 3, 4, 5, 8, 11, 12, 14, 255 };
static const uint8_t kinds[] = {
  FUZZ_SET8, FUZZ_SET16, FUZZ_SET32, FUZZ_ADD32, FUZZ_POINT, FUZZ_COPY,
  FUZZ_FILL, FUZZ_EXTENT, FUZZ_NAME, FUZZ_NAME, FUZZ_NAME, FUZZ_BECOME,
  FUZZ_LOOKUP, FUZZ_LOOKUP, FUZZ_LOOKUP, 255
};
static const uint8_t classes[] = {
  FUZZ_DIR, FUZZ_DIR, FUZZ_DIR, FUZZ_INODE, FUZZ_INODE, FUZZ_DATA, FUZZ_FREE,
  FUZZ_SUPER, 255
};

const struct fuzz_harness fuzz_harness = {
  "path", run, bases, kinds, classes
};

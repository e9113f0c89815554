/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Journals: logs of every kind and damage, replayed.
 *
 * What must hold: a reader who replays in memory changes nothing and sees
 * what the replay onto the device leaves; and so does whoever opens it
 * after a replay was cut off at any change.
 */

#include <config.h>

#include "fuzz-client.h"

/* Opens the device as C has damaged it, READONLY or not, cut off at change
 * CUT unless that is 0; the sum of what is in it, 0 if it is refused.
 */
static uint64_t
look (struct fuzz_case *c, bool readonly, uint64_t cut)
{
  struct fuzz_client cl = { 0 };
  uint64_t sum = 0;

  c->flags = readonly ? c->flags | FUZZ_READONLY : c->flags & ~FUZZ_READONLY;
  fuzz_device_fault (c->base->dev, cut ? FUZZ_FAULT_DEAD : FUZZ_FAULT_NONE,
                     cut);
  if (fuzz_client_open (&cl, c) == 0)
    sum = fuzz_client_read_all (&cl);
  fuzz_client_close (&cl);
  return sum;
}

static void
run (struct fuzz_case *c)
{
  uint64_t reader, writer, again;

  fuzz_case_damage (c);
  reader = look (c, true, 0);
  writer = look (c, false, 0);
  if (reader && writer && reader != writer)
    fuzz_die ("replayed in memory it is not what is replayed to disk");
  if (writer == 0)
    return;
  if (look (c, false, 0) != writer)
    fuzz_die ("what was replayed does not stay");
  fuzz_case_damage (c);
  look (c, false, c->fault_at % 16 + 1);
  again = look (c, false, 0);
  if (again != writer)
    fuzz_die ("a replay that was cut off leads elsewhere");
}

static const uint8_t bases[] = { 1, 3, 5, 6, 8, 10, 13, 15, 3, 255 };
static const uint8_t kinds[] = {
  FUZZ_LOG_BLOCK, FUZZ_LOG_BLOCK, FUZZ_LOG_BLOCK, FUZZ_LOG_BLOCK,
  FUZZ_LOG_REVOKE, FUZZ_LOG_COMMIT, FUZZ_LOG_COMMIT, FUZZ_LOG_START,
  FUZZ_SET8, FUZZ_SET32_BIG, FUZZ_SET32_BIG, FUZZ_SET32, FUZZ_COPY,
  FUZZ_FILL, FUZZ_POINT, 255
};
static const uint8_t classes[] = {
  FUZZ_JOURNAL, FUZZ_JOURNAL, FUZZ_JOURNAL, FUZZ_JOURNAL, FUZZ_SUPER,
  FUZZ_DESC, FUZZ_INODE, FUZZ_TREE, FUZZ_BLOCK_BITMAP, FUZZ_DIR, FUZZ_DATA,
  FUZZ_FREE, 255
};

const struct fuzz_harness fuzz_harness = {
  "journal", run, bases, kinds, classes
};

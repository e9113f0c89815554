/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a power cut leaves of a log of device calls.
 *
 * The cut happens at a stamp: calls that began later never happened.  Of
 * the others
 *
 *   - durable are those that had ended before a flush began which itself
 *     ended before the cut, and writes and zeros with FUA that ended
 *     before the cut;
 *   - anything may have become of the rest: any set of them may have
 *     reached the medium, in part, the parts being whole *units*.
 *
 * Units are sectors where a journal protects metadata.  Without one a
 * filesystem relies on its blocks being written whole; but its superblock
 * is always torn by sectors (see lib/super-write.c).
 *
 * Whatever is kept is kept in the order in which it began.  A trim that
 * is kept makes its range MEMDEV_TRIMMED.
 */

#ifndef POWERCUT_H
#define POWERCUT_H

#include "memdev.h"

#define SECTOR 512u

#define SUPER_START 1024u
#define SUPER_END   2048u

/* What becomes of calls that are not durable. */
enum powercut_mode {
  POWERCUT_NONE,                /* all are lost */
  POWERCUT_ALL,                 /* none */
  POWERCUT_SOME,                /* each with even odds */
  POWERCUT_UNITS,               /* each unit of each with even odds */
  POWERCUT_LOSE_ONE,            /* one is lost */
  POWERCUT_KEEP_ONE,            /* one is kept */
  POWERCUT_LATE,                /* the older of them are lost */
  POWERCUT_TEAR_ONE,            /* units of one are lost */
  POWERCUT_MODES                /* how many there are */
};

struct powercut {
  uint64_t at;                  /* a stamp */
  enum powercut_mode mode;
  uint64_t seed;                /* of what the mode leaves to chance */
};

struct replay;

/* LOG, sorted by begin, and all it points to must stay; BASE, SIZE bytes,
 * is copied.  UNIT in bytes.
 */
extern struct replay *replay_new (const uint8_t *base, uint64_t size,
                                  const struct memdev_entry *log,
                                  size_t count, uint32_t unit);
extern void replay_free (struct replay *r);

/* What CUT leaves, into MEM.  Cheap as long as cuts come in the order of
 * their stamps: what is durable is applied once.
 */
extern void replay_cut (struct replay *r, const struct powercut *cut,
                        uint8_t *mem);

#endif /* POWERCUT_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The crash harness: a load on a filesystem, a log of what reached the
 * device and of what was promised to whom, and a judge of what a power
 * cut at any moment leaves.  What the device may lose: powercut.h.  What
 * a file must hold: oracle.h.
 */

#ifndef CRASH_H
#define CRASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crash-log.h"
#include "memdev.h"
#include "oracle.h"
#include "powercut.h"

/* What is expected of an image after a power cut. */
enum crash_expect {
  /* e2fsck -fp repairs it all by itself.  We refuse to write to it as it
   * is, but read the same bytes from it as after the repair.
   */
  CRASH_REPAIR,
  /* It is consistent once its journal is replayed, by e2fsck or by us:
   * then e2fsck -fn finds nothing, and all see the same bytes.
   */
  CRASH_REPLAY,
};

/* Of images with a journal. */
#define CRASH_JOURNALED CRASH_REPLAY

/* The files of every image.  "base" is never written to. */
#define CRASH_FILES 3
extern const char *const crash_files[CRASH_FILES];

struct crash_config {
  const char *name;
  const char *args;             /* of mke2fs */
  uint64_t size;                /* bytes: of the image */
  uint64_t file_size;           /* bytes */
  unsigned requests;            /* of the load */
  unsigned points;              /* of make check */
  enum crash_expect expect;
};

/* All configurations, ended by a NULL name. */
extern const struct crash_config crash_configs[];
extern const struct crash_config *crash_find_config (const char *name);

/* What happened from a clean image on. */
struct crash_history {
  uint8_t *base;
  uint64_t size;                /* bytes */
  struct memdev_entry *log;     /* sorted by begin */
  size_t log_count;
  struct crash_record *requests;
  size_t request_count;
};

extern void crash_history_free (struct crash_history *h);

/* An image for C: files, and free blocks full of what must never show. */
extern struct memdev *crash_image (const struct crash_config *c);

/* THREADS threads put a load on the clean image MD, from opening to
 * closing.  COUNT requests in all.
 */
extern void crash_load (struct memdev *md, unsigned count, unsigned threads,
                        uint64_t seed, struct crash_history *h);

/* As files: PREFIX.img, the base, and PREFIX.log.  For reading, LOGS is a
 * list of files that ends with NULL.  Both end the program if they fail.
 */
extern void crash_save (const struct crash_history *h, const char *prefix);
extern void crash_read (const char *image, char *const *logs,
                        struct crash_history *h);

struct judge;

extern struct judge *judge_new (const struct crash_history *h,
                                enum crash_expect expect);
extern void judge_free (struct judge *j);

/* Is what CUT leaves right?  If not, says what is wrong.  With MOUNT,
 * Linux has to read the files too (for root).
 */
extern bool judge_cut (struct judge *j, const struct powercut *cut,
                       bool mount);

/* The same for the image in file NAME, left by whatever happened. */
extern bool judge_found (struct judge *j, const char *name);

/* What the last cut left, to go on from: recovered by e2fsck, or not at
 * all, for us to do that when we open it.  A new device.
 */
extern struct memdev *judge_next (struct judge *j, bool recovered);

/* Whether Linux lets us mount an image. */
extern bool judge_can_mount (void);

#endif /* CRASH_H */

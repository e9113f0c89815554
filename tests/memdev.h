/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A block device in memory for the unit tests: counts its calls, fails
 * the ones it is told to, dawdles, and remembers what was written in
 * which order, so that a test can look at the image as a power cut
 * would have left it.
 *
 * The memory is a memfd, so that e2fsck and debugfs can look at it under
 * memdev_path.  Reads and writes are plain memcpy with no lock around
 * them: two overlapping requests of which one writes are a data race
 * that ThreadSanitizer reports, unless a test says that it means them.
 */

#ifndef MEMDEV_H
#define MEMDEV_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"

enum memdev_call {
  MEMDEV_READ, MEMDEV_WRITE, MEMDEV_ZERO, MEMDEV_TRIM, MEMDEV_CACHE,
  MEMDEV_FLUSH,
  MEMDEV_CALLS                  /* how many there are */
};

/* What a trimmed range reads as. */
#define MEMDEV_TRIMMED 0xdd

#define MEMDEV_MASK(call) (1u << (call))
#define MEMDEV_CHANGES (MEMDEV_MASK (MEMDEV_WRITE) | \
                        MEMDEV_MASK (MEMDEV_ZERO) | MEMDEV_MASK (MEMDEV_TRIM))
#define MEMDEV_ALL ((1u << MEMDEV_CALLS) - 1)

struct memdev_entry {
  enum memdev_call call;        /* WRITE, ZERO, TRIM or FLUSH */
  uint64_t offset;
  uint32_t count;               /* bytes */
  unsigned flags;               /* DEVICE_FUA etc. */
  uint8_t *data;                /* of a write */
  uint64_t begin, end;          /* stamps; end is UINT64_MAX until then */
};

struct memdev {
  struct device dev;
  int fd;
  uint8_t *mem;
  bool trim_discards;           /* trimmed ranges read as TRIMMED */
  unsigned delay_us;            /* up to this long per call, 0 = none */
  bool overlaps;                /* overlapping calls are meant: no race */

  _Atomic uint64_t hold;        /* see memdev_hold; 0: none */
  atomic_uint hold_byte;        /* see memdev_hold_byte; 0: none */
  atomic_bool hold_trims;       /* see memdev_hold_trims */
  atomic_bool hold_flushes;     /* see memdev_hold_flush */
  atomic_bool held;             /* one stays */

  /* Called by every call when it begins, with OPAQUE; may wait. */
  void (*before) (void *opaque, enum memdev_call call);
  void *opaque;

  _Atomic uint64_t calls[MEMDEV_CALLS];

  unsigned fail_mask;           /* which calls may fail */
  errcode_t fail_error;
  uint64_t fail_from, fail_to;  /* matching calls, counted from 1 */
  _Atomic uint64_t fail_seen;

  pthread_mutex_t log_lock;
  bool logging;
  uint64_t stamp;               /* [log_lock] the last one given */
  uint8_t *log_base;            /* content when logging began */
  struct memdev_entry *log;
  size_t log_count, log_size;
};

/* A device of SIZE bytes, all zeros, with every capability. */
extern struct memdev *memdev_new (uint64_t size);
extern void memdev_free (struct memdev *md);

/* The content as a file name, for child processes. */
extern const char *memdev_path (struct memdev *md, char *buf, size_t len);

/* Another device with the same size, content and capabilities. */
extern struct memdev *memdev_copy (struct memdev *md);

/* Of the calls in MASK the N-th from now on (1 = the next) fails with
 * ERROR and does nothing; COUNT of them in all.
 */
extern void memdev_fail (struct memdev *md, unsigned mask, uint64_t n,
                         uint64_t count, errcode_t error);
extern void memdev_heal (struct memdev *md);

/* Reads, writes and zeros of the byte at OFFSET do not end until there is
 * a call with 0.
 */
extern void memdev_hold (struct memdev *md, uint64_t offset);

/* The same for writes of this byte. */
extern void memdev_hold_byte (struct memdev *md, uint8_t byte);

/* The same for all trims. */
extern void memdev_hold_trims (struct memdev *md, bool hold);
/* The same for flushes, until it is called with false. */
extern void memdev_hold_flush (struct memdev *md, bool hold);

/* Wait until there is such a call. */
extern void memdev_wait_held (struct memdev *md);

/* Has a call failed since memdev_fail? */
extern bool memdev_has_failed (struct memdev *md);

/* Calls so far of the kinds in MASK. */
extern uint64_t memdev_count (struct memdev *md, unsigned mask);

/* Forget the log and begin another: of the calls that succeed, in the
 * order in which they began.  For small devices.
 */
extern void memdev_log_start (struct memdev *md);
extern void memdev_log_stop (struct memdev *md);

/* The next stamp of the clock by which entries begin and end: for what
 * else a test wants to put in order with them.
 */
extern uint64_t memdev_stamp (struct memdev *md);

/* What a power cut after the first N log entries began may leave: what
 * had ended before the last flush among them began, writes with FUA, and
 * of the other entries each with even odds, drawn from SEED; all of them
 * if SEED is 0.  See powercut.h for more ways to lose things.
 */
extern struct memdev *memdev_power_cut (struct memdev *md, size_t n,
                                        uint64_t seed);

/* Random numbers that are the same everywhere. */
struct rng {
  uint64_t state;
};
extern uint64_t rng_next (struct rng *r);
extern uint64_t rng_below (struct rng *r, uint64_t n);
extern void rng_fill (struct rng *r, void *buf, size_t len);

#endif /* MEMDEV_H */

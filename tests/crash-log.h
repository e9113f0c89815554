/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What the crash tests' programs agree on: the bytes that a request
 * writes, and files with what happened when.  Needs nothing but libc:
 * the plugin and the NBD client have it too.
 */

#ifndef CRASH_LOG_H
#define CRASH_LOG_H

#include <stdint.h>
#include <string.h>
#include <time.h>

/* One thing that happened, in a log file: this, and for CRASH_DEV_WRITE
 * what was written.  In the machine's own byte order.
 */
enum crash_kind {
  CRASH_DEV_WRITE = 1, CRASH_DEV_ZERO, CRASH_DEV_TRIM, CRASH_DEV_FLUSH,
  CRASH_WRITE, CRASH_ZERO, CRASH_TRIM, CRASH_FLUSH,
};

#define CRASH_FUA    1u
#define CRASH_FAILED 2u         /* a request: part of it may be done */

struct crash_record {
  uint32_t kind, flags;
  uint64_t begin, end;          /* stamps of one clock; end may be ~0 */
  uint64_t offset, count;       /* of the device, or of the file */
  uint32_t file, id;            /* of a request */
};

/* The clock of several processes. */
static inline uint64_t
crash_clock (void)
{
  struct timespec ts;

  clock_gettime (CLOCK_MONOTONIC, &ts);
  return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

/* The 8 bytes at 8 * WORD that request ID writes to FILE. */
static inline uint64_t
crash_word (uint32_t file, uint32_t id, uint64_t word)
{
  uint64_t z = ((uint64_t) id << 32 | file << 24) + word;

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

/* COUNT bytes at OFFSET of FILE as request ID writes them. */
static inline void
crash_fill (void *buf, uint64_t count, uint64_t offset, uint32_t file,
            uint32_t id)
{
  uint8_t *p = buf;

  while (count > 0) {
    uint64_t w = crash_word (file, id, offset / 8);
    uint64_t in = offset % 8, n = 8 - in < count ? 8 - in : count;

    memcpy (p, (const uint8_t *) &w + in, n);
    p += n;
    offset += n;
    count -= n;
  }
}

#endif /* CRASH_LOG_H */

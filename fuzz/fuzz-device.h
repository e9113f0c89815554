/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A block device in memory for the fuzzers.  It goes back to what it was
 * between two inputs at the cost of what was changed; counts what it is
 * asked for and ends the program when that is absurd; fails or dies at a
 * given call.
 */

#ifndef FUZZ_DEVICE_H
#define FUZZ_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "device.h"

/* What happens at the FAULT_AT-th call that reads, writes etc. */
enum fuzz_fault {
  FUZZ_FAULT_NONE,
  FUZZ_FAULT_READ,              /* one read fails */
  FUZZ_FAULT_WRITE,             /* one change fails */
  FUZZ_FAULT_SPACE,             /* one change fails with ENOSPC */
  FUZZ_FAULT_FLUSH,             /* one flush fails */
  FUZZ_FAULT_DEAD,              /* that change and all calls after it */
  FUZZ_FAULTS
};

struct fuzz_device {
  struct device dev;
  uint64_t mem_size;            /* bytes; behind them are zeros, and what
                                   is written there is forgotten */
  uint8_t *mem;
  uint8_t *base;                /* what MEM was, mem_size bytes */
  atomic_uchar *dirty;          /* pages of MEM that may differ */

  enum fuzz_fault fault;
  uint64_t fault_at;            /* counted from 1 */
  _Atomic uint64_t seen;        /* calls that the fault counts */
  atomic_bool failed;           /* it has happened */

  bool frozen;                  /* a change ends the program */
  _Atomic uint64_t calls, bytes; /* left before it is ended */
  _Atomic uint64_t changes;     /* calls that changed something */
};

/* Of SIZE bytes that are those at BASE, which must outlive it; not to be
 * changed unless WRITABLE.
 */
extern struct fuzz_device *fuzz_device_new (uint8_t *base, uint64_t size,
                                            bool writable);

/* As it was when it was made: content, size, capabilities, no fault. */
extern void fuzz_device_reset (struct fuzz_device *d);

/* Another CALLS calls and BYTES bytes are explained by what is asked. */
extern void fuzz_device_allow (struct fuzz_device *d, uint64_t calls,
                               uint64_t bytes);

/* From now on counted anew. */
extern void fuzz_device_fault (struct fuzz_device *d, enum fuzz_fault fault,
                               uint64_t at);

/* For changes by the fuzzer: memory of LEN bytes at OFFSET, NULL if they
 * are not all there.
 */
extern uint8_t *fuzz_device_at (struct fuzz_device *d, uint64_t offset,
                                uint64_t len);

/* Says what is wrong and ends the program. */
extern void fuzz_die (const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 1, 2), __noreturn__));

#endif /* FUZZ_DEVICE_H */

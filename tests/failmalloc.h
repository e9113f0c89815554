/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Allocations that fail.  For programs linked with FAILMALLOC_LDFLAGS: the
 * calls of malloc and its like in the library and the test, not those in
 * libext2fs.
 */

#ifndef FAILMALLOC_H
#define FAILMALLOC_H

#include <stdint.h>

/* Of the allocations from now on the N-th (1 = the next) fails, and COUNT
 * in all.
 */
extern void failmalloc_start (uint64_t n, uint64_t count);

/* None fails any more.  How many there have been since the start. */
extern uint64_t failmalloc_stop (void);

#endif /* FAILMALLOC_H */

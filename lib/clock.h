/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The time that has passed. */

#ifndef EXT2SERVE_CLOCK_H
#define EXT2SERVE_CLOCK_H

#include <stdint.h>

/* Microseconds since some moment in the past; never goes back, whatever
 * is done to the machine's date.
 */
extern uint64_t clock_us (void);

#endif /* EXT2SERVE_CLOCK_H */

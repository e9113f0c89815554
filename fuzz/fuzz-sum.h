/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Makes checksums right again after a change, so that what is behind them
 * gets looked at.
 */

#ifndef FUZZ_SUM_H
#define FUZZ_SUM_H

#include "fuzz-base.h"

/* Those of place P of B's device, as a place of P's class. */
extern void fuzz_sum (struct fuzz_base *b, const struct fuzz_place *p);

/* All that touch pages that have been changed. */
extern void fuzz_sum_all (struct fuzz_base *b);

#endif /* FUZZ_SUM_H */

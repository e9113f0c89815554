/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What requests on some files must leave alone on a damaged image. */

#ifndef FUZZ_OTHERS_H
#define FUZZ_OTHERS_H

#include "fuzz-client.h"

struct fuzz_others;

/* Of the device of C's base as it is now. */
extern struct fuzz_others *fuzz_others_new (struct fuzz_case *c);

/* Ends the program if a block has other bytes than then that belongs to a
 * file that CL has not used, and to nobody else.
 */
extern void fuzz_others_check (struct fuzz_others *o,
                               const struct fuzz_client *cl);
extern void fuzz_others_free (struct fuzz_others *o);

#endif /* FUZZ_OTHERS_H */

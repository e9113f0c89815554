/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A device over another one that shows a journal as replayed, although the
 * device beneath must not be written: so readers get what a replay would
 * have made.
 *
 * Blocks of the log are not copied.  They stay where they are, in the
 * journal on the device beneath, which nobody writes either; kept is where
 * they lie (targets.h).  Copies are only of what is written here, which is
 * what no log has: the superblocks of filesystem and journal.
 *
 * It lives twice.  First one thread writes and adds, and nobody else
 * reads.  After overlay_freeze it takes no writes any more, does not
 * change, and any number of threads read it without a lock.
 */

#ifndef EXT2SERVE_OVERLAY_H
#define EXT2SERVE_OVERLAY_H

#include "device.h"
#include "targets.h"

struct overlay;

/* Over UNDER, which must outlive it.  BLOCK_SIZE in bytes: what is
 * written is kept in whole blocks.  NULL if there is no memory.
 */
extern struct overlay *overlay_new (struct device *under,
                                    uint32_t block_size);
extern void overlay_free (struct overlay *o);

/* The device; valid as long as O is. */
extern struct device *overlay_device (struct overlay *o);

/* Shows each of TS, sorted and all of them with a copy, as that copy; but
 * what is written counts more.  Takes them over: TS is empty afterwards.
 * Once.
 */
extern void overlay_show (struct overlay *o, struct targets *ts);

/* From now on it is only read. */
extern void overlay_freeze (struct overlay *o);

#endif /* EXT2SERVE_OVERLAY_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A device over another one that keeps what is written to it in memory:
 * so a journal can be replayed for readers although the device beneath
 * must not be written.
 *
 * It lives twice.  First one thread writes, and nobody reads.  After
 * overlay_freeze it takes no writes any more, does not change, and any
 * number of threads read it without a lock.
 */

#ifndef EXT2SERVE_OVERLAY_H
#define EXT2SERVE_OVERLAY_H

#include "device.h"

struct overlay;

/* Over UNDER, which must outlive it.  BLOCK_SIZE in bytes: what is
 * written is kept in whole blocks.  NULL if there is no memory.
 */
extern struct overlay *overlay_new (struct device *under,
                                    uint32_t block_size);
extern void overlay_free (struct overlay *o);

/* The device; valid as long as O is. */
extern struct device *overlay_device (struct overlay *o);

/* From now on it is only read. */
extern void overlay_freeze (struct overlay *o);

#endif /* EXT2SERVE_OVERLAY_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Which blocks belong to whom, read from the bytes on the device without
 * the library that is tested.
 */

#ifndef FUZZ_WALK_H
#define FUZZ_WALK_H

#include "fuzz-base.h"

/* Counts in MARKS (one byte for each block of the image, saturated) what
 * inode INO leads to: data and tree blocks, whether or not they make
 * sense.  MEM is the content: that of B or of its device.
 */
extern void fuzz_mark (const struct fuzz_base *b, const uint8_t *mem,
                       uint32_t ino, uint8_t *marks);

/* Is block BLK allocated in its bitmap? */
extern bool fuzz_is_allocated (const struct fuzz_base *b, const uint8_t *mem,
                               uint64_t blk);

/* Of an image that was never damaged: every block has one owner or is
 * free, and the bitmaps and counts say so.  Ends the program if not.
 */
extern void fuzz_check_consistent (const struct fuzz_base *b);

#endif /* FUZZ_WALK_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The structures of <ext2fs/ext2_fs.h> as they are on disk, for tests that
 * look at the bytes of an image: their numbers are little-endian, whatever
 * the processor.  (gcc turns them round at each access.)
 *
 * To be included first, in files that use them for nothing else.  What
 * libext2fs has in memory (fs->e2->super, inode->raw) is in the processor's
 * order, and so is what the library's functions are given.
 */

#ifndef TESTS_ONDISK_H
#define TESTS_ONDISK_H

#ifdef _LINUX_EXT2_FS_H
#error "ondisk.h is to be included before the headers of libext2fs"
#endif

#include <ext2fs/ext2_types.h>

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
/* They are got from bytes. */
#pragma GCC diagnostic ignored "-Wscalar-storage-order"
#pragma scalar_storage_order little-endian
#endif
#include <ext2fs/ext2_fs.h>
#include <ext2fs/ext2_ext_attr.h>
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#pragma scalar_storage_order default
#endif

#endif /* TESTS_ONDISK_H */

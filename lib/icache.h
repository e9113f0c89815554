/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Set-up of the inode cache's table; the cache itself is in inode.h. */

#ifndef EXT2SERVE_ICACHE_H
#define EXT2SERVE_ICACHE_H

#include "fs.h"

#define ICACHE_BITS 8           /* log2 of the hash table's size */

extern errcode_t icache_init (struct filesystem *fs);
extern void icache_fini (struct filesystem *fs);

#endif /* EXT2SERVE_ICACHE_H */

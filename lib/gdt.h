/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block group descriptors, read and judged when a filesystem is
 * opened.
 */

#ifndef EXT2SERVE_GDT_H
#define EXT2SERVE_GDT_H

#include "fs.h"

/* Reads the descriptors of FS, whose fs->e2 was opened with
 * EXT2_FLAG_SUPER_ONLY, to where libext2fs would have put them, and
 * collects the metadata blocks in fs->zones.
 *
 * This goes in pieces, and ends at the first group that is bad: a wrong
 * checksum, or metadata outside the filesystem (without flex_bg: outside
 * the group, as for Linux) or on top of others'.  So memory is in
 * proportion to the groups that are good, whatever the superblock claims:
 * for each its descriptor (32 or 64 bytes) and at most four zones of 16
 * bytes; those in an array that may be half empty, and is copied when it
 * grows.  With what the allocator has for a group that is never more than
 * 256 bytes.
 *
 * ECANCELED: opts->wait was told to give up.  An error has been logged
 * with its remedy.  Locks: FS.
 */
extern errcode_t gdt_load (struct filesystem *fs,
                           const struct filesystem_options *opts);

#endif /* EXT2SERVE_GDT_H */

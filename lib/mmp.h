/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Multiple mount protection: one block of the filesystem says who writes
 * to it, so that a second server, or Linux on another machine, keeps off.
 *
 * The block (struct mmp_struct, all little-endian) holds a sequence
 * number.  Whoever has the filesystem changes it every
 * s_mmp_update_interval seconds; whoever wants it looks whether it
 * changes.  Sources: the kernel's ext4 documentation, "Multiple Mount
 * Protection"; what Linux and libext2fs do.
 */

#ifndef EXT2SERVE_MMP_H
#define EXT2SERVE_MMP_H

#include <stdbool.h>

#include <et/com_err.h>

struct device;
struct filesystem;
struct filesystem_options;
struct mmp;

/* Takes the filesystem on DEV, whose superblock SB (host order) has the
 * feature and passed super_check, and whose block is none of the metadata
 * (mmp_protect_block), and keeps it for writing until mmp_stop with a thread
 * of its own.  Takes time: mmp.c says how long.
 *
 * What has been read from the device before is worth nothing: somebody
 * else may have had the filesystem until now.
 *
 * EBUSY: somebody has it; ECANCELED: opts->wait was told to stop; others:
 * the block cannot be used.  One line has been logged with the remedy,
 * and the block is not ours.  Locks: none held.
 */
extern errcode_t mmp_start (struct device *dev,
                            struct ext2_super_block *sb,
                            const struct filesystem_options *opts,
                            struct mmp **mp);

/* Could mmp_start take it?  Only reads, and does not wait: it may be in use
 * all the same.  One line has been logged on error.  Locks: none held.
 */
extern errcode_t mmp_look (struct device *dev, struct ext2_super_block *sb);

/* FS, which must not be freed before mmp_stop, has been opened: it is told
 * if the filesystem gets lost, or has been since mmp_start.  Until then
 * only the device is revoked.  M may be NULL.  Locks: none held.
 */
extern void mmp_attach (struct mmp *m, struct filesystem *fs);

/* Ends the thread and frees M (may be NULL).  If CLEAN, and the
 * filesystem has not been lost, the block then says that nobody has it:
 * everything else must be durable.  Locks: none held.
 */
extern void mmp_stop (struct mmp *m, bool clean);

/* Keeps FS's files off the block: adds it to fs->zones.
 * EXT2_ET_MMP_BAD_BLOCK if it is there already.  Locks: FS.
 */
extern errcode_t mmp_protect_block (struct filesystem *fs);

#endif /* EXT2SERVE_MMP_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Writing the superblock, and the fields in it that nobody but the
 * writer looks after: times, counts, the last error.
 */

#ifndef EXT2SERVE_SUPER_WRITE_H
#define EXT2SERVE_SUPER_WRITE_H

#include <stdint.h>

#include <ext2fs/ext2fs.h>

#include "locks.h"
#include "super-seal.h"

struct filesystem;

struct super_error {
  uint64_t time;                /* seconds */
  uint64_t block;               /* 0: not known */
  char func[32];                /* not terminated if that long */
  uint32_t line;
  uint8_t code;                 /* what Linux calls EXT4_ERR_* */
};

struct super_writer {
  struct lock lock;             /* SUPER: one write at a time */
  uint64_t kbytes;              /* [constant] s_kbytes_written at open */
  uint64_t written;             /* [constant] device_written at open */
  uint8_t rest[SUPER_REST];            /* [SUPER] second half of the superblock as
                                   it is on disk, with its checksum */
  uint32_t errors;              /* [SUPER] found since open */
  struct super_error first, last; /* [SUPER] if any */
};

/* fs->e2 has been opened. */
extern void super_writer_init (struct filesystem *fs);
extern void super_writer_fini (struct filesystem *fs);

/* The first change to FS is about to become durable: brings fs->e2->super
 * up to date as mounting does.  Locks: FS.
 */
extern void super_begin_changes (struct filesystem *fs);

/* Writes SB (host order) with STATE for s_state, the time, the amount
 * written so far, and the errors noted so far.  Only the primary
 * superblock; without a flush.  Locks: none, or FS.
 */
extern errcode_t super_write (struct filesystem *fs,
                              const struct ext2_super_block *sb,
                              uint16_t state);

/* Every super_write from now on puts on record that FUNC found an error
 * at BLOCK (0: not known) of the device.  Locks: none, or FS.
 */
extern void super_note_error (struct filesystem *fs, const char *func,
                              unsigned line, uint64_t block, errcode_t err);

#endif /* EXT2SERVE_SUPER_WRITE_H */

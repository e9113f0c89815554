/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The healthy filesystems that inputs damage, made by make-images.py, and
 * where in them there is what to damage.
 */

#ifndef FUZZ_BASE_H
#define FUZZ_BASE_H

#include "fs.h"
#include "fuzz-device.h"

enum fuzz_class {
  FUZZ_SUPER,
  FUZZ_DESC,                    /* OWNER: group; the same for bitmaps */
  FUZZ_BLOCK_BITMAP,
  FUZZ_INODE_BITMAP,
  FUZZ_INODE,                   /* OWNER: its number; of those in use */
  FUZZ_TREE,                    /* OWNER: inode; the same below */
  FUZZ_DIR,
  FUZZ_JOURNAL,
  FUZZ_ORPHAN,
  FUZZ_MMP,
  FUZZ_DATA,                    /* some of it */
  FUZZ_FREE,                    /* some free blocks */
  FUZZ_CLASSES
};

struct fuzz_place {
  uint64_t offset;              /* bytes */
  uint32_t len;                 /* bytes */
  uint32_t owner;
  enum fuzz_class class;
};

/* Of each class at most so many. */
#define FUZZ_MOST_PLACES 128

struct fuzz_base {
  uint8_t *mem;
  uint64_t size;                /* bytes */
  struct fuzz_device *dev;      /* for one input after the other */
  struct fuzz_device *healthy;  /* never changed; beneath FS */
  struct filesystem *fs;        /* the healthy one, for reading */
  uint8_t *old;                 /* for fuzz-others.c */
  uint32_t block_size;
  uint64_t blocks;
  struct fuzz_place places[FUZZ_CLASSES][FUZZ_MOST_PLACES];
  unsigned count[FUZZ_CLASSES];
};

extern unsigned fuzz_bases (void);

/* Number N modulo how many there are; loaded when first asked for. */
extern struct fuzz_base *fuzz_base (unsigned n);

/* The number of that name; "03-ext4" for instance. */
extern unsigned fuzz_base_number (const char *name);

/* Place INDEX modulo how many there are; NULL if there is none. */
extern const struct fuzz_place *fuzz_place (const struct fuzz_base *b,
                                            unsigned class, unsigned index);

/* Files in every image; the first ones are regular. */
extern const char *const fuzz_files[];
#define FUZZ_REGULAR 6u
#define FUZZ_FILES 11u

#endif /* FUZZ_BASE_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* An input: a healthy image, what to change in it before it is opened, and
 * what clients do then.
 *
 * It consists of records of 16 bytes, little-endian:
 *
 *   0  kind    1  class   2  index (16)   4  at (32)   8  value (64)
 *
 * The first is the head: image (kind), flags (class), fault (index), its
 * call (at); log2 of the device's size (value), if that is larger.  Kinds
 * not known are skipped.  So every sequence of bytes means something, and
 * one record can be changed without changing the meaning of the others.
 */

#ifndef FUZZ_CASE_H
#define FUZZ_CASE_H

#include <stddef.h>

#include "fuzz-base.h"

/* Flags. */
#define FUZZ_NO_SUMS    1u      /* checksums are left as they are */
#define FUZZ_READONLY   2u      /* is opened for reading only */
#define FUZZ_NO_ZERO    4u      /* the device cannot ... */
#define FUZZ_NO_TRIM    8u
#define FUZZ_NO_FUA     16u
#define FUZZ_NO_FLUSH   32u
#define FUZZ_DIRTY      64u     /* the log is to be replayed */

enum fuzz_kind {
  /* PLACE is CLASS and INDEX, AT bytes into it, modulo its length. */
  FUZZ_SET8 = 1,                /* PLACE = VALUE */
  FUZZ_SET16,
  FUZZ_SET32,
  FUZZ_SET64,
  FUZZ_SET32_BIG,               /* the other endianness: journals */
  FUZZ_ADD32,                   /* PLACE += VALUE */
  FUZZ_POINT,                   /* PLACE = block number of another place
                                   + a signed byte; see fuzz_other */
  FUZZ_COPY,                    /* all of another place to PLACE */
  FUZZ_FILL,                    /* VALUE & 255, VALUE >> 8 bytes */
  FUZZ_EXTENT,                  /* entry AT of a node: logical (32), length
                                   (16), low of physical (16) */
  FUZZ_NAME,                    /* a directory entry at AT: inode (32), its
                                   length (16), name's (8), letter (8) */
  FUZZ_BECOME,                  /* PLACE gets checksums as one of class
                                   VALUE, owner VALUE >> 8 */

  FUZZ_LOG_BLOCK = 32,          /* log PLACE, AT bytes into it ^= VALUE */
  FUZZ_LOG_REVOKE,              /* revoke the block of PLACE */
  FUZZ_LOG_COMMIT,              /* commit, at time AT */
  FUZZ_LOG_START,               /* the log starts at block AT, tid VALUE */

  FUZZ_MEANWHILE = 48,          /* as SET32, while opening waits */

  /* INDEX: file.  AT + (VALUE >> 32 << 32): offset, modulo its size.
   * VALUE & 0xffffff: count.  CLASS: flags, VALUE >> 24 & 255: data.
   */
  FUZZ_READ = 64,
  FUZZ_WRITE,
  FUZZ_ZERO,
  FUZZ_TRIM,
  FUZZ_STATUS,
  FUZZ_CACHE,
  FUZZ_FLUSH,
  FUZZ_CLOSE,                   /* the file */
  FUZZ_REOPEN,                  /* the filesystem */
  FUZZ_LOOKUP,                  /* a path of up to 8 letters in VALUE, for
                                   each of which AT names a replacement */
};

struct fuzz_record {
  uint8_t kind, class;
  uint16_t index;
  uint32_t at;
  uint64_t value;
};

#define FUZZ_RECORD 16u
#define FUZZ_MOST_RECORDS 64u

struct fuzz_case {
  struct fuzz_base *base;
  unsigned flags;
  enum fuzz_fault fault;
  uint64_t fault_at;
  unsigned size_bits;
  struct fuzz_record records[FUZZ_MOST_RECORDS];
  unsigned count;
  unsigned meanwhile;           /* next record to look at for that */
};

extern void fuzz_record_get (const uint8_t *p, struct fuzz_record *r);
extern void fuzz_record_put (uint8_t *p, const struct fuzz_record *r);

/* False if it is too short. */
extern bool fuzz_case_parse (struct fuzz_case *c, const uint8_t *data,
                             size_t size);

/* Makes the base's device what C says. */
extern void fuzz_case_damage (struct fuzz_case *c);

/* Does C change the image before it is opened? */
extern bool fuzz_case_is_healthy (const struct fuzz_case *c);

/* Opens the base's device. */
extern errcode_t fuzz_case_open (struct fuzz_case *c, bool readonly,
                                 struct filesystem **fsp);

/* Once, first thing. */
extern void fuzz_init (void);

/* What a harness is: runs one input; the images, kinds and classes that
 * new inputs are made of.  Each list ends with 255.
 */
struct fuzz_harness {
  const char *name;
  void (*run) (struct fuzz_case *c);
  const uint8_t *bases, *kinds, *classes;
};
extern const struct fuzz_harness fuzz_harness;

extern int LLVMFuzzerInitialize (int *argc, char ***argv);
extern int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

#endif /* FUZZ_CASE_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What clients do: the requests of an input, one after the other. */

#ifndef FUZZ_CLIENT_H
#define FUZZ_CLIENT_H

#include "file.h"
#include "fuzz-case.h"

struct fuzz_client {
  struct fuzz_case *c;
  struct filesystem *fs;        /* NULL: closed */
  struct inode *files[FUZZ_FILES];
  uint32_t changed[FUZZ_FILES]; /* inodes that may have been changed */
};

/* A request, clipped to its file. */
struct fuzz_request {
  unsigned kind;                /* enum fuzz_kind */
  unsigned file;
  unsigned flags;               /* FILE_* */
  uint64_t offset, count;       /* bytes */
  uint8_t data;                 /* what is written */
};

/* Opens the image, as the case says.  CL is zeros before the first call,
 * and keeps what was changed.
 */
extern errcode_t fuzz_client_open (struct fuzz_client *cl,
                                   struct fuzz_case *c);
extern errcode_t fuzz_client_close (struct fuzz_client *cl);

/* File N, opened if it is not; NULL if it cannot be. */
extern struct inode *fuzz_client_file (struct fuzz_client *cl, unsigned n);

/* Makes a request of R in the first WINDOW bytes of a file of SIZE bytes;
 * false if R is none, or nothing would be left of it.
 */
extern bool fuzz_request (const struct fuzz_record *r, uint64_t size,
                          uint64_t window, struct fuzz_request *q);

/* Does it, and waits for what the sync thread does afterwards.  What is
 * read is in BUF, of FUZZ_BUFFER bytes.
 */
#define FUZZ_BUFFER ((size_t) 256 << 10)
extern errcode_t fuzz_do (struct fuzz_client *cl,
                          const struct fuzz_request *q, uint8_t *buf);

/* All records that are requests, on whatever can be opened. */
extern void fuzz_client_run (struct fuzz_client *cl);

/* Reads and asks the status of all there is; the sum of what was read. */
extern uint64_t fuzz_client_read_all (struct fuzz_client *cl);

/* Looks up the path that R names. */
extern errcode_t fuzz_lookup (struct fuzz_client *cl,
                              const struct fuzz_record *r);

/* What one more request, or an opening, may ask of the device. */
extern void fuzz_allow (struct fuzz_case *c, uint64_t count);

#endif /* FUZZ_CLIENT_H */

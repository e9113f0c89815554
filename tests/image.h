/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Filesystem images for the unit tests: made by mke2fs, judged by
 * e2fsck.
 */

#ifndef IMAGE_H
#define IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "file.h"
#include "memdev.h"

/* A file to put into an image. */
struct image_file {
  const char *name;             /* NULL ends the list */
  uint64_t size;                /* bytes */
  bool filled;                  /* with image_content, else one hole */
};

/* First thing in main: exits with 77 if mke2fs and e2fsck are missing,
 * sends the library's log nowhere unless V is set in the environment.
 * After so many seconds the program hangs, and is ended; who wants more
 * says alarm (0).
 */
#define IMAGE_HANG 1200
extern void image_init (void);

/* Error lines that the library has logged so far. */
extern unsigned image_errors (void);

/* For threads: cmocka's assertions are for the main one. */
#define must(cond)                                                      \
  do {                                                                  \
    if (!(cond)) {                                                      \
      fprintf (stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);       \
      abort ();                                                         \
    }                                                                   \
  } while (0)

/* Less of the same under sanitizers: N or a fraction of it. */
extern unsigned image_scale (unsigned n);

/* A test that goes through every case of something does one in so many of
 * them: 5, with a sanitizer 25, 1 with EXT2_THOROUGH in the environment (make
 * check-thorough).
 */
extern unsigned image_stride (void);

/* An image of SIZE bytes made with ARGS (mke2fs's, e.g. "-t ext2 -b
 * 1024") with FILES in the root directory.
 */
extern struct memdev *image_make (const char *args, uint64_t size,
                                  const struct image_file *files);

/* What is in a filled file. */
extern void image_content (const char *name, void *buf, size_t len);

/* e2fsck with OPTIONS; returns its exit code.  Shows what it said if
 * that is more than MOST.
 */
extern int image_fsck (struct memdev *md, const char *options, int most);

/* e2fsck -fn finds nothing. */
extern void image_assert_clean (struct memdev *md);

/* debugfs -w with COMMAND. */
extern void image_debugfs (struct memdev *md, const char *command);

/* debugfs's idea of what is in a file is BUF. */
extern void image_assert_dump (struct memdev *md, const char *name,
                               const void *buf, size_t len);

/* The superblock in place. */
extern struct ext2_super_block *image_super (struct memdev *md);
extern uint64_t image_free_blocks (struct memdev *md);

/* Open, with a cache as small as can be; and the file NAME.  Both fail
 * the test if they fail.
 */
extern struct filesystem *image_open (struct memdev *md);
extern struct inode *image_iget (struct filesystem *fs, const char *name);

/* Put back and close, without an error. */
extern void image_close (struct filesystem *fs, struct inode *inode);

/* What the file is expected to be. */
struct shadow {
  uint8_t *data;
  uint64_t size;
};

/* file_* and the same on the shadow. */
extern void shadow_init (struct shadow *s, uint64_t size);
extern void shadow_free (struct shadow *s);
extern void shadow_trim (const struct filesystem *fs, struct shadow *s,
                         uint64_t count, uint64_t offset);

/* All of INODE equals the shadow, read in pieces of up to 1 MiB. */
extern void shadow_assert_same (const struct shadow *s, struct inode *inode);

/* Like assert_int_equal (err, 0), but says what ERR is. */
#define assert_ok(call) image_assert_ok ((call), #call, __FILE__, __LINE__)
extern void image_assert_ok (errcode_t err, const char *call,
                             const char *file, int line);

#endif /* IMAGE_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Keeping other servers on this machine off a filesystem that is being
 * written.  Advisory: only servers like this one look.
 *
 * In a directory is a file for each filesystem that is being written,
 * UUID.lock.  Who writes holds a lock of the kernel on it (fcntl, of the
 * open file description), which ends with the process however that ends.
 *
 * The file is an array of records.  A server that knows the file which its
 * image is holds the record that device and inode number hash to; one that
 * does not, holds all.  So copies of an image, which share their UUID, are
 * told apart where they can be, and where they cannot they are taken for
 * one.  Block devices cannot: one disk may have several of them.  A record
 * says who holds it: for messages only.
 *
 * Whose directory.  Each user has one of its own that nobody else can write
 * to: a common one would let everybody keep everybody from serving.  So
 * that users keep each other off, each looks also into those of root and
 * of the image's owner, who could destroy the image anyway, after taking
 * its own lock: of two servers that do so at once, one sees the other's,
 * or both do.
 *
 * What this cannot do: other machines, other mount namespaces with a
 * directory of their own, users who are neither root nor the owner, one
 * disk under the names of two files.  Where it matters there is mmp.h.
 */

#ifndef EXT2SERVE_HOSTLOCK_H
#define EXT2SERVE_HOSTLOCK_H

#include <stdint.h>

#include <et/com_err.h>

struct hostlock;

struct hostlock_request {
  uint8_t uuid[16];             /* of the filesystem */
  const char *image;            /* the file that it is in; NULL: unknown */
  const char *who;              /* the server, in messages of others */
  const char *dir;              /* NULL: the directories described above */
  const char *root;             /* before their names; "" but in tests */
};

/* Takes the lock for writing.  0: *LP is held; or it is NULL and a warning
 * was logged, because the user's directory could not be used.  EBUSY, and
 * a line that names the holder: somebody else writes.  Other errors only
 * with R->dir, also logged.
 */
extern errcode_t hostlock_take (const struct hostlock_request *r,
                                struct hostlock **lp);

/* L may be NULL. */
extern void hostlock_release (struct hostlock *l);

/* For who only reads: logs a warning if somebody writes. */
extern void hostlock_warn_reader (const struct hostlock_request *r);

#endif /* EXT2SERVE_HOSTLOCK_H */

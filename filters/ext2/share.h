/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The one filesystem that all connections share, and its life.
 *
 *            share_get [nobody has it]
 *    CLOSED ---------------------------> OPENING
 *      ^  ^                                |  |
 *      |  +--------------------------------+  | opened
 *      |                 failed               v
 *    CLOSING <------------------------------ READY  <-> share_get, share_put
 *             share_put [the last one]
 *
 * A connection that comes while the filesystem is OPENING or CLOSING
 * waits and then finds it READY or CLOSED.
 */

#ifndef EXT2_SHARE_H
#define EXT2_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nbdkit-filter.h>

#include "inode.h"

struct share_config {
  int thread_model;             /* the server's final one */
  size_t cache_size;            /* bytes */
  bool reserve;                 /* storage for the journal */
  unsigned commit_seconds;      /* 0: only when asked to */

  /* Against other servers on this machine: see hostlock.h. */
  bool lock;                    /* look for them at all */
  bool private;                 /* what is written here, no other sees */
  const char *lock_dir;         /* or NULL */
  const char *image;            /* the file that the image is, or NULL */
};

/* One connection's hold on the filesystem and its file.
 *
 * A connection that nbdkit accepted at the last moment is not waited for
 * when the server ends: it may be anywhere in its handshake while
 * share_shutdown detaches it, or after that.  So whatever a handshake asks
 * is kept here, as it was when CL was attached.  Requests are another
 * matter: all connections that make some have ended before share_shutdown
 * is called, because the others find the server ending before they read
 * their first.  Only they may use fs and inode.
 */
struct client {
  struct filesystem *fs;
  struct inode *inode;

  bool readonly;                /* this connection may not write */
  uint64_t size;                /* of the file, bytes */
  uint32_t block_size;          /* of the filesystem, bytes */
  bool rotational;              /* the device is */
  bool can_cache;               /* the device does */
  char *description;            /* of the export; the owner of CL frees it */

  struct client *next;          /* [REGISTRY] */
  bool attached;                /* [REGISTRY] */
};

/* Once, before connections come. */
extern void share_configure (const struct share_config *config);

/* Attaches CL (zeroed by the caller) to file PATH, opening the
 * filesystem over BACKEND if nobody has.  Logs and returns -1 on
 * failure.  Once it has returned, share_shutdown may detach CL at any
 * moment.
 */
extern int share_get (struct client *cl, nbdkit_backend *backend,
                      bool readonly, const char *path);

/* Detaches CL; the last one syncs and closes the filesystem.  Does
 * nothing if CL is detached already.  -1: something could not be
 * written (logged).
 */
extern int share_put (struct client *cl);

/* The server ends: detaches all who are left, and refuses new ones. */
extern int share_shutdown (void);

#endif /* EXT2_SHARE_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The one filesystem that all connections share, and its life. */

#include <config.h>

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "errors.h"
#include "fs.h"
#include "hostlock.h"
#include "locks.h"
#include "nextdev.h"
#include "path.h"
#include "share.h"
#include "super.h"

enum state { CLOSED, OPENING, READY, CLOSING };

/* Opening and closing do I/O and take time, so they happen without the
 * lock, in states of their own; only one thread can be in them.
 */
static struct lock registry = LOCK_INITIALIZER (LOCK_REGISTRY);
static pthread_cond_t changed           /* state or stopping has changed */
  = PTHREAD_COND_INITIALIZER;
static enum state state;                /* [REGISTRY] */
static bool stopping;                   /* [REGISTRY] the server ends */
static size_t users;                    /* [REGISTRY] clients attached or
                                           about to be */
static struct client *clients;          /* [REGISTRY] attached */
static struct device *dev;              /* [OPENING, CLOSING: the thread
                                           doing it; READY: constant] */
static struct filesystem *fs;           /* [as dev] */
static bool flush_failed;               /* [OPENING, CLOSING: as dev] once,
                                           of this server: see
                                           close_filesystem */
static struct hostlock *hostlock;       /* [as dev] */
static struct share_config config;      /* [constant] */

void
share_configure (const struct share_config *c)
{
  config = *c;
}

static void
set_state (enum state s)
{
  lock_assert_held (LOCK_REGISTRY);
  state = s;
  pthread_cond_broadcast (&changed);
}

/* False when the server is told to end, or the client that caused the
 * opening hangs up: another one starts it again.
 */
static bool
wait_awhile (unsigned milliseconds)
{
  return nbdkit_nanosleep (milliseconds / 1000,
                           milliseconds % 1000 * 1000000) == 0;
}

/* Before anything is written.  A filesystem with mmp has a protection of
 * its own, which reaches further.
 */
static errcode_t
keep_others_off (bool readonly)
{
  struct hostlock_request r = {
    .image = config.image, .dir = config.lock_dir, .root = "",
  };
  char who[256];
  bool mmp;

  /* What is wrong with it, filesystem_open will say. */
  if (!config.lock || super_identify (dev, r.uuid, &mmp) != 0)
    return 0;
  if (readonly || !dev->writable || config.private) {
    hostlock_warn_reader (&r);
    return 0;
  }
  if (mmp)
    return 0;
  snprintf (who, sizeof who, "nbdkit%s%s", r.image ? ", " : "",
            r.image ? r.image : "");
  r.who = who;
  return hostlock_take (&r, &hostlock);
}

static void
let_others_in (void)
{
  hostlock_release (hostlock);
  hostlock = NULL;
}

/* In state OPENING, without the lock. */
static bool
open_filesystem (nbdkit_backend *backend, bool readonly)
{
  const struct filesystem_options opts = {
    .readonly = readonly,
    .cache_size = config.cache_size,
    .reserve = config.reserve,
    .commit_ms = config.commit_seconds * 1000,
    .wait = wait_awhile,
  };

  dev = nextdev_open (backend, readonly, config.thread_model);
  if (dev == NULL)
    return false;
  if (flush_failed) {
    device_set_flush_failed (dev);
    log_warning ("flushes fail, because one has failed since the server was "
                 "started, and what was lost is not known; restart it when "
                 "the device is well");
  }
  if (keep_others_off (readonly) != 0 ||
      filesystem_open (dev, &opts, &fs) != 0) {
    nextdev_close (dev);
    dev = NULL;
    let_others_in ();
    return false;
  }
  if (!fs->writable)            /* for a reason of its own */
    let_others_in ();
  return true;
}

/* In state CLOSING, without the lock. */
static int
close_filesystem (void)
{
  char why[128];
  errcode_t err = filesystem_close (fs);

  /* For the rest of the server's life: who comes back must not be told that
   * what it wrote before is durable.
   */
  flush_failed = device_flush_failed (dev);
  fs = NULL;
  nextdev_close (dev);
  dev = NULL;
  let_others_in ();
  if (err) {
    log_error ("the filesystem could not be closed cleanly: %s: run e2fsck",
               errcode_text (err, why, sizeof why));
    return -1;
  }
  return 0;
}

/* Returns with a use of the READY filesystem, or false. */
static bool
use_filesystem (nbdkit_backend *backend, bool readonly)
{
  bool ok;

  lock_acquire (&registry);
  while (!stopping && (state == OPENING || state == CLOSING))
    lock_wait (&changed, &registry);
  if (stopping) {
    lock_release (&registry);
    log_error ("the server is shutting down");
    return false;
  }
  if (state == READY) {
    users++;
    lock_release (&registry);
    return true;
  }
  set_state (OPENING);
  lock_release (&registry);

  ok = open_filesystem (backend, readonly);

  lock_acquire (&registry);
  users = ok ? 1 : 0;
  set_state (ok ? READY : CLOSED);
  lock_release (&registry);
  return ok;
}

/* Give up a use. */
static int
unuse_filesystem (void)
{
  int r;

  lock_acquire (&registry);
  assert (state == READY && users > 0);
  if (--users > 0) {
    lock_release (&registry);
    return 0;
  }
  set_state (CLOSING);
  lock_release (&registry);

  r = close_filesystem ();

  lock_acquire (&registry);
  set_state (CLOSED);
  lock_release (&registry);
  return r;
}

static int
find_file (struct client *cl, const char *path)
{
  ext2_ino_t ino;

  if (path_resolve (fs, path, &ino) != 0 ||
      iget (fs, ino, path, &cl->inode) != 0)
    return -1;
  return 0;
}

/* Clients print it, and parts of it come from elsewhere. */
static char *
describe (const char *path)
{
  const char *base = nextdev_description (dev);
  char name[1024], text[1024], *line;

  if (asprintf (&line, "%s inside an ext2/3/4 image%s%s",
                log_escape (name, sizeof name, path), base ? ": " : "",
                base ? log_escape (text, sizeof text, base) : "") == -1)
    return NULL;
  return line;
}

/* What will be asked of CL for as long as it lives. */
static int
note_facts (struct client *cl, bool readonly, const char *path)
{
  cl->fs = fs;
  cl->readonly = readonly || !cl->inode->writable;
  cl->size = cl->inode->size;
  cl->block_size = fs->block_size;
  cl->rotational = nextdev_is_rotational (dev);
  cl->can_cache = dev->can_cache;
  cl->description = describe (path);
  if (cl->description)
    return 0;
  log_error ("%s: no memory for a connection", path);
  return -1;
}

int
share_get (struct client *cl, nbdkit_backend *backend, bool readonly,
           const char *path)
{
  bool late;

  if (!use_filesystem (backend, readonly))
    return -1;
  if (find_file (cl, path) == -1) {
    unuse_filesystem ();
    return -1;
  }
  if (note_facts (cl, readonly, path) == -1) {
    iput (cl->inode);
    unuse_filesystem ();
    return -1;
  }

  lock_acquire (&registry);
  late = stopping;              /* share_shutdown has gone by already */
  if (!late) {
    cl->attached = true;
    cl->next = clients;
    clients = cl;
  }
  lock_release (&registry);
  if (late) {
    iput (cl->inode);
    unuse_filesystem ();
    log_error ("the server is shutting down");
    return -1;
  }
  return 0;
}

/* Take CL off the list; false if it was not on it. */
static bool
detach_locked (struct client *cl)
{
  struct client **p;

  lock_assert_held (LOCK_REGISTRY);
  if (!cl->attached)
    return false;
  for (p = &clients; *p != cl; p = &(*p)->next)
    ;
  *p = cl->next;
  cl->attached = false;
  return true;
}

int
share_put (struct client *cl)
{
  bool was;

  lock_acquire (&registry);
  was = detach_locked (cl);
  lock_release (&registry);
  if (!was)
    return 0;
  iput (cl->inode);
  return unuse_filesystem ();
}

int
share_shutdown (void)
{
  int r = 0;

  lock_acquire (&registry);
  stopping = true;
  pthread_cond_broadcast (&changed);
  while (clients || state != CLOSED) {
    struct client *cl = clients;
    struct inode *inode;

    if (cl == NULL) {
      /* Somebody is opening or closing right now: let them finish. */
      lock_wait (&changed, &registry);
      continue;
    }
    /* Once detached, CL may be freed by its connection's thread. */
    inode = cl->inode;
    detach_locked (cl);
    lock_release (&registry);
    iput (inode);
    if (unuse_filesystem () == -1)
      r = -1;
    lock_acquire (&registry);
  }
  lock_release (&registry);
  return r;
}

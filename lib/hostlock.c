/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Keeping other servers on this machine off a filesystem.
 *
 * The lock on a known image's record is on its RECORD bytes, that on all of
 * them on the whole file from byte 0.  Who is about to remove the file, and
 * held a record, locks it from byte 1: so it is not taken for a holder.
 *
 * Invariants:
 *
 * 1. Whoever holds a lock on a file holds it on the one that the name
 *    leads to: it is taken first, then the name looked up again.
 * 2. A file is removed only by a holder of all its records.
 *
 * Nothing in a directory is trusted but its owner's files: a name is
 * opened without following links, without waiting for a pipe's other end,
 * and is used only if it is a plain file under this one name.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "errors.h"
#include "hostlock.h"

/* Bytes; records 1 to RECORDS - 1 are for known images, 0 is for who
 * holds them all.
 */
#define RECORD 256
#define RECORDS (UINT64_C (1) << 20)

/* So often, and so long, a file may be just being removed, or its holder
 * not have said yet who it is.
 */
#define TRIES 100
static const struct timespec pause_between = { .tv_nsec = 1000000 };

#ifndef F_OFD_SETLK
/* Of the process instead.  As good for a server, which has at most one
 * descriptor of a lock's file at a time.
 */
#define F_OFD_SETLK F_SETLK
#define F_OFD_GETLK F_GETLK
#endif

struct hostlock {
  int dir;
  int fd;
  off_t record;                 /* where ours is, bytes */
  char name[48];                /* in DIR */
  char path[256];               /* of DIR, for comparing and messages */
};

/* What a request comes down to. */
struct target {
  char name[48];                /* of the lock's file */
  off_t start, len;             /* of the range to lock, bytes; 0: no end */
  bool known;                   /* which file the image is */
  uid_t owner;                  /* of it */
};

static uint64_t
record_of (const struct stat *st)
{
  uint64_t x = (uint64_t) st->st_ino * UINT64_C (0x9e3779b97f4a7c15);

  x ^= (uint64_t) st->st_dev + (x >> 29);
  x *= UINT64_C (0xbf58476d1ce4e5b9);
  x ^= x >> 32;
  return 1 + x % (RECORDS - 1);
}

static void
find_target (const struct hostlock_request *r, struct target *t)
{
  const uint8_t *u = r->uuid;
  struct stat st;

  memset (t, 0, sizeof *t);
  snprintf (t->name, sizeof t->name,
            "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
            "%02x%02x%02x%02x%02x%02x.lock",
            u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9],
            u[10], u[11], u[12], u[13], u[14], u[15]);
  if (r->image && stat (r->image, &st) == 0 && S_ISREG (st.st_mode)) {
    t->known = true;
    t->owner = st.st_uid;
    t->start = (off_t) (record_of (&st) * RECORD);
    t->len = RECORD;
  }
}

/* Directories. */

/* Directory I of a user, in the order of preference; false if there is
 * none.  Not the one that XDG_RUNTIME_DIR names: it goes away when its user logs
 * out, and a server stays.
 */
static bool
place (const struct hostlock_request *r, uid_t uid, unsigned i, char *path,
       size_t size)
{
  const unsigned long id = uid;

  if (uid == 0 && i == 0)
    snprintf (path, size, "%s/run/nbdkit-ext2", r->root);
  else if (uid != 0 && i == 0)
    snprintf (path, size, "%s/run/lock/nbdkit-ext2-%lu", r->root, id);
  else if (uid != 0 && i == 1)
    snprintf (path, size, "%s/tmp/nbdkit-ext2-%lu", r->root, id);
  else
    return false;
  return true;
}

/* One that only UID, or root, can have put anything into; or -1 and errno. */
static int
open_private (const char *path, uid_t uid)
{
  int fd = open (path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct stat st;

  if (fd == -1)
    return -1;
  if (fstat (fd, &st) == 0 && st.st_uid == uid &&
      (st.st_mode & (S_IWGRP | S_IWOTH)) == 0)
    return fd;
  close (fd);
  errno = EPERM;
  return -1;
}

static int
open_own (const struct hostlock_request *r, char *path, size_t size)
{
  const uid_t uid = geteuid ();
  unsigned i;
  int fd, e = 0;

  for (i = 0; place (r, uid, i, path, size); i++) {
    fd = mkdir (path, 0755) == 0 || errno == EEXIST
      ? open_private (path, uid) : -1;
    if (fd >= 0)
      return fd;
    e = errno;
  }
  errno = e;
  return -1;
}

/* Files. */

static int
set_lock (int fd, int cmd, off_t start, off_t len, struct flock *fl)
{
  *fl = (struct flock) {
    .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len,
  };
  return fcntl (fd, cmd, fl);
}

enum held { FREE, HELD, UNSURE };

/* Does somebody hold a lock on what T needs?  UNSURE: it has not said who
 * it is, or is removing the file.
 */
static enum held
is_held (int fd, const struct target *t, char *holder, size_t size)
{
  char record[RECORD + 1] = "";
  struct flock fl;
  ssize_t n;

  if (set_lock (fd, F_OFD_GETLK, t->start, t->len, &fl) == -1 ||
      fl.l_type == F_UNLCK)
    return FREE;
  snprintf (holder, size, "another server");
  if (fl.l_start == 1)
    return UNSURE;
  n = pread (fd, record, RECORD, fl.l_start);
  record[n > 0 ? n : 0] = '\0';
  record[strcspn (record, "\n")] = '\0';
  if (record[0] == '\0')
    return UNSURE;
  snprintf (holder, size, "%s", record);
  return HELD;
}

static bool
is_plain (int fd, struct stat *st)
{
  return fstat (fd, st) == 0 && S_ISREG (st->st_mode) && st->st_nlink <= 1;
}

#define OPEN_FLAGS (O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

/* Who can make files in a directory can lock those that others made. */
static int
create (int dir, const char *name)
{
  struct stat st;
  int fd = openat (dir, name, O_RDWR | O_CREAT | O_EXCL | OPEN_FLAGS, 0600);

  if (fd >= 0 && fstat (dir, &st) == 0)
    (void) !fchmod (fd, st.st_mode & 0666);
  return fd;
}

/* 0, with the file open and the range locked; EBUSY and the holder; EAGAIN
 * if that may not be so, or the file was another one meanwhile.
 */
static errcode_t
try_lock (int dir, const struct target *t, int *fdp, char *holder,
          size_t size)
{
  struct stat mine, named;
  struct flock fl;
  errcode_t err;
  int fd = openat (dir, t->name, O_RDWR | OPEN_FLAGS);

  if (fd == -1 && errno == ENOENT)
    fd = create (dir, t->name);
  if (fd == -1)
    return errno == EEXIST ? EAGAIN : errno;
  if (!is_plain (fd, &mine)) {
    err = EPERM;
    goto out;
  }
  if (set_lock (fd, F_OFD_SETLK, t->start, t->len, &fl) == -1) {
    err = errno;
    if (err == EACCES || err == EAGAIN)
      err = is_held (fd, t, holder, size) == HELD ? EBUSY : EAGAIN;
    goto out;
  }
  err = EAGAIN;
  if (fstatat (dir, t->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
      named.st_dev == mine.st_dev && named.st_ino == mine.st_ino) {
    *fdp = fd;
    return 0;
  }

 out:
  close (fd);
  return err;
}

static errcode_t
lock_in (int dir, const struct target *t, int *fdp, char *holder,
         size_t size)
{
  errcode_t err = EAGAIN;
  unsigned i;

  holder[0] = '\0';
  for (i = 0; i < TRIES && err == EAGAIN; i++) {
    if (i > 0)
      nanosleep (&pause_between, NULL);
    err = try_lock (dir, t, fdp, holder, size);
  }
  return err == EAGAIN && holder[0] ? EBUSY : err;
}

/* Other users' files. */

static bool
is_held_in (const char *path, uid_t uid, const struct target *t,
            char *holder, size_t size)
{
  int dir = open_private (path, uid);
  struct stat st;
  bool held = false;
  int fd;

  if (dir == -1)
    return false;
  fd = openat (dir, t->name, O_RDONLY | OPEN_FLAGS);
  if (fd >= 0) {
    held = is_plain (fd, &st) && is_held (fd, t, holder, size) != FREE;
    close (fd);
  }
  close (dir);
  return held;
}

/* In all directories of root, the image's owner and this user, but OWN. */
static bool
is_held_elsewhere (const struct hostlock_request *r, const struct target *t,
                   const char *own, char *holder, size_t size)
{
  const uid_t uid[] = { geteuid (), 0, t->known ? t->owner : 0 };
  char path[256];
  unsigned i, k;

  for (i = 0; i < 3; i++)
    for (k = 0; place (r, uid[i], k, path, sizeof path); k++)
      if (strcmp (path, own) != 0 &&
          is_held_in (path, uid[i], t, holder, size))
        return true;
  return false;
}

/* The whole. */

static errcode_t
busy (const struct hostlock_request *r, const struct target *t,
      const char *holder)
{
  const int uuid = (int) strcspn (t->name, ".");

  if (t->known)
    log_error ("%s is being written by %s on this machine: end that server, "
               "or serve it read-only with -r", r->image, holder);
  else
    log_error ("the filesystem %.*s is being written by %s on this machine: "
               "end that server, or serve it read-only with -r; if this is "
               "a copy of what that one serves, run e2fsck -f and tune2fs -U "
               "random on it, or name it another ext2lock=DIR",
               uuid, t->name, holder);
  return EBUSY;
}

static errcode_t
no_directory (const struct hostlock_request *r, const char *path,
              errcode_t err)
{
  char why[128];

  errcode_text (err, why, sizeof why);
  if (r->dir) {
    log_error ("ext2lock=%s: %s: name a directory where files can be made "
               "and locked, or use ext2lock=off", path, why);
    return err;
  }
  log_warning ("nothing keeps a second server on this machine from writing "
               "to the same filesystem: %s: %s: ext2lock=DIR names another "
               "directory for the lock", path, why);
  return 0;
}

/* For messages, so no failure matters. */
static void
write_record (const struct hostlock *l, const char *who)
{
  char record[RECORD] = "";

  snprintf (record, sizeof record, "pid %ld (%s)", (long) getpid (), who);
  (void) !pwrite (l->fd, record, sizeof record, l->record);
}

errcode_t
hostlock_take (const struct hostlock_request *r, struct hostlock **lp)
{
  struct hostlock *l = calloc (1, sizeof *l);
  char holder[RECORD + 1];
  struct target t;
  errcode_t err;

  *lp = NULL;
  if (l == NULL) {
    log_error ("no memory for the lock against other servers");
    return ENOMEM;
  }
  l->fd = -1;
  find_target (r, &t);
  l->record = t.start;
  memcpy (l->name, t.name, sizeof l->name);
  if (r->dir) {
    snprintf (l->path, sizeof l->path, "%s", r->dir);
    l->dir = open (r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  else
    l->dir = open_own (r, l->path, sizeof l->path);
  err = l->dir == -1 ? errno
    : lock_in (l->dir, &t, &l->fd, holder, sizeof holder);
  if (err == 0 && r->dir == NULL &&
      is_held_elsewhere (r, &t, l->path, holder, sizeof holder))
    err = EBUSY;
  if (err) {
    err = err == EBUSY ? busy (r, &t, holder)
      : no_directory (r, l->path, err);
    hostlock_release (l);
    return err;
  }
  /* Who cleans up /tmp leaves a directory with this lock alone. */
  (void) !flock (l->dir, LOCK_SH | LOCK_NB);
  write_record (l, r->who);
  *lp = l;
  return 0;
}

/* The file goes if nobody else has a part of it (inv 2). */
static void
remove_file (const struct hostlock *l)
{
  static const char nobody[RECORD];
  struct stat mine, named;
  struct flock fl;

  (void) !pwrite (l->fd, nobody, sizeof nobody, l->record);
  if (set_lock (l->fd, F_OFD_SETLK, l->record ? 1 : 0, 0, &fl) == 0 &&
      fstat (l->fd, &mine) == 0 &&
      fstatat (l->dir, l->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
      named.st_dev == mine.st_dev && named.st_ino == mine.st_ino)
    unlinkat (l->dir, l->name, 0);
}

void
hostlock_release (struct hostlock *l)
{
  if (l == NULL)
    return;
  if (l->fd >= 0) {
    remove_file (l);
    close (l->fd);
  }
  if (l->dir >= 0)
    close (l->dir);
  free (l);
}

void
hostlock_warn_reader (const struct hostlock_request *r)
{
  char holder[RECORD + 1];
  struct target t;
  struct stat st;
  bool held = false;
  int dir, fd;

  find_target (r, &t);
  if (r->dir == NULL)
    held = is_held_elsewhere (r, &t, "", holder, sizeof holder);
  else if ((dir = open (r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0) {
    fd = openat (dir, t.name, O_RDONLY | OPEN_FLAGS);
    if (fd >= 0) {
      held = is_plain (fd, &st) &&
        is_held (fd, &t, holder, sizeof holder) != FREE;
      close (fd);
    }
    close (dir);
  }
  if (held)
    log_warning ("the filesystem is being written by %s on this machine: "
                 "what is read here may be old, or wrong", holder);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* An nbdkit plugin for the crash tests: serves file=IMAGE and writes into
 * log=FILE what it is asked to change, when, and when it answered; see
 * crash-log.h.  Nothing is made durable: power is cut on paper only.
 *
 * A call's record is written when it has ended, in one write.  What a
 * killed server was still at is missing, but then IMAGE itself shows what
 * happened.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "crash-log.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* What a trimmed range reads as: see MEMDEV_TRIMMED. */
#define TRIMMED 0xdd

static char *file, *logfile;
static int fd = -1, logfd = -1;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void
crash_unload (void)
{
  if (fd != -1)
    close (fd);
  if (logfd != -1)
    close (logfd);
  free (file);
  free (logfile);
}

static int
crash_config (const char *key, const char *value)
{
  char **to = strcmp (key, "file") == 0 ? &file
    : strcmp (key, "log") == 0 ? &logfile : NULL;

  if (to == NULL) {
    nbdkit_error ("unknown parameter '%s'", key);
    return -1;
  }
  free (*to);
  *to = nbdkit_absolute_path (value);
  return *to ? 0 : -1;
}

static int
crash_config_complete (void)
{
  if (file && logfile)
    return 0;
  nbdkit_error ("file=IMAGE and log=FILE are needed");
  return -1;
}

static int
crash_get_ready (void)
{
  fd = open (file, O_RDWR | O_CLOEXEC);
  logfd = open (logfile, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
                0644);
  if (fd != -1 && logfd != -1)
    return 0;
  nbdkit_error ("%s: %m", fd == -1 ? file : logfile);
  return -1;
}

static void *
crash_open (int readonly)
{
  (void) readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
crash_get_size (void *handle)
{
  struct stat st;

  (void) handle;
  return fstat (fd, &st) == 0 ? st.st_size : -1;
}

static int
yes (void *handle)
{
  (void) handle;
  return 1;
}

static int
native_fua (void *handle)
{
  (void) handle;
  return NBDKIT_FUA_NATIVE;
}

/* R has been carried out. */
static int
add_to_log (struct crash_record *r, const void *data)
{
  struct iovec iov[2] = {
    { r, sizeof *r }, { (void *) (uintptr_t) data, data ? r->count : 0 },
  };
  ssize_t n;

  r->end = crash_clock ();
  pthread_mutex_lock (&log_lock);
  n = writev (logfd, iov, 2);
  pthread_mutex_unlock (&log_lock);
  if (n == (ssize_t) (iov[0].iov_len + iov[1].iov_len))
    return 0;
  nbdkit_error ("%s: %m", logfile);
  return -1;
}

static struct crash_record
begin (enum crash_kind kind, uint32_t count, uint64_t offset, uint32_t flags)
{
  return (struct crash_record) {
    .kind = kind, .flags = flags & NBDKIT_FLAG_FUA ? CRASH_FUA : 0,
    .offset = offset, .count = count, .begin = crash_clock (),
  };
}

static int
fail (const char *what)
{
  nbdkit_error ("%s: %m", what);
  return -1;
}

static int
crash_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
             uint32_t flags)
{
  (void) handle;
  (void) flags;
  return pread (fd, buf, count, offset) == (ssize_t) count ? 0
    : fail ("pread");
}

static int
crash_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  struct crash_record r = begin (CRASH_DEV_WRITE, count, offset, flags);

  (void) handle;
  if (pwrite (fd, buf, count, offset) != (ssize_t) count)
    return fail ("pwrite");
  return add_to_log (&r, buf);
}

static int
set (uint8_t with, uint32_t count, uint64_t offset)
{
  uint8_t *buf = malloc (count);
  int ret = -1;

  if (buf) {
    memset (buf, with, count);
    if (pwrite (fd, buf, count, offset) == (ssize_t) count)
      ret = 0;
  }
  free (buf);
  return ret ? fail ("pwrite") : 0;
}

static int
crash_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct crash_record r = begin (CRASH_DEV_ZERO, count, offset, flags);

  (void) handle;
  return set (0, count, offset) ? -1 : add_to_log (&r, NULL);
}

static int
crash_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  struct crash_record r = begin (CRASH_DEV_TRIM, count, offset, flags);

  (void) handle;
  return set (TRIMMED, count, offset) ? -1 : add_to_log (&r, NULL);
}

static int
crash_flush (void *handle, uint32_t flags)
{
  struct crash_record r = begin (CRASH_DEV_FLUSH, 0, 0, flags);

  (void) handle;
  return add_to_log (&r, NULL);
}

static struct nbdkit_plugin plugin = {
  .name = "crash",
  .longname = "log of writes for crash tests",
  .unload = crash_unload,
  .config = crash_config,
  .config_complete = crash_config_complete,
  .config_help = "file=IMAGE  What to serve.\nlog=FILE    The log.",
  .get_ready = crash_get_ready,
  .open = crash_open,
  .get_size = crash_get_size,
  .can_write = yes,
  .can_flush = yes,
  .can_trim = yes,
  .can_zero = yes,
  .can_fast_zero = yes,
  .can_fua = native_fua,
  .can_multi_conn = yes,
  .pread = crash_pread,
  .pwrite = crash_pwrite,
  .zero = crash_zero,
  .trim = crash_trim,
  .flush = crash_flush,
  .errno_is_preserved = 1,
};

NBDKIT_DLL_PUBLIC extern struct nbdkit_plugin *plugin_init (void);
NBDKIT_REGISTER_PLUGIN (plugin)

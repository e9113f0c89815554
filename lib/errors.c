/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Errors and log lines. */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <ext2fs/ext2fs.h>

#include "errors.h"

static log_handler *handler;    /* [constant after errors_init] */

/* error_message () returns a static buffer for unknown codes. */
static pthread_mutex_t message_lock = PTHREAD_MUTEX_INITIALIZER;

static void
log_to_stderr (enum log_level level, const char *line)
{
  static const char *const prefix[] = { "error", "warning", "debug" };

  if (level != LOG_LEVEL_DEBUG)
    fprintf (stderr, "ext2: %s: %s\n", prefix[level], line);
}

/* How C looks in a line; the length. */
static size_t
printable (unsigned char c, char form[5])
{
  if (c >= ' ' && c <= '~' && c != '\\') {
    form[0] = (char) c;
    return 1;
  }
  if (c == '\\') {
    memcpy (form, "\\\\", 2);
    return 2;
  }
  return (size_t) snprintf (form, 5, "\\x%02x", c);
}

const char *
log_escape (char *out, size_t size, const char *text)
{
  static const char cut[] = "...";
  size_t used = 0;
  size_t fits = 0;              /* of OUT, when CUT must follow */
  char form[5];

  for (; *text; text++) {
    size_t n = printable ((unsigned char) *text, form);

    if (used + n >= size) {
      memcpy (out + fits, cut, sizeof cut);
      return out;
    }
    memcpy (out + used, form, n);
    used += n;
    if (used + sizeof cut <= size)
      fits = used;
  }
  out[used] = '\0';
  return out;
}

/* Longer lines are cut.  Bytes. */
#define LINE 2048

/* The one way of all lines: names from clients and images are in them,
 * and none may look like a line of its own, or like a command to the
 * terminal.
 */
static void __attribute__ ((__format__ (__printf__, 2, 0)))
vlog (enum log_level level, const char *fmt, va_list ap)
{
  char text[LINE + 1];          /* one more: log_escape sees the cut */
  char line[LINE];

  vsnprintf (text, sizeof text, fmt, ap);
  (handler ? handler : log_to_stderr) (level,
                                       log_escape (line, sizeof line, text));
}

#define DEFINE_LOG(name, level)                 \
  void                                          \
  name (const char *fmt, ...)                   \
  {                                             \
    va_list ap;                                 \
                                                \
    va_start (ap, fmt);                         \
    vlog (level, fmt, ap);                      \
    va_end (ap);                                \
  }

DEFINE_LOG (log_error, LOG_LEVEL_ERROR)
DEFINE_LOG (log_warning, LOG_LEVEL_WARNING)
DEFINE_LOG (log_debug, LOG_LEVEL_DEBUG)

/* libext2fs prints through com_err in a few places; a server's stderr
 * is not the place for that.
 */
static void __attribute__ ((__format__ (__printf__, 3, 0)))
com_err_to_log (const char *whoami, errcode_t err, const char *fmt,
                va_list ap)
{
  char text[512];
  char why[128];

  vsnprintf (text, sizeof text, fmt, ap);
  log_error ("%s: %s: %s", whoami ? whoami : "libext2fs", text,
             errcode_text (err, why, sizeof why));
}

void
errors_init (log_handler *h)
{
  handler = h;
  add_error_table (&et_ext2_error_table);
  set_com_err_hook (com_err_to_log);
}

void
errors_fini (void)
{
  reset_com_err_hook ();
  remove_error_table (&et_ext2_error_table);
}

int
errcode_to_errno (errcode_t err)
{
  switch (err) {
  case 0:
    return 0;
  case EXT2_ET_NO_MEMORY:
    return ENOMEM;
  case EXT2_ET_BLOCK_ALLOC_FAIL:
  case EXT2_ET_INLINE_DATA_NO_SPACE:
    return ENOSPC;
  case EXT2_ET_RO_FILSYS:
  case EXT2_ET_FILE_RO:
    return EROFS;
  case EXT2_ET_FILE_NOT_FOUND:
    return ENOENT;
  case EXT2_ET_FILE_TOO_BIG:
    return EFBIG;
  case EXT2_ET_OP_NOT_SUPPORTED:
    /* A missing feature of the library is not the client's ENOTSUP,
     * which has a meaning of its own for zero requests.
     */
    return EIO;
  default:
    /* com_err tables start far above any errno. */
    if (err > 0 && err < 4096)
      return (int) err;
    return EIO;
  }
}

/* There are two of strerror_r: one returns the text, which need not be in
 * TMP, the other, of POSIX, an error number.
 */
static const char *
system_error (int err, char *tmp, size_t len)
{
#ifdef STRERROR_R_CHAR_P
  return strerror_r (err, tmp, len);
#else
  if (strerror_r (err, tmp, len) != 0)
    snprintf (tmp, len, "error %d", err);
  return tmp;
#endif
}

const char *
errcode_text (errcode_t err, char *buf, size_t len)
{
  if (err > 0 && err < 4096) {
    char tmp[128];

    snprintf (buf, len, "%s", system_error ((int) err, tmp, sizeof tmp));
    return buf;
  }
  pthread_mutex_lock (&message_lock);
  snprintf (buf, len, "%s", error_message (err));
  pthread_mutex_unlock (&message_lock);
  return buf;
}

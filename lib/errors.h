/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Errors and log lines: one translator, one way to say what failed.
 *
 * Library functions return errcode_t: 0, an errno value, or a code of
 * libext2fs's table.  Nothing is passed through errno.
 */

#ifndef EXT2SERVE_ERRORS_H
#define EXT2SERVE_ERRORS_H

#include <stddef.h>

#include <et/com_err.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_DEBUG };

/* Receives one line of printable ASCII (see log_escape).  May be called
 * from any thread, with any of the library's locks held, so it must not
 * call back.
 */
typedef void log_handler (enum log_level level, const char *line);

/* Adds libext2fs's error table, directs com_err (libext2fs's bitmap
 * code prints through it) and the functions below to HANDLER.  Once per
 * process, before any other call.  NULL logs to stderr.
 */
extern void errors_init (log_handler *handler);
extern void errors_fini (void);

extern void log_error (const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 1, 2)));
extern void log_warning (const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 1, 2)));
extern void log_debug (const char *fmt, ...)
  __attribute__ ((__format__ (__printf__, 1, 2)));

/* Writes TEXT into OUT, of SIZE bytes (4 or more), and returns it.  Every
 * byte that is not printable ASCII becomes \xNN, a backslash two: so
 * different texts stay different, and no text has control characters.
 * What does not fit is cut between two characters, and "..." put there.
 * The lines of log_error and its kin have gone through it.
 */
extern const char *log_escape (char *out, size_t size, const char *text);

/* The one translation to errno: what an NBD client should be told.
 * Never 0 for a non-zero ERR, and never ENOTSUP unless ERR is ENOTSUP:
 * nbdkit asserts on both.
 */
extern int errcode_to_errno (errcode_t err);

/* Thread-safe error_message (): writes into BUF and returns it. */
extern const char *errcode_text (errcode_t err, char *buf, size_t len);

#endif /* EXT2SERVE_ERRORS_H */

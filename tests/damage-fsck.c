/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What e2fsck says, so that before and after can be compared.
 *
 * A problem is a line of e2fsck's, with N for every number: "Inode 13,
 * i_blocks is 8, should be 10" is one of the kind "Inode N, i_blocks is N,
 * should be N".  For lists of blocks and inodes, as bitmaps' differences
 * have them, what counts is how long they are.  Worse is: more problems of
 * some kind.
 *
 * Passes 2 to 4 are about directories.  In damaged ones e2fsck 1.47 finds
 * now this, now that, when an inode elsewhere has changed; so where nothing
 * of any directory has, they are not compared.  Nor is what e2fsck did not
 * come to before, because it gave up.
 */

#include <config.h>

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "damage.h"

/* Processor time after which e2fsck is ended.  Seconds. */
#define LIMIT 60

static void
become_e2fsck (const char *option, const char *path, int out)
{
  const struct rlimit limit = { LIMIT, LIMIT }, none = { 0, 0 };

  setrlimit (RLIMIT_CPU, &limit);
  setrlimit (RLIMIT_CORE, &none);
  dup2 (out, 1);
  dup2 (out, 2);
  setenv ("LC_ALL", "C", 1);
  if (option)
    execlp ("e2fsck", "e2fsck", "-y", "-E", option, path, (char *) NULL);
  else
    execlp ("e2fsck", "e2fsck", "-fn", path, (char *) NULL);
  _exit (127);
}

/* Lines that are no problems, by what they contain.  That a tree could be
 * narrower is no problem.
 */
static bool
is_noise (const char *line)
{
  static const char *const noise[] = {
    "e2fsck N.N.N", "Pass N", "Fix? no", "/proc/self/fd", "check forced",
    "WARNING: Filesystem still has errors", "FILE SYSTEM WAS MODIFIED",
    "skipping journal recovery", "Optimize? no", NULL
  };
  size_t i;

  while (isspace ((unsigned char) *line))
    line++;
  for (i = 0; noise[i]; i++)
    if (strstr (line, noise[i]))
      return true;
  return *line == 0;
}

/* The differences of a bitmap, which begin at TEXT: how many of sign
 * SIGN.  They look like " -(123--456) +789".
 */
static unsigned
count_listed (const char *text, char sign)
{
  unsigned n = 0;
  unsigned long long a, b;

  for (; *text; text++) {
    if (*text != sign)
      continue;
    if (sscanf (text + 1, "(%llu--%llu)", &a, &b) == 2 && b >= a)
      n += b - a + 1;
    else if (isdigit ((unsigned char) text[1]))
      n++;
  }
  return n;
}

static void
add_kind (struct fsck_report *r, const char *text, unsigned count)
{
  unsigned i;

  for (i = 0; i < r->kinds; i++)
    if (strcmp (r->kind[i].text, text) == 0)
      break;
  if (i == FSCK_KINDS)
    return;
  if (i == r->kinds) {
    snprintf (r->kind[i].text, sizeof r->kind[i].text, "%s", text);
    r->kind[i].count = 0;
    r->kind[i].pass = r->pass;
    r->kinds++;
  }
  r->kind[i].count += count;
}

/* A line with N for numbers, cut to LEN. */
static void
without_numbers (const char *line, char *to, size_t len)
{
  size_t n = 0;

  while (*line && *line != '\n' && n + 1 < len) {
    if (isdigit ((unsigned char) *line)) {
      while (isxdigit ((unsigned char) *line) || *line == 'x')
        line++;
      to[n++] = 'N';
    }
    else
      to[n++] = *line++;
  }
  while (n > 0 && to[n - 1] == ' ')
    n--;
  to[n] = 0;
}

static void
add_line (struct fsck_report *r, const char *line)
{
  char text[sizeof r->kind[0].text - 4], kind[sizeof r->kind[0].text];
  const char *colon = strstr (line, "differences:");
  char *end;
  unsigned minus, plus;

  sscanf (line, "Pass %d", &r->pass);
  if (colon) {
    minus = count_listed (colon, '-');
    plus = count_listed (colon, '+');
    snprintf (text, sizeof text, "%.*s", (int) (colon - line), line);
    snprintf (kind, sizeof kind, "%s: -", text);
    if (minus)
      add_kind (r, kind, minus);
    snprintf (kind, sizeof kind, "%s: +", text);
    if (plus)
      add_kind (r, kind, plus);
    return;
  }
  without_numbers (line, text, sizeof text);
  /* Lists, and times. */
  if ((end = strstr (text, " in inode N: ")) || (end = strstr (text, "mod")))
    *end = 0;
  if (!is_noise (text))
    add_kind (r, text, 1);
}

static void
add_lines (struct fsck_report *r)
{
  char *copy = strdup (r->output), *line, *rest;

  must (copy != NULL);
  for (line = strtok_r (copy, "\n", &rest); line;
       line = strtok_r (NULL, "\n", &rest))
    add_line (r, line);
  free (copy);
}

void
fsck_run (struct memdev *md, const char *option, struct fsck_report *r)
{
  int out = memfd_create ("e2fsck", MFD_CLOEXEC), status;
  char path[64];
  off_t len;
  pid_t pid;

  memset (r, 0, sizeof *r);
  memdev_path (md, path, sizeof path);
  must (out != -1);
  pid = fork ();
  must (pid != -1);
  if (pid == 0)
    become_e2fsck (option, path, out);
  while (waitpid (pid, &status, 0) == -1)
    must (errno == EINTR);
  r->code = WIFEXITED (status) ? WEXITSTATUS (status) : 255;
  must (r->code != 127);
  len = lseek (out, 0, SEEK_END);
  r->output = calloc (1, len + 1);
  must (r->output != NULL && pread (out, r->output, len, 0) == len);
  close (out);
  add_lines (r);
}

void
fsck_free (struct fsck_report *r)
{
  free (r->output);
  r->output = NULL;
}

static unsigned
count_of (const struct fsck_report *r, const char *text)
{
  unsigned i;

  for (i = 0; i < r->kinds; i++)
    if (strcmp (r->kind[i].text, text) == 0)
      return r->kind[i].count;
  return 0;
}

static bool
is_ignored (const struct fsck_report *before,
            const struct fsck_report *after, unsigned i,
            const struct fsck_ignore *ignore)
{
  const int pass = after->kind[i].pass;

  if (ignore->leaks && strcmp (after->kind[i].text, "Block bitmap : -") == 0)
    return true;
  if (ignore->names && pass >= 2 && pass <= 4)
    return true;
  return pass > before->pass && strstr (before->output, "aborted");
}

bool
fsck_worse (const struct fsck_report *before,
            const struct fsck_report *after,
            const struct fsck_ignore *ignore, char *why, size_t len)
{
  unsigned i, n;

  if (after->code == 255 && before->code != 255) {
    snprintf (why, len, "e2fsck crashes or hangs on it now");
    return true;
  }
  for (i = 0; i < after->kinds; i++) {
    n = count_of (before, after->kind[i].text);
    if (after->kind[i].count > n && !is_ignored (before, after, i, ignore)) {
      snprintf (why, len, "e2fsck: %u times, not %u: %s",
                after->kind[i].count, n, after->kind[i].text);
      return true;
    }
  }
  return false;
}

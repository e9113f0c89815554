/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* An nbdkit plugin for tests: serves file=IMAGE, says that it can do
 * everything, and then breaks the rules that rules=FILE holds at the time
 * of each call, one on a line:
 *
 *   CALL ERROR     every such call fails with it, and does nothing
 *   hold CALL AT   such a call that covers byte AT of the image does not
 *                  end before the rule is gone
 *
 * CALL is pread, pwrite, zero, trim, flush, cache or extents, or of pwrite,
 * zero and trim those with a flag: fua, fast.  While a call is held there
 * is a file FILE.held.  minimum=, preferred= and maximum= are the block
 * sizes that it says it needs; a call that breaks them is an error, and
 * makes a file FILE.broken.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static char *file, *rules;
static int fd = -1;
static uint32_t minimum, preferred, maximum;

static void
fault_unload (void)
{
  if (fd != -1)
    close (fd);
  free (file);
  free (rules);
}

static int
fault_config (const char *key, const char *value)
{
  char **to = strcmp (key, "file") == 0 ? &file
    : strcmp (key, "rules") == 0 ? &rules : NULL;
  uint32_t *number = strcmp (key, "minimum") == 0 ? &minimum
    : strcmp (key, "preferred") == 0 ? &preferred
    : strcmp (key, "maximum") == 0 ? &maximum : NULL;

  if (number)
    return nbdkit_parse_uint32_t (key, value, number);
  if (to == NULL) {
    nbdkit_error ("unknown parameter '%s'", key);
    return -1;
  }
  free (*to);
  *to = nbdkit_absolute_path (value);
  return *to ? 0 : -1;
}

static int
fault_get_ready (void)
{
  if (file && rules)
    fd = open (file, O_RDWR | O_CLOEXEC);
  if (fd != -1)
    return 0;
  nbdkit_error ("file=IMAGE and rules=FILE are needed: %m");
  return -1;
}

static void *
fault_open (int readonly)
{
  (void) readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
fault_get_size (void *handle)
{
  struct stat st;

  (void) handle;
  return fstat (fd, &st) == 0 ? st.st_size : -1;
}

static int
fault_block_size (void *handle, uint32_t *min, uint32_t *pref, uint32_t *max)
{
  (void) handle;
  *min = minimum;
  *pref = preferred;
  *max = maximum;
  return 0;
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

static int
native_cache (void *handle)
{
  (void) handle;
  return NBDKIT_CACHE_NATIVE;
}

/* Rules. */

static const struct {
  const char *name;
  int error;
} errors[] = {
  { "EIO", EIO }, { "ENOSPC", ENOSPC }, { "EROFS", EROFS },
  { "EPERM", EPERM }, { "EINVAL", EINVAL }, { "ENOTSUP", EOPNOTSUPP },
  { "ENOMEM", ENOMEM }, { "ESHUTDOWN", ESHUTDOWN },
};

struct call {
  const char *name;
  uint64_t offset;
  uint32_t count, flags;
};

static bool
is_about (const struct call *c, const char *name)
{
  return strcmp (name, c->name) == 0 ||
    (strcmp (name, "fua") == 0 && (c->flags & NBDKIT_FLAG_FUA)) ||
    (strcmp (name, "fast") == 0 && (c->flags & NBDKIT_FLAG_FAST_ZERO));
}

static void
make_file (const char *suffix, bool there)
{
  char name[4096];
  int f;

  snprintf (name, sizeof name, "%s.%s", rules, suffix);
  if (!there)
    unlink (name);
  else if ((f = open (name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) != -1)
    close (f);
}

/* The error that a rule gives to the call, or 0; *HOLD: it must wait. */
static int
look_up (const struct call *c, bool *hold)
{
  FILE *f = fopen (rules, "re");
  char line[200], name[20], error[20];
  unsigned long long at;
  int e = 0;
  size_t i;

  *hold = false;
  while (f && fgets (line, sizeof line, f)) {
    if (sscanf (line, "hold %19s %llu", name, &at) == 2)
      *hold = *hold || (is_about (c, name) && at >= c->offset &&
                        at - c->offset < c->count);
    else if (sscanf (line, "%19s %19s", name, error) == 2 &&
             is_about (c, name))
      for (i = 0; i < sizeof errors / sizeof errors[0]; i++)
        if (strcmp (error, errors[i].name) == 0)
          e = errors[i].error;
  }
  if (f)
    fclose (f);
  return e;
}

static bool
is_aligned (const struct call *c)
{
  const uint64_t end = c->offset + c->count;

  return minimum <= 1 || c->count == 0 ||
    (c->offset % minimum == 0 && end % minimum == 0);
}

/* Before anything is done: 0, or an error that has been set. */
static int
obey (const char *name, uint64_t offset, uint32_t count, uint32_t flags)
{
  const struct call c = { name, offset, count, flags };
  const bool data = strcmp (name, "pread") == 0 ||
    strcmp (name, "pwrite") == 0;
  bool hold;
  int error = look_up (&c, &hold);

  if (!is_aligned (&c) || (data && maximum && count > maximum)) {
    make_file ("broken", true);
    error = EINVAL;
  }
  if (hold)
    make_file ("held", true);
  while (hold) {
    usleep (1000);
    error = look_up (&c, &hold);
    if (!hold)
      make_file ("held", false);
  }
  if (error == 0)
    return 0;
  nbdkit_set_error (error);
  return -1;
}

/* The calls. */

static int
fault_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
             uint32_t flags)
{
  (void) handle;
  if (obey ("pread", offset, count, flags))
    return -1;
  return pread (fd, buf, count, offset) == (ssize_t) count ? 0 : -1;
}

static int
fault_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  (void) handle;
  if (obey ("pwrite", offset, count, flags))
    return -1;
  return pwrite (fd, buf, count, offset) == (ssize_t) count ? 0 : -1;
}

static int
clear (uint32_t count, uint64_t offset)
{
  void *zeros = calloc (1, count);
  int r = -1;

  if (zeros && pwrite (fd, zeros, count, offset) == (ssize_t) count)
    r = 0;
  free (zeros);
  return r;
}

static int
fault_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  return obey ("zero", offset, count, flags) ? -1 : clear (count, offset);
}

static int
fault_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  return obey ("trim", offset, count, flags) ? -1 : clear (count, offset);
}

static int
fault_flush (void *handle, uint32_t flags)
{
  (void) handle;
  return obey ("flush", 0, 0, flags);
}

static int
fault_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  return obey ("cache", offset, count, flags);
}

static int
fault_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
               struct nbdkit_extents *extents)
{
  (void) handle;
  if (obey ("extents", offset, count, flags))
    return -1;
  return nbdkit_add_extent (extents, offset, count, 0);
}

static struct nbdkit_plugin plugin = {
  .name = "fault",
  .longname = "a device that misbehaves",
  .unload = fault_unload,
  .config = fault_config,
  .config_help = "file=IMAGE  What to serve.\nrules=FILE  What goes wrong.",
  .get_ready = fault_get_ready,
  .open = fault_open,
  .get_size = fault_get_size,
  .block_size = fault_block_size,
  .can_write = yes,
  .can_flush = yes,
  .can_trim = yes,
  .can_zero = yes,
  .can_fast_zero = yes,
  .can_fua = native_fua,
  .can_cache = native_cache,
  .can_extents = yes,
  .can_multi_conn = yes,
  .pread = fault_pread,
  .pwrite = fault_pwrite,
  .zero = fault_zero,
  .trim = fault_trim,
  .flush = fault_flush,
  .cache = fault_cache,
  .extents = fault_extents,
  .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN (plugin)

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* nbdkit ext2 filter: serves a file that lives inside an ext2, ext3 or
 * ext4 image, to many clients at once.
 *
 * How a request travels:
 *
 *   client -> nbdkit worker thread -> ext2_pread (here)
 *     -> file_read (lib/file.c): locks, looks the blocks up
 *     -> device_pread (lib/device.c): checks the range
 *     -> nextdev_pread (nextdev.c): into nbdkit's own buffer
 *
 * This file is parameters, callbacks and the translation of errors.
 * share.c keeps the filesystem that all connections share; lib/ knows
 * everything about filesystems and nothing about nbdkit.
 *
 * The next layer is opened once, not per connection (nextdev.c), so the
 * "next" argument of the callbacks is NULL and every callback must be
 * defined: nbdkit's defaults would follow it.
 */

#include <config.h>

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-filter.h>

#include "beneath.h"
#include "commit.h"
#include "errors.h"
#include "file.h"
#include "nextdev.h"
#include "share.h"

static const char *ext2file;    /* NULL: the export name says */
static bool use_exportname;
static struct share_config config = {
  .cache_size = FILESYSTEM_DEFAULT_CACHE,
  .reserve = true,
  .commit_seconds = FILESYSTEM_DEFAULT_COMMIT,
  .lock = true,
};

/* One per connection. */
struct handle {
  struct client cl;
  char *path;                   /* of the file inside the image */
};

/* Everything that is logged comes by here, escaped (errors.h): but for
 * what is said of the command line, nothing else calls nbdkit_error.
 */
static void
log_to_nbdkit (enum log_level level, const char *line)
{
  switch (level) {
  case LOG_LEVEL_ERROR:
    nbdkit_error ("ext2: %s", line);
    break;
  case LOG_LEVEL_WARNING:
    /* nbdkit has no level between error and debug. */
    nbdkit_error ("ext2: warning: %s", line);
    break;
  case LOG_LEVEL_DEBUG:
    nbdkit_debug ("ext2: %s", line);
    break;
  }
}

/* nbdkit --version says for every filter the version of nbdkit, which has
 * to be what it was built for.
 */
#define OUR_VERSION PACKAGE_NAME " " PACKAGE_VERSION ", commit " EXT2_COMMIT

/* How often the filter stands in the command line.  A second time would
 * be this very object again, with the same variables.
 */
static unsigned times_loaded;

static void
ext2_load (void)
{
  if (times_loaded++ > 0)
    return;
  errors_init (log_to_nbdkit);
  log_debug ("%s, for nbdkit %s", OUR_VERSION, NBDKIT_VERSION_STRING);
}

static void
ext2_unload (void)
{
  if (--times_loaded > 0)
    return;
  beneath_free ();
  errors_fini ();
}

#ifdef HAVE_STRUCT_NBDKIT_FILTER_DUMP_PLUGIN
static void
ext2_dump_plugin (void)
{
  printf ("ext2_project=%s\n" "ext2_version=%s\n" "ext2_commit=%s\n",
          PACKAGE_NAME, PACKAGE_VERSION, EXT2_COMMIT);
}
#endif

/* Parameters. */

static int
ext2_config (nbdkit_next_config *next, nbdkit_backend *nxdata,
             const char *key, const char *value)
{
  int64_t size;

  if (strcmp (key, "ext2file") == 0) {
    if (ext2file || use_exportname) {
      nbdkit_error ("ext2file was given more than once");
      return -1;
    }
    if (strcmp (value, "exportname") == 0)
      use_exportname = true;
    else if (value[0] == '/')
      ext2file = value;
    else {
      nbdkit_error ("ext2file=%s: give an absolute path inside the image, "
                    "like ext2file=/vm.raw, or ext2file=exportname", value);
      return -1;
    }
    return 0;
  }
  if (strcmp (key, "ext2cache") == 0) {
    size = nbdkit_parse_size (value);
    if (size == -1) {
      nbdkit_error ("ext2cache=%s: give a size, like ext2cache=64M", value);
      return -1;
    }
    /* Where addresses have 32 bits. */
    if ((uint64_t) size > SIZE_MAX / 2) {
      nbdkit_error ("ext2cache=%s: more than this machine can address: give "
                    "less, like ext2cache=1G", value);
      return -1;
    }
    config.cache_size = (size_t) size;
    return 0;
  }
  if (strcmp (key, "ext2reserve") == 0) {
    int r = nbdkit_parse_bool (value);

    if (r == -1)
      return -1;
    config.reserve = r;
    return 0;
  }
  if (strcmp (key, "ext2commit") == 0) {
    if (nbdkit_parse_unsigned ("ext2commit", value,
                               &config.commit_seconds) == -1)
      return -1;
    if (config.commit_seconds > FILESYSTEM_MOST_COMMIT) {
      nbdkit_error ("ext2commit=%s: give at most %d seconds, or 0 for no "
                    "commits but those that clients ask for", value,
                    FILESYSTEM_MOST_COMMIT);
      return -1;
    }
    return 0;
  }
  if (strcmp (key, "ext2lock") == 0) {
    config.lock = strcmp (value, "off") != 0;
    config.lock_dir = config.lock ? value : NULL;
    if (!config.lock || value[0] == '/')
      return 0;
    nbdkit_error ("ext2lock=%s: give the absolute path of a directory, or "
                  "ext2lock=off", value);
    return -1;
  }
  if (beneath_config (key, value) == -1)
    return -1;
  return next (nxdata, key, value);
}

static int
ext2_config_complete (nbdkit_next_config_complete *next,
                      nbdkit_backend *nxdata)
{
  if (times_loaded > 1) {
    nbdkit_error ("the ext2 filter can be used only once in a chain; for an "
                  "image within an image chain two servers with the nbd "
                  "plugin");
    return -1;
  }
  if (!ext2file && !use_exportname) {
    nbdkit_error ("the ext2 filter needs ext2file=/PATH, the file inside "
                  "the image, or ext2file=exportname");
    return -1;
  }
  if (beneath_check () == -1)
    return -1;
  return next (nxdata);
}

#define ext2_config_help \
  "ext2file=/PATH        (required) File to serve inside the image, or\n" \
  "ext2file=exportname   let the client's export name say which.\n" \
  "ext2cache=SIZE        Memory for cached metadata (default 64M).\n" \
  "ext2commit=SECONDS    Commit changes after so long although no client\n" \
  "                      asks (default 5; 0: never).\n" \
  "ext2reserve=BOOL      Before writing, get storage for all of the journal\n" \
  "                      where the image is sparse (default true).\n" \
  "ext2lock=DIR|off      Where servers on this machine see each other."

/* PARALLEL: everything below takes its own locks.  The server may end up
 * with a stricter model because of the plugin or another filter; which,
 * ext2_get_ready is told.
 */
static int
#ifdef HAVE_FILTER_THREAD_MODEL_ARG
ext2_thread_model (int next_thread_model)
#else
ext2_thread_model (void)
#endif
{
  return NBDKIT_THREAD_MODEL_PARALLEL;
}

static int
ext2_get_ready (int thread_model)
{
  config.thread_model = thread_model;
  config.image = beneath_image ();
  config.private = beneath_is_private ();
  share_configure (&config);
  return 0;
}

/* All connections are gone, or will never be closed: see share.h. */
static void
ext2_cleanup (nbdkit_backend *backend)
{
  share_shutdown ();
}

/* Exports. */

/* The plugin's export names say nothing about files in the image, and
 * listing those would mean opening it before anybody asked for one.
 */
static int
ext2_list_exports (nbdkit_next_list_exports *next, nbdkit_backend *nxdata,
                   int readonly, int is_tls, struct nbdkit_exports *exports)
{
  if (use_exportname)
    return 0;
  return nbdkit_add_export (exports, "", NULL);
}

/* With ext2file=/PATH every name leads to the file, "" included. */
static const char *
ext2_default_export (nbdkit_next_default_export *next,
                     nbdkit_backend *nxdata, int readonly, int is_tls)
{
  return use_exportname ? NULL : "";
}

/* Connections. */

static void
free_handle (struct handle *h)
{
  if (h) {
    free (h->path);
    free (h->cl.description);
  }
  free (h);
}

static void *
ext2_open (nbdkit_next_open *next, nbdkit_context *context, int readonly,
           const char *exportname, int is_tls)
{
  const char *name = use_exportname ? exportname : ext2file;
  struct handle *h = calloc (1, sizeof *h);
  size_t len = strlen (name);

  if (h)
    h->path = malloc (len + 2);
  if (h == NULL || h->path == NULL) {
    log_error ("no memory for a connection");
    free_handle (h);
    return NULL;
  }
  if (name[0] == '/')
    memcpy (h->path, name, len + 1);
  else {
    h->path[0] = '/';
    memcpy (h->path + 1, name, len + 1);
  }
  if (share_get (&h->cl, nbdkit_context_get_backend (context), readonly,
                 h->path) == -1) {
    free_handle (h);
    return NULL;
  }
  return h;
}

/* Opening has happened in ext2_open. */
static int
ext2_prepare (nbdkit_next *next, void *handle, int readonly)
{
  return 0;
}

/* Here, because ext2_close is not called while the server shuts down,
 * and because this can report failure; there again, because this is not
 * called when the handshake fails.
 */
static int
ext2_finalize (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return share_put (&h->cl);
}

static void
ext2_close (void *handle)
{
  struct handle *h = handle;

  share_put (&h->cl);
  free_handle (h);
}

/* What the export is. */

static int64_t
ext2_get_size (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->cl.size;
}

static const char *
ext2_export_description (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->cl.description;
}

/* Of the file, not of the disk: any request is served, whole blocks of
 * the filesystem best.  Larger requests are split beneath.
 */
static int
ext2_block_size (nbdkit_next *next, void *handle, uint32_t *minimum,
                 uint32_t *preferred, uint32_t *maximum)
{
  struct handle *h = handle;

  *minimum = 1;
  *preferred = h->cl.block_size;
  *maximum = UINT32_C (0xffffffff);
  return 0;
}

static int
ext2_is_rotational (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->cl.rotational;
}

static int
ext2_can_write (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return !h->cl.readonly;
}

/* Even if the plugin cannot flush: metadata must be written to it. */
static int
ext2_can_flush (nbdkit_next *next, void *handle)
{
  return 1;
}

/* NATIVE: a commit costs less than nbdkit's flush after each write. */
static int
ext2_can_fua (nbdkit_next *next, void *handle)
{
  return NBDKIT_FUA_NATIVE;
}

/* Trim unmaps blocks whether or not the plugin can trim. */
static int
ext2_can_trim (nbdkit_next *next, void *handle)
{
  return 1;
}

static int
ext2_can_zero (nbdkit_next *next, void *handle)
{
  return NBDKIT_ZERO_NATIVE;
}

/* file_zero says ENOTSUP, before changing anything, when it would have
 * to write zeros.
 */
static int
ext2_can_fast_zero (nbdkit_next *next, void *handle)
{
  return 1;
}

/* Must be 1: the disk's block status at the file's offsets would be
 * wrong bytes for every client that skips holes.
 */
static int
ext2_can_extents (nbdkit_next *next, void *handle)
{
  return 1;
}

static int
ext2_can_cache (nbdkit_next *next, void *handle)
{
  struct handle *h = handle;

  return h->cl.can_cache ? NBDKIT_CACHE_NATIVE : NBDKIT_CACHE_EMULATE;
}

/* All connections use one inode object over one device context, and a
 * flush on any of them commits and flushes for all.
 */
static int
ext2_can_multi_conn (nbdkit_next *next, void *handle)
{
  return 1;
}

/* Requests. */

/* The end of a request: 0, or -1 with *ERRP and one line. */
static int
result (struct handle *h, errcode_t err, const char *op, uint32_t count,
        uint64_t offset, int *errp)
{
  char why[128];

  if (err == 0)
    return 0;
  *errp = errcode_to_errno (err);
  log_error ("%s: %s of %lu bytes at offset %llu: %s", h->path, op,
             (unsigned long) count, (unsigned long long) offset,
             errcode_text (err, why, sizeof why));
  return -1;
}

static int
ext2_pread (nbdkit_next *next, void *handle, void *buf, uint32_t count,
            uint64_t offset, uint32_t flags, int *errp)
{
  struct handle *h = handle;

  return result (h, file_read (h->cl.inode, buf, count, offset),
                 "read", count, offset, errp);
}

static unsigned
file_flags (uint32_t flags)
{
  return (flags & NBDKIT_FLAG_FUA ? FILE_FUA : 0)
    | (flags & NBDKIT_FLAG_MAY_TRIM ? FILE_MAY_TRIM : 0)
    | (flags & NBDKIT_FLAG_FAST_ZERO ? FILE_FAST : 0);
}

static int
ext2_pwrite (nbdkit_next *next, void *handle, const void *buf,
             uint32_t count, uint64_t offset, uint32_t flags, int *errp)
{
  struct handle *h = handle;

  return result (h, file_write (h->cl.inode, buf, count, offset,
                                file_flags (flags)),
                 "write", count, offset, errp);
}

static int
ext2_flush (nbdkit_next *next, void *handle, uint32_t flags, int *errp)
{
  struct handle *h = handle;

  return result (h, filesystem_flush (h->cl.fs), "flush", 0, 0, errp);
}

static int
ext2_trim (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
           uint32_t flags, int *errp)
{
  struct handle *h = handle;

  return result (h, file_trim (h->cl.inode, count, offset,
                               file_flags (flags)),
                 "trim", count, offset, errp);
}

static int
ext2_zero (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
           uint32_t flags, int *errp)
{
  struct handle *h = handle;
  errcode_t err = file_zero (h->cl.inode, count, offset, file_flags (flags));

  if (err == ENOTSUP && (flags & NBDKIT_FLAG_FAST_ZERO)) {
    *errp = ENOTSUP;            /* an answer, not a failure */
    return -1;
  }
  if (err == ENOTSUP)
    err = EIO;
  return result (h, err, "zero", count, offset, errp);
}

/* nbdkit keeps this many extents of a reply and ignores the rest. */
#define MAX_EXTENTS (1u << 20)

struct status_reply {
  struct nbdkit_extents *extents;
  bool only_one;
  unsigned pieces;
  int error;                    /* errno of nbdkit_add_extent */
};

static int
add_extent (void *opaque, uint64_t offset, uint64_t count,
            enum map_state state)
{
  static const uint32_t type[] = {
    [MAP_HOLE] = NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO,
    [MAP_UNWRITTEN] = NBDKIT_EXTENT_ZERO,
    [MAP_WRITTEN] = 0,
  };
  struct status_reply *reply = opaque;

  if (nbdkit_add_extent (reply->extents, offset, count, type[state]) == -1) {
    reply->error = errno > 0 ? errno : EIO;
    return 1;
  }
  return reply->only_one || ++reply->pieces >= MAX_EXTENTS;
}

static int
ext2_extents (nbdkit_next *next, void *handle, uint32_t count,
              uint64_t offset, uint32_t flags,
              struct nbdkit_extents *extents, int *errp)
{
  struct handle *h = handle;
  struct status_reply reply = {
    .extents = extents,
    .only_one = flags & NBDKIT_FLAG_REQ_ONE,
  };
  errcode_t err = file_status (h->cl.inode, count, offset, add_extent,
                               &reply);

  return result (h, err ? err : reply.error, "block status", count, offset,
                 errp);
}

static int
ext2_cache (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset,
            uint32_t flags, int *errp)
{
  struct handle *h = handle;

  return result (h, file_cache (h->cl.inode, count, offset),
                 "cache", count, offset, errp);
}

static struct nbdkit_filter filter = {
  .name               = "ext2",
  .longname           = OUR_VERSION,
  .description        = "Serve a file inside an ext2, ext3 or ext4 image",
  .load               = ext2_load,
  .unload             = ext2_unload,
  .config             = ext2_config,
  .config_complete    = ext2_config_complete,
  .config_help        = ext2_config_help,
  .thread_model       = ext2_thread_model,
#ifdef HAVE_STRUCT_NBDKIT_FILTER_DUMP_PLUGIN
  .dump_plugin        = ext2_dump_plugin,
#endif
  .get_ready          = ext2_get_ready,
  .cleanup            = ext2_cleanup,
  .list_exports       = ext2_list_exports,
  .default_export     = ext2_default_export,
  .open               = ext2_open,
  .close              = ext2_close,
  .prepare            = ext2_prepare,
  .finalize           = ext2_finalize,
  .get_size           = ext2_get_size,
  .export_description = ext2_export_description,
  .block_size         = ext2_block_size,
  .is_rotational      = ext2_is_rotational,
  .can_write          = ext2_can_write,
  .can_flush          = ext2_can_flush,
  .can_fua            = ext2_can_fua,
  .can_trim           = ext2_can_trim,
  .can_zero           = ext2_can_zero,
  .can_fast_zero      = ext2_can_fast_zero,
  .can_extents        = ext2_can_extents,
  .can_cache          = ext2_can_cache,
  .can_multi_conn     = ext2_can_multi_conn,
  .pread              = ext2_pread,
  .pwrite             = ext2_pwrite,
  .flush              = ext2_flush,
  .trim               = ext2_trim,
  .zero               = ext2_zero,
  .extents            = ext2_extents,
  .cache              = ext2_cache,
};

/* nbdkit's macro defines it without, which clang warns of. */
NBDKIT_DLL_PUBLIC extern struct nbdkit_filter *filter_init (void);
NBDKIT_REGISTER_FILTER (filter)

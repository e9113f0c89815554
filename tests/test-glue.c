/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* filters/ext2 without nbdkit: this program plays the server and the
 * plugin.  What a plugin with a minimum block size is asked; what may be
 * asked of a connection while the server ends; what reaches the log.
 */

#include <config.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "image.h"
#include "nextdev.h"

/* The plugin: a memdev behind next's callbacks. */

struct call { char op; uint32_t count; uint64_t offset; uint32_t flags;
  const void *buf; };

#define CALLS 64

#define M 4096u

struct plugin {
  nbdkit_next next;             /* first: converted back by a cast */
  struct memdev *md;
  uint32_t minimum, maximum;
  const char *description;
  unsigned opened;
  struct call calls[CALLS];
  unsigned n;                   /* calls, the first CALLS are kept */
  uint32_t extent_type;         /* of all extents */
};

static struct plugin plugin;

static struct device *
note (nbdkit_next *next, char op, uint32_t count, uint64_t offset,
      uint32_t flags, const void *buf)
{
  assert_ptr_equal (next, &plugin.next);
  assert_true (plugin.opened > 0);
  if (op != 'f') {
    assert_true (count > 0);
    assert_int_equal (count % plugin.minimum, 0);
    assert_int_equal (offset % plugin.minimum, 0);
  }
  if (op == 'r' || op == 'w')
    assert_true (count <= plugin.maximum);
  if (plugin.n < CALLS)
    plugin.calls[plugin.n] = (struct call) { op, count, offset, flags, buf };
  plugin.n++;
  return &plugin.md->dev;
}

static int
answer (errcode_t err, int *errp)
{
  if (err)
    *errp = (int) err;
  return err ? -1 : 0;
}

static int
plugin_pread (nbdkit_next *next, void *buf, uint32_t count, uint64_t offset,
              uint32_t flags, int *err)
{
  struct device *dev = note (next, 'r', count, offset, flags, buf);

  return answer (device_pread (dev, buf, count, offset), err);
}

static int
plugin_pwrite (nbdkit_next *next, const void *buf, uint32_t count,
               uint64_t offset, uint32_t flags, int *err)
{
  struct device *dev = note (next, 'w', count, offset, flags, buf);

  return answer (device_pwrite (dev, buf, count, offset, 0), err);
}

static int
plugin_flush (nbdkit_next *next, uint32_t flags, int *err)
{
  return answer (device_flush (note (next, 'f', 0, 0, flags, NULL)), err);
}

static int
plugin_trim (nbdkit_next *next, uint32_t count, uint64_t offset,
             uint32_t flags, int *err)
{
  device_trim (note (next, 't', count, offset, flags, NULL), count, offset);
  return 0;
}

static int
plugin_zero (nbdkit_next *next, uint32_t count, uint64_t offset,
             uint32_t flags, int *err)
{
  struct device *dev = note (next, 'z', count, offset, flags, NULL);

  return answer (device_zero (dev, count, offset, 0), err);
}

static int
plugin_cache (nbdkit_next *next, uint32_t count, uint64_t offset,
              uint32_t flags, int *err)
{
  note (next, 'c', count, offset, flags, NULL);
  return 0;
}

/* One extent, of half of what is asked for. */
static int
plugin_extents (nbdkit_next *next, uint32_t count, uint64_t offset,
                uint32_t flags, struct nbdkit_extents *extents, int *err)
{
  note (next, 'e', count, offset, flags, NULL);
  return nbdkit_add_extent (extents, offset,
                            count > 2 * M ? count / 2 / M * M : count,
                            plugin.extent_type);
}

static int
plugin_prepare (nbdkit_next *next)
{
  return 0;
}

static int64_t
plugin_get_size (nbdkit_next *next)
{
  return (int64_t) plugin.md->dev.size;
}

static const char *
plugin_description (nbdkit_next *next)
{
  return plugin.description;
}

static int
plugin_block_size (nbdkit_next *next, uint32_t *minimum, uint32_t *preferred,
                   uint32_t *maximum)
{
  *minimum = plugin.minimum;
  *preferred = 4096;
  *maximum = plugin.maximum;
  return 0;
}

static int
yes (nbdkit_next *next)
{
  return 1;
}

static int
native (nbdkit_next *next)
{
  return 2;
}

static void
plugin_init (struct memdev *md, uint32_t minimum)
{
  plugin = (struct plugin) {
    .next = {
      .prepare = plugin_prepare, .finalize = plugin_prepare,
      .get_size = plugin_get_size, .export_description = plugin_description,
      .block_size = plugin_block_size, .can_write = yes, .can_flush = yes,
      .is_rotational = yes, .can_trim = yes, .can_zero = native,
      .can_fast_zero = yes, .can_extents = yes, .can_fua = native,
      .can_multi_conn = yes, .can_cache = native, .pread = plugin_pread,
      .pwrite = plugin_pwrite, .flush = plugin_flush, .trim = plugin_trim,
      .zero = plugin_zero, .cache = plugin_cache, .extents = plugin_extents,
    },
    .md = md, .minimum = minimum, .maximum = 32u << 20,
  };
}

/* The server. */

static char said[4096];         /* the last line logged */

static void __attribute__ ((__format__ (__printf__, 1, 0)))
say (const char *fmt, va_list ap)
{
  vsnprintf (said, sizeof said, fmt, ap);
}

void
nbdkit_error (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  say (fmt, ap);
  va_end (ap);
}

void
nbdkit_debug (const char *fmt, ...)
{
  (void) fmt;
}

int64_t
nbdkit_parse_size (const char *str)
{
  return strtol (str, NULL, 10);
}

int
nbdkit_parse_bool (const char *str)
{
  return strcmp (str, "true") == 0;
}

int
nbdkit_parse_unsigned (const char *what, const char *str, unsigned *r)
{
  *r = (unsigned) strtoul (str, NULL, 10);
  return 0;
}

int
nbdkit_nanosleep (unsigned sec, unsigned nsec)
{
  return 0;
}

int
nbdkit_add_export (struct nbdkit_exports *exports, const char *name,
                   const char *description)
{
  return 0;
}

struct nbdkit_extents {
  struct nbdkit_extent one;
  size_t n;
};

struct nbdkit_extents *
nbdkit_extents_new (uint64_t start, uint64_t end)
{
  return calloc (1, sizeof (struct nbdkit_extents));
}

void
nbdkit_extents_free (struct nbdkit_extents *extents)
{
  free (extents);
}

size_t
nbdkit_extents_count (const struct nbdkit_extents *extents)
{
  return extents->n;
}

struct nbdkit_extent
nbdkit_get_extent (const struct nbdkit_extents *extents, size_t i)
{
  assert_int_equal (i, 0);
  return extents->one;
}

int
nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset,
                   uint64_t length, uint32_t type)
{
  extents->one = (struct nbdkit_extent) { offset, length, type };
  extents->n = 1;
  return 0;
}

nbdkit_backend *
nbdkit_context_get_backend (nbdkit_context *context)
{
  return NULL;
}

nbdkit_next *
nbdkit_next_context_open (nbdkit_backend *backend, int readonly,
                          const char *exportname, int shared)
{
  assert_true (shared);
  plugin.opened++;
  return &plugin.next;
}

void
nbdkit_next_context_close (nbdkit_next *next)
{
  assert_true (plugin.opened > 0);
  plugin.opened--;
}

/* A plugin with a minimum block size. */

#define SIZE (8u << 20)

static struct device *
open_minimum (uint32_t minimum)
{
  struct memdev *md = memdev_new (SIZE);
  struct device *dev;

  image_content ("before", md->mem, SIZE);
  md->trim_discards = false;
  plugin_init (md, minimum);
  dev = nextdev_open (NULL, false, NBDKIT_THREAD_MODEL_PARALLEL);
  assert_non_null (dev);
  return dev;
}

static void
close_minimum (struct device *dev)
{
  nextdev_close (dev);
  assert_int_equal (plugin.opened, 0);
  memdev_free (plugin.md);
}

static void
assert_call (unsigned i, char op, uint32_t count, uint64_t offset,
             uint32_t flags)
{
  assert_true (i < plugin.n);
  assert_int_equal (plugin.calls[i].op, op);
  assert_int_equal (plugin.calls[i].count, count);
  assert_int_equal (plugin.calls[i].offset, offset);
  assert_int_equal (plugin.calls[i].flags, flags);
}

/* Only the edges are left. */
static void
test_minimum_trim (void **state)
{
  struct device *dev = open_minimum (M);

  device_trim (dev, SIZE - 2 * M, M - 1024);
  assert_int_equal (plugin.n, 1);
  assert_call (0, 't', SIZE - 3 * M, M, 0);
  device_trim (dev, 4 * M + 1, 8 * M);
  assert_int_equal (plugin.n, 2);
  assert_call (1, 't', 4 * M, 8 * M, 0);
  device_trim (dev, 2 * M - 2, M + 1);          /* no whole block in it */
  device_trim (dev, 1, M);
  assert_int_equal (plugin.n, 2);
  close_minimum (dev);
}

/* Only the edges are read and written. */
static void
test_minimum_zero (void **state)
{
  struct device *dev = open_minimum (M);
  uint8_t *before = malloc (SIZE);
  const uint8_t *now = plugin.md->mem;
  const uint32_t offset = M + 1024, count = SIZE - 3 * M, end = offset + count;
  uint32_t i;

  image_content ("before", before, SIZE);
  assert_int_equal (device_zero (dev, count, offset, DEVICE_MAY_TRIM), 0);
  assert_int_equal (plugin.n, 5);
  assert_call (0, 'z', count - M, 2 * M, NBDKIT_FLAG_MAY_TRIM);
  assert_call (1, 'r', M, M, 0);
  assert_call (2, 'w', M, M, 0);
  assert_call (3, 'r', M, end - 1024, 0);
  assert_call (4, 'w', M, end - 1024, 0);
  assert_memory_equal (now, before, offset);
  for (i = offset; i < end; i++)
    assert_int_equal (now[i], 0);
  assert_memory_equal (now + end, before + end, SIZE - end);

  /* Not fast with an edge, and then nothing is changed. */
  plugin.n = 0;
  assert_int_equal (device_zero (dev, 4 * M, 1, DEVICE_FAST), ENOTSUP);
  assert_int_equal (plugin.n, 0);
  assert_int_equal (device_zero (dev, 4 * M, M, DEVICE_FAST), 0);
  assert_int_equal (plugin.n, 1);
  assert_call (0, 'z', 4 * M, M, NBDKIT_FLAG_FAST_ZERO);
  free (before);
  close_minimum (dev);
}

/* Storage is asked for where there is none, and only there. */
static void
test_reserve (void **state)
{
  const uint32_t hole = NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
  struct device *dev = open_minimum (M);

  plugin.extent_type = hole;
  assert_int_equal (device_reserve (dev, 4 * M, 8 * M), 0);
  assert_int_equal (plugin.n, 4);
  assert_call (0, 'e', 4 * M, 8 * M, NBDKIT_FLAG_REQ_ONE);
  assert_call (1, 'z', 2 * M, 8 * M, 0);
  assert_call (2, 'e', 2 * M, 10 * M, NBDKIT_FLAG_REQ_ONE);
  assert_call (3, 'z', 2 * M, 10 * M, 0);

  /* What reads as something else must not be zeroed. */
  plugin.n = 0;
  plugin.extent_type = NBDKIT_EXTENT_HOLE;
  assert_int_equal (device_reserve (dev, 2 * M, 8 * M), 0);
  plugin.extent_type = NBDKIT_EXTENT_ZERO;
  assert_int_equal (device_reserve (dev, 2 * M, 8 * M), 0);
  plugin.extent_type = 0;
  assert_int_equal (device_reserve (dev, 2 * M, 8 * M), 0);
  assert_int_equal (plugin.n, 3);
  plugin.n = 0;
  plugin.extent_type = hole;
  assert_int_equal (device_reserve (dev, 2 * M, 8 * M + 1024), 0);
  assert_int_equal (plugin.n, 0);
  close_minimum (dev);
}

/* Nothing but the edges goes through a buffer of ours. */
static void
test_minimum_pread (void **state)
{
  struct device *dev = open_minimum (M);
  uint8_t *buf = malloc (SIZE);

  assert_int_equal (device_pread (dev, buf, SIZE - 2 * M, M + 512), 0);
  assert_memory_equal (buf, plugin.md->mem + M + 512, SIZE - 2 * M);
  assert_int_equal (plugin.n, 3);
  assert_call (0, 'r', M, M, 0);
  assert_call (1, 'r', SIZE - 3 * M, 2 * M, 0);
  assert_ptr_equal (plugin.calls[1].buf, buf + M - 512);
  assert_call (2, 'r', M, SIZE - M, 0);
  free (buf);
  close_minimum (dev);
}

static void
test_minimum_pwrite (void **state)
{
  struct device *dev = open_minimum (M);
  uint8_t *buf = calloc (1, SIZE);

  assert_int_equal (device_pwrite (dev, buf, 5 * M, M - 512, DEVICE_FUA), 0);
  assert_int_equal (plugin.n, 5);
  assert_call (0, 'r', M, 0, 0);
  assert_call (1, 'w', M, 0, NBDKIT_FLAG_FUA);
  assert_call (2, 'w', 4 * M, M, NBDKIT_FLAG_FUA);
  assert_ptr_equal (plugin.calls[2].buf, buf + 512);
  assert_call (3, 'r', M, 5 * M, 0);
  assert_call (4, 'w', M, 5 * M, NBDKIT_FLAG_FUA);
  /* In two blocks at most: one patch. */
  plugin.n = 0;
  assert_int_equal (device_pwrite (dev, buf, M, M - 1, 0), 0);
  assert_int_equal (plugin.n, 2);
  assert_call (0, 'r', 2 * M, 0, 0);
  assert_call (1, 'w', 2 * M, 0, 0);
  free (buf);
  close_minimum (dev);
}

static void
random_request (struct device *dev, struct rng *r, uint8_t *model,
                uint8_t *buf)
{
  const uint32_t most = rng_below (r, 4) ? 4 * M : SIZE;
  uint64_t offset = rng_below (r, SIZE);
  uint32_t count = (uint32_t) rng_below (r, most) + 1;

  if (count > SIZE - offset)
    count = (uint32_t) (SIZE - offset);
  if (rng_below (r, 4) == 0) {
    offset &= ~(uint64_t) (M - 1);
    count = (count + M - 1) & ~(M - 1);
  }
  switch (rng_below (r, 4)) {
  case 0:
    assert_int_equal (device_pread (dev, buf, count, offset), 0);
    assert_memory_equal (buf, model + offset, count);
    break;
  case 1:
    rng_fill (r, buf, count);
    assert_int_equal (device_pwrite (dev, buf, count, offset, 0), 0);
    memcpy (model + offset, buf, count);
    break;
  case 2:
    assert_int_equal (device_zero (dev, count, offset, 0), 0);
    memset (model + offset, 0, count);
    break;
  case 3:
    device_trim (dev, count, offset);
    device_cache (dev, count, offset);
    break;
  }
}

/* Any ranges, with any minimum: no byte outside of them changes. */
static void
test_minimum_random (void **state)
{
  static const uint32_t minimum[] = { 1, 512, M, 65536 };
  uint8_t *model = malloc (SIZE), *buf = malloc (SIZE);
  struct rng r = { 7 };
  unsigned i, k;

  for (i = 0; i < 4; i++) {
    struct device *dev = open_minimum (minimum[i]);

    image_content ("before", model, SIZE);
    for (k = image_scale (200); k > 0; k--)
      random_request (dev, &r, model, buf);
    assert_memory_equal (model, plugin.md->mem, SIZE);
    close_minimum (dev);
  }
  free (model);
  free (buf);
}

/* The filter. */

extern struct nbdkit_filter *filter_init (void);

static const struct image_file files[] = {
  { "vm.raw", 300000, true }, { NULL, 0, false },
};

static int
last_config (nbdkit_backend *nxdata, const char *key, const char *value)
{
  return -1;
}

static int
last_config_complete (nbdkit_backend *nxdata)
{
  return 0;
}

/* A handshake asks this of a connection. */
static void
ask_all (const struct nbdkit_filter *f, void *h)
{
  uint32_t minimum, preferred, maximum;

  assert_int_equal (f->get_size (NULL, h), 300000);
  assert_string_equal (f->export_description (NULL, h),
                       "/vm\\x0a inside an ext2/3/4 image: a\\x1bdisk");
  assert_int_equal (f->block_size (NULL, h, &minimum, &preferred, &maximum),
                    0);
  assert_int_equal (preferred, 1024);
  assert_int_equal (f->is_rotational (NULL, h), 1);
  assert_int_equal (f->can_write (NULL, h), 1);
  assert_int_equal (f->can_flush (NULL, h), 1);
  assert_int_equal (f->can_fua (NULL, h), NBDKIT_FUA_NATIVE);
  assert_int_equal (f->can_trim (NULL, h), 1);
  assert_int_equal (f->can_zero (NULL, h), NBDKIT_ZERO_NATIVE);
  assert_int_equal (f->can_fast_zero (NULL, h), 1);
  assert_int_equal (f->can_extents (NULL, h), 1);
  assert_int_equal (f->can_cache (NULL, h), NBDKIT_CACHE_NATIVE);
  assert_int_equal (f->can_multi_conn (NULL, h), 1);
}

/* A connection that nbdkit does not wait for when it ends goes on asking
 * while the filesystem is closed: what it is told stays as it was, and
 * comes from memory that is there.
 */
static void
test_after_the_end (void **state)
{
  struct nbdkit_filter *f = filter_init ();
  struct memdev *md = image_make ("-t ext4 -b 1024", SIZE, files);
  char description[] = "a\033disk";
  void *h;

  image_debugfs (md, "ln vm.raw \"vm\n\"");
  image_debugfs (md, "sif vm.raw links_count 2");
  plugin_init (md, 1);
  plugin.description = description;
  f->load ();
  assert_int_equal (f->config (last_config, NULL, "ext2file", "exportname"),
                    0);
  assert_int_equal (f->config (last_config, NULL, "ext2lock", "off"), 0);
  assert_int_equal (f->config_complete (last_config_complete, NULL), 0);
  assert_int_equal (f->get_ready (NBDKIT_THREAD_MODEL_PARALLEL), 0);

  /* Of a name that is not there, the log has no control character. */
  assert_null (f->open (NULL, NULL, 0, "no\nsuch\033\x9b" "file\x7f", 0));
  assert_non_null (strstr (said, "/no\\x0asuch\\x1b\\x9bfile\\x7f"));
  assert_int_equal (plugin.opened, 0);

  h = f->open (NULL, NULL, 0, "vm\n", 0);
  assert_non_null (h);
  assert_int_equal (f->prepare (NULL, h, 0), 0);
  ask_all (f, h);
  assert_int_equal (plugin.opened, 1);
  f->cleanup (NULL);
  assert_int_equal (plugin.opened, 0);
  memset (description, 'x', sizeof description - 1);
  ask_all (f, h);
  assert_int_equal (f->finalize (NULL, h), 0);
  f->close (h);
  /* And no new one comes in. */
  assert_null (f->open (NULL, NULL, 0, "vm\n", 0));
  assert_non_null (strstr (said, "shutting down"));
  assert_int_equal (plugin.opened, 0);
  f->unload ();
  image_assert_clean (md);
  memdev_free (md);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_minimum_trim),
    cmocka_unit_test (test_minimum_zero),
    cmocka_unit_test (test_reserve),
    cmocka_unit_test (test_minimum_pread),
    cmocka_unit_test (test_minimum_pwrite),
    cmocka_unit_test (test_minimum_random),
    cmocka_unit_test (test_after_the_end),      /* the last: it ends it */
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

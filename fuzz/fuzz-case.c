/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Inputs: see fuzz-case.h. */

#include <config.h>

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "errors.h"
#include "fuzz-case.h"
#include "fuzz-log.h"
#include "fuzz-sum.h"

void
fuzz_record_get (const uint8_t *p, struct fuzz_record *r)
{
  *r = (struct fuzz_record) { .kind = p[0], .class = p[1] };
  memcpy (&r->index, p + 2, 2);
  memcpy (&r->at, p + 4, 4);
  memcpy (&r->value, p + 8, 8);
  r->index = ext2fs_le16_to_cpu (r->index);
  r->at = ext2fs_le32_to_cpu (r->at);
  r->value = ext2fs_le64_to_cpu (r->value);
}

void
fuzz_record_put (uint8_t *p, const struct fuzz_record *r)
{
  const uint16_t index = ext2fs_cpu_to_le16 (r->index);
  const uint32_t at = ext2fs_cpu_to_le32 (r->at);
  const uint64_t value = ext2fs_cpu_to_le64 (r->value);

  p[0] = r->kind;
  p[1] = r->class;
  memcpy (p + 2, &index, 2);
  memcpy (p + 4, &at, 4);
  memcpy (p + 8, &value, 8);
}

bool
fuzz_case_parse (struct fuzz_case *c, const uint8_t *data, size_t size)
{
  struct fuzz_record head;

  if (size < FUZZ_RECORD)
    return false;
  memset (c, 0, sizeof *c);
  fuzz_record_get (data, &head);
  c->base = fuzz_base (head.kind);
  c->flags = head.class;
  c->fault = head.index % FUZZ_FAULTS;
  c->fault_at = head.at % 4096 + 1;
  c->size_bits = head.value & 63;
  for (data += FUZZ_RECORD, size -= FUZZ_RECORD;
       size >= FUZZ_RECORD && c->count < FUZZ_MOST_RECORDS;
       data += FUZZ_RECORD, size -= FUZZ_RECORD)
    fuzz_record_get (data, &c->records[c->count++]);
  return true;
}

bool
fuzz_case_is_healthy (const struct fuzz_case *c)
{
  unsigned i;

  for (i = 0; i < c->count; i++)
    if (c->records[i].kind != 0 && c->records[i].kind < FUZZ_READ)
      return false;
  return !(c->flags & FUZZ_DIRTY);
}

/* Another place that VALUE names: class (8), index (16), and a signed
 * byte.
 */
static const struct fuzz_place *
fuzz_other (const struct fuzz_case *c, uint64_t value)
{
  return fuzz_place (c->base, value & 255, value >> 8 & 0xffff);
}

static void
put (uint8_t *p, uint64_t value, unsigned len)
{
  for (; len > 0; len--, value >>= 8)
    *p++ = value;
}

static uint32_t
get32 (const uint8_t *p)
{
  return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t) p[3] << 24;
}

/* An extent entry, and as many entries as it takes. */
static void
put_extent (const struct fuzz_place *p, uint8_t *d,
            const struct fuzz_record *r)
{
  uint8_t *node = p->class == FUZZ_INODE
    ? d + offsetof (struct ext2_inode, i_block) : d;
  const unsigned room = p->class == FUZZ_INODE ? 4 : (p->len - 16) / 12;
  const unsigned n = r->at % room;

  if ((node[2] | node[3] << 8) <= (int) n)
    put (node + 2, n + 1, 2);
  put (node + 12 + 12 * n, r->value & 0xffffffff, 4);
  put (node + 12 + 12 * n + 4, r->value >> 32 & 0xffff, 2);
  put (node + 12 + 12 * n + 8, r->value >> 48, 4);
}

static void
put_name (uint8_t *d, uint32_t room, const struct fuzz_record *r)
{
  const uint32_t name = r->value >> 48 & 255;

  if (room < 8 + name)
    return;
  put (d, r->value & 0xffffffff, 4);
  put (d + 4, r->value >> 32 & 0xffff, 2);
  put (d + 6, name, 2);
  memset (d + 8, r->value >> 56, name);
}

static void
become (struct fuzz_case *c, struct fuzz_place p, const struct fuzz_record *r)
{
  p.class = (r->value & 255) % FUZZ_CLASSES;
  p.owner = r->value >> 8 & 0xffff;
  if (p.len == c->base->block_size && p.class >= FUZZ_TREE)
    fuzz_sum (c->base, &p);
}

static void
change (struct fuzz_case *c, const struct fuzz_record *r)
{
  const struct fuzz_place *p = fuzz_place (c->base, r->class, r->index), *o;
  uint8_t *all, *d;
  uint32_t room, n;

  if (p == NULL ||
      (all = fuzz_device_at (c->base->dev, p->offset, p->len)) == NULL)
    return;
  d = all + r->at % p->len;
  room = p->len - r->at % p->len;
  switch (r->kind) {
  case FUZZ_SET8: case FUZZ_SET16: case FUZZ_SET32: case FUZZ_SET64:
    n = 1u << (r->kind - FUZZ_SET8);
    put (d, r->value, n < room ? n : room);
    break;
  case FUZZ_SET32_BIG:
    put (d, ext2fs_swab32 ((uint32_t) r->value), 4 < room ? 4 : room);
    break;
  case FUZZ_ADD32:
    if (room >= 4)
      put (d, get32 (d) + r->value, 4);
    break;
  case FUZZ_POINT:
    o = fuzz_other (c, r->value);
    if (o && room >= 4)
      put (d, o->offset / c->base->block_size
           + (uint64_t) (int8_t) (r->value >> 24), 4);
    break;
  case FUZZ_COPY:
    o = fuzz_other (c, r->value);
    if (o && o->len == p->len)
      memmove (all, c->base->dev->mem + o->offset, p->len);
    break;
  case FUZZ_FILL:
    n = r->value >> 8 & 0xffff;
    memset (d, r->value & 255, n < room ? n : room);
    break;
  case FUZZ_EXTENT:
    put_extent (p, all, r);
    break;
  case FUZZ_NAME:
    put_name (d, room, r);
    break;
  }
}

static void
set_capabilities (struct fuzz_case *c)
{
  struct device *dev = &c->base->dev->dev;

  if (c->flags & FUZZ_NO_ZERO)
    dev->can_zero = dev->can_fast_zero = false;
  if (c->flags & FUZZ_NO_TRIM)
    dev->can_trim = false;
  if (c->flags & FUZZ_NO_FUA)
    dev->can_fua = false;
  if (c->flags & FUZZ_NO_FLUSH)
    dev->can_flush = false;
  if (c->size_bits < 48 && (UINT64_C (1) << c->size_bits) > dev->size)
    dev->size = UINT64_C (1) << c->size_bits;
}

static void
set_needs_recovery (struct fuzz_case *c)
{
  const size_t at = 1024
    + offsetof (struct ext2_super_block, s_feature_incompat);
  uint8_t *p = fuzz_device_at (c->base->dev, at, 4);

  put (p, get32 (p) | EXT3_FEATURE_INCOMPAT_RECOVER, 4);
}

void
fuzz_case_damage (struct fuzz_case *c)
{
  struct fuzz_log log;
  unsigned i;

  fuzz_device_reset (c->base->dev);
  fuzz_log_init (&log, c->base);
  for (i = 0; i < c->count; i++) {
    const struct fuzz_record *r = &c->records[i];

    if (r->kind >= FUZZ_LOG_BLOCK && r->kind <= FUZZ_LOG_START)
      fuzz_log_record (&log, r);
    else if (r->kind < FUZZ_LOG_BLOCK)
      change (c, r);
  }
  fuzz_log_fini (&log);
  if (c->flags & FUZZ_DIRTY)
    set_needs_recovery (c);
  if (!(c->flags & FUZZ_NO_SUMS))
    fuzz_sum_all (c->base);
  for (i = 0; i < c->count; i++) {
    const struct fuzz_record *r = &c->records[i];
    const struct fuzz_place *p = fuzz_place (c->base, r->class, r->index);

    if (r->kind == FUZZ_BECOME && p)
      become (c, *p, r);
  }
  set_capabilities (c);
}

/* While opening waits, others may write: whom this thread opens for. */
static _Thread_local struct fuzz_case *waiting;

static bool
wait (unsigned milliseconds)
{
  struct fuzz_case *c = waiting;

  (void) milliseconds;
  while (c->meanwhile < c->count) {
    struct fuzz_record r = c->records[c->meanwhile++];

    if (r.kind != FUZZ_MEANWHILE)
      continue;
    if (r.class == 255)
      return false;
    r.kind = FUZZ_SET32;
    change (c, &r);
    if (!(c->flags & FUZZ_NO_SUMS))
      fuzz_sum_all (c->base);
    break;
  }
  return true;
}

errcode_t
fuzz_case_open (struct fuzz_case *c, bool readonly, struct filesystem **fsp)
{
  const struct filesystem_options opts = {
    .readonly = readonly, .wait = wait,
  };
  struct fuzz_device *d = c->base->dev;
  errcode_t err;

  waiting = c;
  d->frozen = readonly;
  d->dev.revoked = false;       /* each opening has a new one */
  err = filesystem_open (&d->dev, &opts, fsp);
  if (!err && (*fsp)->writable && readonly)
    fuzz_die ("writable although opened for reading");
  return err;
}

/* What is logged is one line, whatever an image or a client says. */
static void
check_line (enum log_level level, const char *line)
{
  static int show = -1;
  const unsigned char *p;

  if (show < 0)
    show = getenv ("V") != NULL;
  if (show)
    fprintf (stderr, "# %d %s\n", (int) level, line);
  for (p = (const unsigned char *) line; *p; p++)
    if (*p < ' ' || *p == 127)
      fuzz_die ("a log line with character %d", *p);
}

/* What the sanitizers are told unless the environment says otherwise: a
 * large quarantine costs more time than it finds.
 */
extern const char *__asan_default_options (void);

const char *
__asan_default_options (void)
{
  return "quarantine_size_mb=4:malloc_context_size=8:"
    "allocator_release_to_os_interval_ms=-1:use_sigaltstack=0:"
    "max_allocation_size_mb=256:allocator_may_return_null=0";
}

void
fuzz_init (void)
{
  errors_init (check_line);
}

int
LLVMFuzzerInitialize (int *argc, char ***argv)
{
  (void) argc;
  (void) argv;
  fuzz_init ();
  return 0;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static struct fuzz_case c;

  if (fuzz_case_parse (&c, data, size))
    fuzz_harness.run (&c);
  return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What reaches the device, and what its errors mean. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ext2fs/ext2fs.h>

#include "device.h"
#include "errors.h"
#include "fs.h"

static unsigned errors_said;

static void
quiet (enum log_level level, const char *line)
{
  (void) line;
  errors_said += level == LOG_LEVEL_ERROR;
}

/* A device that only remembers what it is asked. */

enum op { READ, WRITE, ZERO, TRIM, CACHE, FLUSH };

#define CALLS 64

struct fake {
  struct device dev;
  struct call { enum op op; uint32_t count; uint64_t offset; unsigned flags; }
    calls[CALLS];
  unsigned n;
  errcode_t error[FLUSH + 1];   /* what the operations answer */
  errcode_t fua_error;          /* what writes with FUA answer */
};

static errcode_t
record (struct device *dev, enum op op, uint32_t count, uint64_t offset,
        unsigned flags)
{
  struct fake *f = (struct fake *) dev;

  assert_true (f->n < CALLS);
  if (op != FLUSH) {
    assert_true (count > 0);
    assert_true (offset <= dev->size && count <= dev->size - offset);
  }
  f->calls[f->n++] = (struct call) { op, count, offset, flags };
  return flags & DEVICE_FUA ? f->fua_error : f->error[op];
}

static errcode_t
fake_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  (void) buf;
  return record (dev, READ, count, offset, 0);
}

static errcode_t
fake_pwrite (struct device *dev, const void *buf, uint32_t count,
             uint64_t offset, unsigned flags)
{
  (void) buf;
  return record (dev, WRITE, count, offset, flags);
}

static errcode_t
fake_zero (struct device *dev, uint32_t count, uint64_t offset,
           unsigned flags)
{
  return record (dev, ZERO, count, offset, flags);
}

static errcode_t
fake_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  return record (dev, TRIM, count, offset, 0);
}

static errcode_t
fake_cache (struct device *dev, uint32_t count, uint64_t offset)
{
  return record (dev, CACHE, count, offset, 0);
}

static errcode_t
fake_flush (struct device *dev)
{
  return record (dev, FLUSH, 0, 0, 0);
}

#define MIB (UINT64_C (1) << 20)
#define SIZE (1024 * MIB)

static const struct device_ops fake_ops = {
  .pread = fake_pread, .pwrite = fake_pwrite, .zero = fake_zero,
  .trim = fake_trim, .cache = fake_cache, .flush = fake_flush,
};

static void
fake_init (struct fake *f)
{
  memset (f, 0, sizeof *f);
  f->dev = (struct device) {
    .ops = &fake_ops, .size = SIZE, .writable = true, .parallel = true,
    .can_flush = true, .can_fua = true, .can_zero = true,
    .can_fast_zero = true, .can_trim = true, .can_cache = true,
  };
}

static void
assert_call (struct fake *f, unsigned i, enum op op, uint64_t count,
             uint64_t offset, unsigned flags)
{
  assert_true (i < f->n);
  assert_int_equal (f->calls[i].op, op);
  assert_int_equal (f->calls[i].count, count);
  assert_int_equal (f->calls[i].offset, offset);
  assert_int_equal (f->calls[i].flags, flags);
}

/* Damaged metadata lead anywhere; the device must not see it. */
static void
test_bounds (void **state)
{
  static const uint64_t bad[][2] = {    /* count, offset */
    { 1, SIZE }, { 2, SIZE - 1 }, { SIZE + 1, 0 }, { 0, SIZE + 1 },
    { UINT64_MAX, 1 }, { UINT64_MAX, UINT64_MAX }, { 1, UINT64_MAX },
    { UINT64_MAX - SIZE + 2, SIZE },
  };
  struct fake f;
  char c = 0;
  size_t i;

  (void) state;
  fake_init (&f);
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    uint64_t n = bad[i][0], at = bad[i][1];

    assert_int_equal (device_pread (&f.dev, &c, n, at), EIO);
    assert_int_equal (device_pwrite (&f.dev, &c, n, at, 0), EIO);
    assert_int_equal (device_zero (&f.dev, n, at, 0), EIO);
    assert_int_equal (device_cache (&f.dev, n, at), EIO);
    device_trim (&f.dev, n, at);
  }
  assert_int_equal (f.n, 0);
}

static void
test_nothing (void **state)
{
  static const uint64_t at[] = { 0, 5, SIZE };
  struct fake f;
  size_t i;

  (void) state;
  fake_init (&f);
  for (i = 0; i < 3; i++) {
    assert_int_equal (device_pread (&f.dev, NULL, 0, at[i]), 0);
    assert_int_equal (device_pwrite (&f.dev, NULL, 0, at[i], 0), 0);
    assert_int_equal (device_zero (&f.dev, 0, at[i], 0), 0);
    assert_int_equal (device_cache (&f.dev, 0, at[i]), 0);
    device_trim (&f.dev, 0, at[i]);
  }
  assert_int_equal (f.n, 0);
}

static void
test_splitting (void **state)
{
  char *buf = malloc (200 * MIB);       /* never touched */
  struct fake f;
  unsigned op, i;

  (void) state;
  assert_non_null (buf);
  for (op = READ; op <= CACHE; op++) {
    fake_init (&f);
    if (op == READ)
      assert_int_equal (device_pread (&f.dev, buf, 150 * MIB, 7), 0);
    else if (op == WRITE)
      assert_int_equal (device_pwrite (&f.dev, buf, 150 * MIB, 7, 0), 0);
    else if (op == ZERO)
      assert_int_equal (device_zero (&f.dev, 150 * MIB, 7, 0), 0);
    else if (op == TRIM)
      device_trim (&f.dev, 150 * MIB, 7);
    else
      assert_int_equal (device_cache (&f.dev, 150 * MIB, 7), 0);
    assert_int_equal (f.n, 3);
    for (i = 0; i < 3; i++)
      assert_call (&f, i, op, i < 2 ? 64 * MIB : 22 * MIB, 64 * MIB * i + 7,
                   0);
  }
  free (buf);
}

static void
test_zero_fallback (void **state)
{
  struct fake f;
  uint64_t at = 3;
  unsigned i;

  (void) state;
  /* None, or one that refuses: zeros are written. */
  for (i = 0; i < 2; i++) {
    uint64_t next = at;
    unsigned k;

    fake_init (&f);
    f.dev.can_zero = i;
    f.error[ZERO] = ENOTSUP;
    assert_int_equal (device_zero (&f.dev, MIB, at, 0), 0);
    assert_true (f.n > i);
    for (k = i; k < f.n; k++) {
      assert_call (&f, k, WRITE, f.calls[k].count, next, 0);
      next += f.calls[k].count;
    }
    assert_int_equal (next, at + MIB);
  }
  /* But never where it was to be quick. */
  fake_init (&f);
  f.error[ZERO] = ENOTSUP;
  assert_int_equal (device_zero (&f.dev, MIB, at, DEVICE_FAST), ENOTSUP);
  assert_call (&f, 0, ZERO, MIB, at, DEVICE_FAST);
  f.dev.can_fast_zero = false;
  assert_int_equal (device_zero (&f.dev, MIB, at, DEVICE_FAST), ENOTSUP);
  assert_int_equal (f.n, 1);
  /* Another error is not an excuse for trying again. */
  fake_init (&f);
  f.error[ZERO] = ENOSPC;
  assert_int_equal (device_zero (&f.dev, MIB, at, 0), ENOSPC);
  assert_int_equal (f.n, 1);
}

static void
test_fua_fallback (void **state)
{
  struct fake f;
  char buf[512] = { 0 };

  (void) state;
  fake_init (&f);
  assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA), 0);
  assert_int_equal (f.n, 1);
  assert_call (&f, 0, WRITE, 512, 0, DEVICE_FUA);

  fake_init (&f);
  f.dev.can_fua = false;
  assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA), 0);
  assert_int_equal (f.n, 2);
  assert_call (&f, 0, WRITE, 512, 0, 0);
  assert_call (&f, 1, FLUSH, 0, 0, 0);
}

/* Whatever an operation answers, only what device.h lists comes out. */

static const errcode_t answers[] = {
  EIO, ENOMEM, ESHUTDOWN, ENOSPC, EDQUOT, EFBIG, EROFS, EPERM, ENOTSUP,
  EINVAL, EAGAIN, EBUSY, ENOENT, ENOKEY, ENAMETOOLONG, ECANCELED, EINTR,
  ERANGE, ETIMEDOUT, 4095, 4096, EXT2_ET_BLOCK_ALLOC_FAIL,
  EXT2_FILSYS_CORRUPTED, EXT2_ET_FILE_NOT_FOUND, EXT2_ET_NO_MEMORY,
  TRANSACTION_FULL, NOT_AT_GOAL,
};
#define ANSWERS (sizeof answers / sizeof answers[0])

static errcode_t
expected (errcode_t answer, bool change)
{
  switch (answer) {
  case ENOMEM:
  case ESHUTDOWN:
    return answer;
  case EROFS:
  case EPERM:
    return change ? answer : EIO;
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
    return change ? ENOSPC : EIO;
  default:
    return EIO;
  }
}

static void
test_meaning (void **state)
{
  char buf[512] = { 0 };
  struct fake f;
  size_t i;

  (void) state;
  for (i = 0; i < ANSWERS; i++) {
    const errcode_t e = answers[i];

    fake_init (&f);
    f.error[READ] = f.error[WRITE] = f.error[ZERO] = f.error[TRIM]
      = f.error[CACHE] = f.error[FLUSH] = e;
    assert_int_equal (device_pread (&f.dev, buf, 512, 0),
                      expected (e, false));
    assert_int_equal (device_cache (&f.dev, 512, 0), expected (e, false));
    assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, 0),
                      expected (e, true));
    assert_int_equal (device_zero (&f.dev, 512, 0, 0), expected (e, true));
    assert_int_equal (device_zero (&f.dev, 512, 0, DEVICE_FAST),
                      e == ENOTSUP ? ENOTSUP : expected (e, true));
    device_trim (&f.dev, 512, 0);
    assert_false (device_flush_failed (&f.dev));
    assert_int_equal (device_flush (&f.dev), expected (e, true));
    assert_true (device_flush_failed (&f.dev));
  }
}

/* A flush that fails is remembered, and said once. */
static void
test_flush_failed (void **state)
{
  struct fake f;

  (void) state;
  fake_init (&f);
  errors_said = 0;
  f.error[FLUSH] = EIO;
  assert_int_equal (device_flush (&f.dev), EIO);
  assert_int_equal (device_flush (&f.dev), EIO);
  f.error[FLUSH] = 0;
  assert_int_equal (device_flush (&f.dev), 0);
  assert_true (device_flush_failed (&f.dev));
  assert_int_equal (errors_said, 1);
}

/* A write with FUA fails: what of it did? */
static void
test_fua_failed (void **state)
{
  char buf[512] = { 0 };
  struct fake f;
  unsigned fua;

  (void) state;
  /* The write itself: it concerns nobody else. */
  for (fua = 0; fua < 2; fua++) {
    fake_init (&f);
    f.dev.can_fua = fua;
    f.fua_error = f.error[WRITE] = ENOSPC;
    assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA),
                      ENOSPC);
    assert_false (device_flush_failed (&f.dev));
    f.fua_error = f.error[WRITE] = 0;
    assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA), 0);
    assert_int_equal (device_flush (&f.dev), 0);
    assert_false (device_flush_failed (&f.dev));
  }

  /* The rest, whether it is a call of ours or hidden in the plugin. */
  fake_init (&f);
  f.dev.can_fua = false;
  f.error[FLUSH] = EIO;
  assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA), EIO);
  assert_true (device_flush_failed (&f.dev));
  fake_init (&f);
  f.fua_error = EIO;
  assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA), EIO);
  assert_true (device_flush_failed (&f.dev));

  /* Both. */
  fake_init (&f);
  f.fua_error = f.error[WRITE] = f.error[FLUSH] = EIO;
  assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, DEVICE_FUA), EIO);
  assert_true (device_flush_failed (&f.dev));
}

static void
test_readonly_device (void **state)
{
  struct fake f;
  char buf[512] = { 0 };

  (void) state;
  fake_init (&f);
  f.dev.writable = false;
  assert_int_equal (device_pwrite (&f.dev, buf, 512, 0, 0), EROFS);
  assert_int_equal (device_zero (&f.dev, 512, 0, 0), EROFS);
  assert_int_equal (device_flush (&f.dev), 0);
  device_trim (&f.dev, 512, 0);
  assert_int_equal (f.n, 0);
  assert_int_equal (device_pread (&f.dev, buf, 512, 0), 0);
  f.dev.can_cache = false;
  assert_int_equal (device_cache (&f.dev, 512, 0), 0);
  assert_int_equal (f.n, 1);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_bounds),
    cmocka_unit_test (test_nothing),
    cmocka_unit_test (test_splitting),
    cmocka_unit_test (test_zero_fallback),
    cmocka_unit_test (test_fua_fallback),
    cmocka_unit_test (test_readonly_device),
    cmocka_unit_test (test_meaning),
    cmocka_unit_test (test_flush_failed),
    cmocka_unit_test (test_fua_failed),
  };

  errors_init (quiet);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

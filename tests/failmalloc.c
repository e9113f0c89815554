/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Allocations that fail: see failmalloc.h. */

#include <config.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "failmalloc.h"

static atomic_bool active;
static _Atomic uint64_t seen;
static uint64_t from, to;       /* [constant while active] */

void
failmalloc_start (uint64_t n, uint64_t count)
{
  from = n;
  to = count < UINT64_MAX - n ? n + count : UINT64_MAX;
  atomic_store (&seen, 0);
  atomic_store (&active, true);
}

uint64_t
failmalloc_stop (void)
{
  atomic_store (&active, false);
  return atomic_load (&seen);
}

static bool
fails (void)
{
  uint64_t n;

  if (!atomic_load (&active))
    return false;
  n = atomic_fetch_add (&seen, 1) + 1;
  if (n < from || n >= to)
    return false;
  errno = ENOMEM;
  return true;
}

/* The linker's --wrap: calls of NAME come to __wrap_NAME, and those of
 * __real_NAME go to NAME.
 */
#define WRAP(type, name, params, args)          \
  extern type __real_##name params;             \
  extern type __wrap_##name params;             \
                                                \
  type                                          \
  __wrap_##name params                          \
  {                                             \
    return fails () ? NULL : __real_##name args; \
  }

WRAP (void *, malloc, (size_t n), (n))
WRAP (void *, calloc, (size_t n, size_t size), (n, size))
WRAP (void *, realloc, (void *p, size_t n), (p, n))
WRAP (void *, aligned_alloc, (size_t align, size_t n), (align, n))
WRAP (char *, strdup, (const char *s), (s))

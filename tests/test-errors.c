/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a client is told. */

#include <config.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <ext2fs/ext2fs.h>

#include "errors.h"

static void
quiet (enum log_level level, const char *line)
{
  (void) level;
  (void) line;
}

static void
test_translator (void **state)
{
  static const struct { errcode_t err; int expect; } table[] = {
    { 0, 0 },
    { EIO, EIO },
    { ENOSPC, ENOSPC },
    { EROFS, EROFS },
    { ENOMEM, ENOMEM },
    { ENOTSUP, ENOTSUP },
    { ESHUTDOWN, ESHUTDOWN },
    { EXT2_ET_NO_MEMORY, ENOMEM },
    { EXT2_ET_BLOCK_ALLOC_FAIL, ENOSPC },
    { EXT2_ET_INLINE_DATA_NO_SPACE, ENOSPC },
    { EXT2_ET_RO_FILSYS, EROFS },
    { EXT2_ET_FILE_NOT_FOUND, ENOENT },
    { EXT2_ET_FILE_TOO_BIG, EFBIG },
    { EXT2_ET_OP_NOT_SUPPORTED, EIO },
    { EXT2_ET_UNIMPLEMENTED, EIO },
    { EXT2_FILSYS_CORRUPTED, EIO },
    { EXT2_ET_BAD_MAGIC, EIO },
    { -1, EIO },
    { 1L << 40, EIO },
  };
  errcode_t err;
  size_t i;

  (void) state;
  for (i = 0; i < sizeof table / sizeof table[0]; i++)
    assert_int_equal (errcode_to_errno (table[i].err), table[i].expect);
  /* Of the whole table nothing is success, or a missing operation. */
  for (err = EXT2_ET_BASE; err < EXT2_ET_BASE + 256; err++) {
    assert_in_range (errcode_to_errno (err), 1, 4095);
    assert_int_not_equal (errcode_to_errno (err), ENOTSUP);
  }
}

static void
test_text (void **state)
{
  char buf[64], tiny[4];

  (void) state;
  assert_string_equal (errcode_text (ENOSPC, buf, sizeof buf),
                       strerror (ENOSPC));
  assert_ptr_equal (errcode_text (EXT2_ET_BAD_MAGIC, buf, sizeof buf), buf);
  assert_non_null (strstr (buf, "magic"));
  assert_int_equal (strlen (errcode_text (EIO, tiny, sizeof tiny)), 3);
  assert_int_not_equal (strlen (errcode_text (-1, buf, sizeof buf)), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_translator),
    cmocka_unit_test (test_text),
  };

  errors_init (quiet);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

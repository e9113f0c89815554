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
    { 1L << 30, EIO },
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

/* What clients and images call things cannot look like anything else. */
static void
test_escape (void **state)
{
  static const struct { const char *text, *line; } table[] = {
    { "", "" },
    { "/vm.raw: no such file", "/vm.raw: no such file" },
    { "a\nb\r\tc", "a\\x0ab\\x0d\\x09c" },
    { "\x1b[2J\x7f", "\\x1b[2J\\x7f" },
    { "\x9b" "A\xc2\x9b", "\\x9bA\\xc2\\x9b" },     /* C1, bare and UTF-8 */
    { "\xe2\x80\xae", "\\xe2\\x80\\xae" },           /* right to left */
    { "\\x0a", "\\\\x0a" },                          /* not a newline */
    { " ~%s", " ~%s" },
  };
  char out[64];
  size_t i;

  (void) state;
  for (i = 0; i < sizeof table / sizeof table[0]; i++) {
    assert_ptr_equal (log_escape (out, sizeof out, table[i].text), out);
    assert_string_equal (out, table[i].line);
  }
}

/* Cut between characters, whatever the room. */
static void
test_escape_cut (void **state)
{
  const char *whole = "ab\\x0a\\\\\\x1bcd\\xffef";
  const char *text = "ab\n\\\x1b" "cd\xff" "ef";
  size_t size, end[] = { 0, 1, 2, 6, 8, 12, 13, 14, 18, 19, 20 }, i;
  char out[64];

  (void) state;
  for (size = 4; size < sizeof out; size++) {
    memset (out, '#', sizeof out);
    log_escape (out, size, text);
    assert_int_equal (out[size], '#');
    if (size > strlen (whole)) {
      assert_string_equal (out, whole);
      continue;
    }
    assert_in_range (strlen (out), 3, size - 1);
    assert_string_equal (out + strlen (out) - 3, "...");
    for (i = 0; end[i] != strlen (out) - 3; i++)
      assert_true (i + 1 < sizeof end / sizeof end[0]);
    assert_memory_equal (out, whole, end[i]);
    /* As much as fits. */
    assert_true (end[i + 1] + 4 > size);
  }
}

static char logged[4096];

static void
remember (enum log_level level, const char *line)
{
  (void) level;
  assert_true (strlen (line) < sizeof logged);
  strcpy (logged, line);
}

/* All lines go that way. */
static void
test_escaped_lines (void **state)
{
  static void (*const say[]) (const char *, ...) = {
    log_error, log_warning, log_debug,
  };
  static char name[5000];
  size_t i;

  (void) state;
  errors_init (remember);
  for (i = 0; i < 3; i++) {
    say[i] ("%s: %s", "/a\nnbdkit: error: b", "\x1b]0;c");
    assert_string_equal (logged, "/a\\x0anbdkit: error: b: \\x1b]0;c");
  }
  memset (name, '\n', sizeof name - 1);
  log_error ("%s", name);
  assert_true (strlen (logged) > 1000);
  assert_int_equal (strspn (logged, "\\x0a"), strlen (logged) - 3);
  assert_int_equal ((strlen (logged) - 3) % 4, 0);
  com_err ("who", EIO, "a\nb");
  assert_non_null (strstr (logged, "who: a\\x0ab: "));
  errors_init (quiet);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_translator),
    cmocka_unit_test (test_text),
    cmocka_unit_test (test_escape),
    cmocka_unit_test (test_escape_cut),
    cmocka_unit_test (test_escaped_lines),
  };

  errors_init (quiet);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

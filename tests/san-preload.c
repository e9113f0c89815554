/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Preloaded into nbdkit beside the sanitizer's run-time library (see
 * nbdkit.in), to make an uninstrumented server a good host for it.
 */

#include <config.h>

#include <locale.h>
#include <stdlib.h>

int dlclose (void *handle);

/* Programs that nbdkit starts (--run, the sh and eval plugins) are not ours
 * to check: they must not inherit the run-time library.
 */
static void __attribute__ ((constructor))
keep_preload_from_children (void)
{
  unsetenv ("LD_PRELOAD");
}

/* A filter that is gone when reports are made at exit has no symbols in
 * them, and what its globals pointed to counts as leaked.
 */
int __attribute__ ((visibility ("default")))
dlclose (void *handle)
{
  return 0;
}

/* libp11-kit, which comes with GnuTLS, frees a locale when the process
 * ends; under libtsan that waits for ever for a lock inside libc.
 */
void __attribute__ ((visibility ("default")))
freelocale (locale_t locale)
{
}

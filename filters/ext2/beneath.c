/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What the command line says of the plugin and filters beneath. */

#include <config.h>

#include <link.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <nbdkit-filter.h>

#include "beneath.h"

static bool by_directory;       /* file plugin: dir= or dirfd= */
static bool by_client;          /* nbd plugin: dynamic-export=true */
static char *file;              /* the last file=, absolute */

static int
has_name (struct dl_phdr_info *info, size_t size, void *name)
{
  const char *slash = strrchr (info->dlpi_name, '/');

  return strcmp (slash ? slash + 1 : info->dlpi_name, name) == 0;
}

/* Has nbdkit loaded the object of this name, "nbdkit-file-plugin.so"?  It
 * has loaded all it was told to before it passes on the first parameter.
 */
static bool
is_loaded (const char *name)
{
  return dl_iterate_phdr (has_name, (void *) name) != 0;
}

int
beneath_config (const char *key, const char *value)
{
  int is_true;

  if (strcmp (key, "dir") == 0 || strcmp (key, "directory") == 0 ||
      strcmp (key, "dirfd") == 0)
    by_directory = true;
  if (strcmp (key, "file") == 0) {
    free (file);
    file = realpath (value, NULL);
  }
  if (strcmp (key, "dynamic-export") == 0 ||
      strcmp (key, "dynamic_export") == 0) {
    is_true = nbdkit_parse_bool (value);
    if (is_true == -1)
      return -1;
    by_client = is_true;
  }
  return 0;
}

/* Is a context without a connection opened with the name that it is asked
 * for?  Otherwise the plugin gets an error, and no name.
 */
static bool
names_are_passed (void)
{
  return NBDKIT_VERSION_MAJOR > 1 || NBDKIT_VERSION_MINOR > 43 ||
    (NBDKIT_VERSION_MINOR == 43 && NBDKIT_VERSION_MICRO >= 9);
}

static int
refuse (const char *what)
{
  nbdkit_error ("ext2: %s lets each client choose an image by its export's "
                "name, but this filter opens one image for all clients: "
                "name that image, and run one nbdkit for each", what);
  return -1;
}

int
beneath_check (void)
{
  if (by_directory && is_loaded ("nbdkit-file-plugin.so"))
    return refuse ("the file plugin with dir=");
  if (is_loaded ("nbdkit-ondemand-plugin.so"))
    return refuse ("the ondemand plugin");
  if (by_client && !names_are_passed () &&
      is_loaded ("nbdkit-nbd-plugin.so"))
    return refuse ("the nbd plugin with dynamic-export=true");
  return 0;
}

/* Of other plugins file= may mean anything, and they may read more. */
const char *
beneath_image (void)
{
  return is_loaded ("nbdkit-file-plugin.so") ? file : NULL;
}

bool
beneath_is_private (void)
{
  return is_loaded ("nbdkit-cow-filter.so");
}

void
beneath_free (void)
{
  free (file);
  file = NULL;
}

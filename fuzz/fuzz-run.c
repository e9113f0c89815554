/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Runs saved inputs, without libFuzzer: fuzz-NAME FILE... */

#include <config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz-case.h"

/* For one of them: after so many seconds it hangs. */
#define HANG 60

static void
run (const char *path)
{
  uint8_t data[FUZZ_RECORD * (FUZZ_MOST_RECORDS + 1)];
  FILE *f = fopen (path, "re");
  size_t n;

  if (f == NULL)
    fuzz_die ("%s: cannot be opened", path);
  n = fread (data, 1, sizeof data, f);
  fclose (f);
  /* What ends the program leaves the name of the input. */
  fprintf (stderr, "%s\n", path);
  alarm (HANG);
  LLVMFuzzerTestOneInput (data, n);
  alarm (0);
}

int
main (int argc, char **argv)
{
  int i;

  LLVMFuzzerInitialize (&argc, &argv);
  for (i = 1; i < argc; i++)
    run (argv[i]);
  printf ("%s: %d inputs\n", fuzz_harness.name, argc - 1);
  return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Per-thread state of the lock order check. */

#include <config.h>

#include "locks.h"

#ifdef EXT2_DEBUG_CHECKS
_Thread_local unsigned locks_held;
#else
/* ISO C wants something in every translation unit. */
extern int locks_not_checked;
int locks_not_checked;
#endif

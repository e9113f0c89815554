/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The block device over nbdkit's next layer. */

#ifndef EXT2_NEXTDEV_H
#define EXT2_NEXTDEV_H

#include <stdbool.h>

#include <nbdkit-filter.h>

#include "device.h"

/* Opens the plugin's default export over BACKEND with a context of its
 * own that no connection owns, and asks it everything once: the answers
 * are cached by nbdkit without a lock.  THREAD_MODEL is the server's
 * final model.  Logs and returns NULL on failure.
 */
extern struct device *nextdev_open (nbdkit_backend *backend, bool readonly,
                                    int thread_model);

extern void nextdev_close (struct device *dev);

/* What the plugin says of itself; NULL if nothing. */
extern const char *nextdev_description (const struct device *dev);
extern bool nextdev_is_rotational (const struct device *dev);

#endif /* EXT2_NEXTDEV_H */

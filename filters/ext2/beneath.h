/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What the command line says of the plugin and filters beneath: nbdkit
 * tells a filter neither their names nor what they will do with a context
 * of its own, but passes it their parameters.
 */

#ifndef EXT2_BENEATH_H
#define EXT2_BENEATH_H

#include <stdbool.h>

/* A parameter that is not ours, on its way to them.  Logs and returns -1
 * if this cannot be.
 */
extern int beneath_config (const char *key, const char *value);

/* All parameters have come.  Logs and returns -1 if clients choose the
 * image by their export's name: it is opened once, for all of them, and
 * on nbdkit before 1.43.9 with no name at all, which the file and nbd
 * plugins do not survive.
 */
extern int beneath_check (void);

/* After all parameters.  The file that the image is, or is in; NULL if
 * that is not known.
 */
extern const char *beneath_image (void);

/* Does the cow filter keep what is written from the image?  Only for who
 * may write: above, it lets nobody.
 */
extern bool beneath_is_private (void);

/* At unload. */
extern void beneath_free (void);

#endif /* EXT2_BENEATH_H */

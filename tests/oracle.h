/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* What a file may hold after a power cut.
 *
 * The requests on a file cut it into pieces that lie within one sector
 * and belong wholly to a request or not at all.  After a cut a piece
 * must hold one version, whole: what a request made of it that began
 * before the cut, or what was there when the log began.  Never another
 * file's, another offset's, a free block's or a trimmed block's bytes.
 *
 * A request is *settled* at a cut if it succeeded, and was answered
 * either with FUA, or before a flush began that was answered, all before
 * the cut.  A version is too old if a settled write or zero began after
 * its request had been answered.  So the last settled version must be
 * there, or a later one, or one of a request that overlapped with it in
 * time.  A request that failed may have done part of its work.  A trim's
 * version is zeros, but it makes no other too old: it is only advice.
 */

#ifndef ORACLE_H
#define ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crash-log.h"

struct oracle;

/* FILE, SIZE bytes, held INITIAL; REQUESTS, those of other files too
 * (flushes concern all), must stay.
 */
extern struct oracle *oracle_new (uint32_t file, const uint8_t *initial,
                                  uint64_t size,
                                  const struct crash_record *requests,
                                  size_t count);
extern void oracle_free (struct oracle *o);

/* Is BUF, the whole file, right after a cut at stamp AT?  If not, WHY
 * says what is wrong.
 */
extern bool oracle_check (const struct oracle *o, const uint8_t *buf,
                          uint64_t at, char *why, size_t len);

#endif /* ORACLE_H */

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Threads of the library's own. */

#ifndef EXT2SERVE_THREAD_H
#define EXT2SERVE_THREAD_H

#include <pthread.h>

/* Starts one that runs FN (ARG), to be joined; an error number or 0.
 * Signals are for the server's own threads: it gets none.
 */
extern int thread_start (pthread_t *thread, void *(*fn) (void *), void *arg);

#endif /* EXT2SERVE_THREAD_H */

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

# A plugin of each thread model that ends the server if it is entered
# against its model, under parallel clients.

# shellcheck source=tests/functions.sh
source "${srcdir:-$(dirname "$0")}/functions.sh"
requires mke2fs debugfs e2fsck dumpe2fs python3 cc
requires_plugin cc
requires_client client-shadow

img=$tmp/disk.img
mkdir "$tmp/src"
make_raw "$tmp/src/vm.raw" 4M 0:1M every=1M:30K
cat > "$tmp/model.c" <<'END'
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <nbdkit-plugin.h>

#define THREAD_MODEL MODEL

/* Entered twice in a way the model excludes: end the server loudly. */
struct handle { int busy; };
static int fd = -1, busy;

static void
enter (struct handle *h, int d)
{
  int r = __atomic_add_fetch (&h->busy, d, __ATOMIC_SEQ_CST);
  int all = __atomic_add_fetch (&busy, d, __ATOMIC_SEQ_CST);

  if (r > 1 || (all > 1 &&
                THREAD_MODEL < NBDKIT_THREAD_MODEL_SERIALIZE_REQUESTS)) {
    nbdkit_error ("Assertion: entered against the thread model");
    abort ();
  }
  if (d > 0)
    usleep (50);
}

static int
model_config (const char *key, const char *value)
{
  fd = open (value, O_RDWR|O_CLOEXEC);
  return fd >= 0 && strcmp (key, "image") == 0 ? 0 : -1;
}

static void *model_open (int ro) { return calloc (1, sizeof (struct handle)); }
static void model_close (void *h) { free (h); }
static int64_t model_get_size (void *h) { return lseek (fd, 0, SEEK_END); }
static int model_flush (void *h, uint32_t f) { return 0; }

static int
model_pread (void *h, void *buf, uint32_t n, uint64_t off, uint32_t f)
{
  enter (h, 1);
  ssize_t r = pread (fd, buf, n, off);
  enter (h, -1);
  return r == n ? 0 : -1;
}

static int
model_pwrite (void *h, const void *buf, uint32_t n, uint64_t off, uint32_t f)
{
  enter (h, 1);
  ssize_t r = pwrite (fd, buf, n, off);
  enter (h, -1);
  return r == n ? 0 : -1;
}

static struct nbdkit_plugin plugin = {
  .name = "model", .config = model_config, .open = model_open,
  .close = model_close, .get_size = model_get_size, .pread = model_pread,
  .pwrite = model_pwrite, .flush = model_flush,
};
NBDKIT_REGISTER_PLUGIN (plugin)
END
for model in SERIALIZE_CONNECTIONS SERIALIZE_ALL_REQUESTS SERIALIZE_REQUESTS; do
    clients=8
    [ $model != SERIALIZE_CONNECTIONS ] || clients=1
    make_fs "$img" 32M -t ext4 -d "$tmp/src"
    dirty_free "$img"
    serve --filter=ext2 cc "$tmp/model.c" image="$img" ext2file=/vm.raw \
          CC=cc "CFLAGS=-O1 -fPIC -shared -w -DMODEL=NBDKIT_THREAD_MODEL_$model"
    shadow -c $clients -l 3 -n "$(scaled 150)" -i "$tmp/src/vm.raw" \
           -o "$tmp/shadow" "$uri"
    stop
    check_file "$img" /vm.raw "$tmp/shadow"
    echo "$model: right"
done

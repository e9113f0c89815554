/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A request for which there is no space gets what comes back while it
 * looks: from a trim that is being made good, or from another request that
 * had more promised than it needed.
 *
 * It is stopped between its search and the decision whether to try again:
 * filesystem_reclaim is wrapped by the linker.
 */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"

#define BLOCK 1024
#define SIZE (UINT64_C (12) << 20)
#define BYTE 0xa5               /* what a request that is held writes */

#define JOURNAL "-t ext4 -b 1024 -m 0 -J size=4"
#define NO_JOURNAL "-t ext4 -b 1024 -m 0 -O ^has_journal"
#define BLOCKS "-t ext2 -b 1024 -m 0"

static const struct image_file files[] = {
  { "f", SIZE, false }, { "g", SIZE, false }, { NULL },
};

struct setup {
  struct memdev *md;
  struct filesystem *fs;
  struct inode *f, *g;
};

static void
setup_init (struct setup *s, const char *args)
{
  s->md = image_make (args, UINT64_C (12) << 20, files);
  s->fs = image_open (s->md);
  s->f = image_iget (s->fs, "f");
  s->g = image_iget (s->fs, "g");
}

static void
setup_free (struct setup *s)
{
  iput (s->f);
  image_close (s->fs, s->g);
  image_assert_clean (s->md);
  memdev_free (s->md);
}

/* Where a request stops, if it is to. */
static atomic_bool stop, stopped, go_on;

extern bool __real_filesystem_reclaim (struct filesystem *fs,
                                       struct shortage *s);
extern bool __wrap_filesystem_reclaim (struct filesystem *fs,
                                       struct shortage *s);

bool
__wrap_filesystem_reclaim (struct filesystem *fs, struct shortage *s)
{
  if (atomic_exchange (&stop, false)) {
    atomic_store (&stopped, true);
    while (!atomic_load (&go_on))
      usleep (100);
  }
  return __real_filesystem_reclaim (fs, s);
}

/* A request in a thread of its own. */
struct request {
  pthread_t thread;
  struct inode *inode;
  uint64_t count, offset;
  uint8_t byte;
  bool zero;                    /* allocate it, else write it */
  errcode_t err;
  atomic_bool done;
};

static void *
make_request (void *opaque)
{
  struct request *r = opaque;
  uint8_t *buf = malloc (r->count);

  must (buf != NULL);
  memset (buf, r->byte, r->count);
  r->err = r->zero ? file_zero (r->inode, r->count, r->offset, 0)
    : file_write (r->inode, buf, r->count, r->offset, 0);
  free (buf);
  atomic_store (&r->done, true);
  return NULL;
}

static void
start (struct request *r)
{
  must (pthread_create (&r->thread, NULL, make_request, r) == 0);
}

/* Its search has found nothing, and it stays there. */
static void
start_and_stop (struct request *r)
{
  atomic_store (&stopped, false);
  atomic_store (&go_on, false);
  atomic_store (&stop, true);
  start (r);
  while (!atomic_load (&stopped)) {
    must (!atomic_load (&r->done));
    usleep (100);
  }
}

static void
go_on_and_join (struct request *r)
{
  atomic_store (&go_on, true);
  pthread_join (r->thread, NULL);
}

static void
fill_up (struct inode *inode, uint64_t at)
{
  static const uint8_t data[64 * BLOCK] = { 1 };
  uint64_t n = sizeof data;
  errcode_t err;

  while (n > 0) {
    err = file_write (inode, data, n, at, 0);
    if (!err)
      at += n;
    else if (err == EXT2_ET_BLOCK_ALLOC_FAIL)
      n = n == sizeof data ? BLOCK : 0;
    else
      assert_ok (err);
  }
}

/* A trim that is made good in that moment. */
static void
released (const char *args, bool zero)
{
  struct setup s;
  struct request r;

  setup_init (&s, args);
  fill_up (s.f, 0);
  assert_ok (file_trim (s.f, 1 << 20, 0, 0));
  memdev_hold_trims (s.md, true);
  assert_ok (filesystem_flush (s.fs));
  memdev_wait_held (s.md);
  r = (struct request) {
    .inode = s.g, .count = 8 * BLOCK, .offset = 5 * BLOCK, .zero = zero,
  };
  start_and_stop (&r);
  memdev_hold_trims (s.md, false);
  syncer_drain (s.fs);
  go_on_and_join (&r);
  assert_ok (r.err);
  setup_free (&s);
}

static void
test_released (void **state)
{
  (void) state;
  released (JOURNAL, false);
  released (JOURNAL, true);
  released (NO_JOURNAL, false);
  released (BLOCKS, false);
  released (BLOCKS, true);
}

/* Exactly N blocks are left; nobody has reserved any. */
static void
leave_free (struct setup *s, uint64_t n)
{
  uint64_t left;

  fill_up (s->f, 0);
  lock_acquire (&s->fs->lock);
  left = ext2fs_free_blocks_count (s->fs->e2->super);
  lock_release (&s->fs->lock);
  assert_true (left < n);
  assert_ok (file_trim (s->f, (n - left) * BLOCK, 1 << 20, 0));
  assert_ok (filesystem_flush (s->fs));
  syncer_drain (s->fs);
}

/* A fill of eight blocks is on its way, and leaves fewer for others than a
 * fill of one block reserves; when it has ended, there are enough.
 */
static void
begin_large_fill (struct setup *s, struct request *large)
{
  leave_free (s, 12);
  memdev_hold_byte (s->md, BYTE);
  *large = (struct request) {
    .inode = s->g, .count = 8 * BLOCK, .byte = BYTE,
  };
  start (large);
  memdev_wait_held (s->md);
}

static void
end_large_fill (struct setup *s, struct request *large)
{
  memdev_hold_byte (s->md, 0);
  pthread_join (large->thread, NULL);
  assert_ok (large->err);
}

/* Another request ends in that moment. */
static void
given_back (const char *args, bool zero)
{
  struct setup s;
  struct request large;
  struct request r = {
    .count = BLOCK, .offset = 20 * BLOCK, .zero = zero,
  };

  setup_init (&s, args);
  r.inode = s.g;
  begin_large_fill (&s, &large);
  start_and_stop (&r);
  end_large_fill (&s, &large);
  go_on_and_join (&r);
  assert_ok (r.err);
  setup_free (&s);
}

static void
test_given_back (void **state)
{
  (void) state;
  given_back (JOURNAL, false);
  given_back (NO_JOURNAL, true);
  given_back (BLOCKS, false);
}

static bool
is_waiting (struct filesystem *fs)
{
  LOCK_FOR_SCOPE (&fs->lock);
  return fs->alloc.waiting > 0;
}

/* Another request ends later: it is waited for. */
static void
awaited (const char *args, bool zero)
{
  struct setup s;
  struct request large;
  struct request r = {
    .count = BLOCK, .offset = 20 * BLOCK, .zero = zero,
  };

  setup_init (&s, args);
  r.inode = s.g;
  begin_large_fill (&s, &large);
  start (&r);
  while (!is_waiting (s.fs) && !atomic_load (&r.done))
    usleep (100);
  assert_false (atomic_load (&r.done));
  end_large_fill (&s, &large);
  pthread_join (r.thread, NULL);
  assert_ok (r.err);
  setup_free (&s);
}

static void
test_awaited (void **state)
{
  (void) state;
  awaited (JOURNAL, true);
  awaited (NO_JOURNAL, false);
  awaited (BLOCKS, true);
}

/* One that takes all that it has reserved leaves nothing to wait for. */
static void
test_awaited_in_vain (void **state)
{
  struct setup s;
  struct reservation rest;
  struct request r = { .count = BLOCK, .offset = 20 * BLOCK };
  uint64_t left;

  (void) state;
  setup_init (&s, JOURNAL);
  r.inode = s.g;
  leave_free (&s, 12);
  lock_acquire (&s.fs->lock);
  left = ext2fs_free_blocks_count (s.fs->e2->super);
  assert_ok (alloc_reserve (s.fs, NULL, 0, left, &rest));
  lock_release (&s.fs->lock);
  start (&r);
  while (!is_waiting (s.fs))
    usleep (100);
  lock_acquire (&s.fs->lock);
  s.fs->alloc.promised -= rest.meta;    /* as if they had been taken ... */
  rest.meta = 0;
  ext2fs_free_blocks_count_add (s.fs->e2->super, -(blk64_t) left);
  alloc_release (s.fs, &rest);
  lock_release (&s.fs->lock);
  pthread_join (r.thread, NULL);
  assert_int_equal (r.err, EXT2_ET_BLOCK_ALLOC_FAIL);
  lock_acquire (&s.fs->lock);
  ext2fs_free_blocks_count_add (s.fs->e2->super, left);         /* ... */
  lock_release (&s.fs->lock);
  setup_free (&s);
}

/* So many trims may begin; the others wait. */
static atomic_int trims_allowed, trims_begun;

static void
hold_back_trims (void *opaque, enum memdev_call call)
{
  (void) opaque;
  if (call != MEMDEV_TRIM)
    return;
  while (atomic_load (&trims_allowed) <= 0)
    usleep (100);
  atomic_fetch_sub (&trims_allowed, 1);
  atomic_fetch_add (&trims_begun, 1);
}

#define FREED 100

/* Nobody waits for all that has been freed, who needs little of it.  The
 * sync thread looks up after some time, so the trims come one by one.
 */
static void
enough (const char *args)
{
  struct setup s;
  struct request r = { .count = BLOCK };
  unsigned i;

  setup_init (&s, args);
  r.inode = s.g;
  fill_up (s.f, 0);
  fill_up (s.g, SIZE / 2);
  for (i = 0; i < FREED; i++)
    assert_ok (file_trim (s.f, BLOCK, (UINT64_C (2) * i + 1) * BLOCK, 0));
  atomic_store (&trims_allowed, 20);
  atomic_store (&trims_begun, 0);
  s.md->before = hold_back_trims;
  start (&r);
  while (!atomic_load (&r.done)) {
    usleep (10000);
    atomic_fetch_add (&trims_allowed, 1);
  }
  pthread_join (r.thread, NULL);
  assert_ok (r.err);
  assert_in_range (atomic_load (&trims_begun), 1, FREED / 2);
  atomic_store (&trims_allowed, 1000);
  setup_free (&s);
}

static void
test_enough (void **state)
{
  (void) state;
  enough (JOURNAL);
  enough (NO_JOURNAL);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_released),
    cmocka_unit_test (test_given_back),
    cmocka_unit_test (test_awaited),
    cmocka_unit_test (test_awaited_in_vain),
    cmocka_unit_test (test_enough),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

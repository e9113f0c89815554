/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* An image that is sparse, on a host that gets full: who asks for a block
 * there is no room for is told, and nothing else happens; trims give room
 * back; and when there is room again all is as if it had never been short.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"

#define BLOCK 1024
#define UNIT 4096u              /* what the host allocates at once */
#define IMAGE (UINT64_C (12) << 20)
#define SIZE (UINT64_C (4) << 20)

static const struct image_file files[] = {
  { "hole", SIZE, false }, { "full", SIZE, true }, { NULL },
};

/* A device over a memdev, with room for some more units than it has. */
struct thin {
  struct device dev;            /* first: converted back by a cast */
  struct memdev *md;
  pthread_mutex_t lock;
  uint64_t room;                /* [lock] units */
  bool has[IMAGE / UNIT];       /* [lock] */
};

static struct device *
under (struct device *dev)
{
  return &((struct thin *) dev)->md->dev;
}

/* Room for the range, or ENOSPC. */
static errcode_t
take_room (struct device *dev, uint32_t count, uint64_t offset)
{
  struct thin *t = (struct thin *) dev;
  const uint64_t end = (offset + count - 1) / UNIT;
  uint64_t i, need = 0;

  pthread_mutex_lock (&t->lock);
  for (i = offset / UNIT; i <= end; i++)
    need += !t->has[i];
  if (need <= t->room) {
    t->room -= need;
    for (i = offset / UNIT; i <= end; i++)
      t->has[i] = true;
    need = 0;
  }
  pthread_mutex_unlock (&t->lock);
  return need > 0 ? ENOSPC : 0;
}

static errcode_t
thin_pread (struct device *dev, void *buf, uint32_t count, uint64_t offset)
{
  return device_pread (under (dev), buf, count, offset);
}

static errcode_t
thin_pwrite (struct device *dev, const void *buf, uint32_t count,
             uint64_t offset, unsigned flags)
{
  errcode_t err = take_room (dev, count, offset);

  return err ? err : device_pwrite (under (dev), buf, count, offset, flags);
}

static errcode_t
thin_zero (struct device *dev, uint32_t count, uint64_t offset,
           unsigned flags)
{
  errcode_t err = take_room (dev, count, offset);

  return err ? err : device_zero (under (dev), count, offset, flags);
}

static errcode_t
thin_trim (struct device *dev, uint32_t count, uint64_t offset)
{
  struct thin *t = (struct thin *) dev;
  uint64_t i;

  device_trim (under (dev), count, offset);
  pthread_mutex_lock (&t->lock);
  for (i = (offset + UNIT - 1) / UNIT; (i + 1) * UNIT <= offset + count;
       i++) {
    t->room += t->has[i];
    t->has[i] = false;
    memset (t->md->mem + i * UNIT, 0, UNIT);
  }
  pthread_mutex_unlock (&t->lock);
  return 0;
}

static errcode_t
thin_flush (struct device *dev)
{
  return device_flush (under (dev));
}

static errcode_t
thin_status (struct device *dev, uint32_t count, uint64_t offset,
             uint32_t *len, bool *hole)
{
  struct thin *t = (struct thin *) dev;
  uint64_t i = offset / UNIT;

  pthread_mutex_lock (&t->lock);
  *hole = !t->has[i];
  do
    i++;
  while (i < IMAGE / UNIT && t->has[i] == !*hole);
  pthread_mutex_unlock (&t->lock);
  *len = i * UNIT - offset < count ? i * UNIT - offset : count;
  return 0;
}

static const struct device_ops thin_ops = {
  .pread = thin_pread, .pwrite = thin_pwrite, .zero = thin_zero,
  .trim = thin_trim, .flush = thin_flush, .status = thin_status,
};

static void
give_room (struct thin *t, uint64_t units)
{
  pthread_mutex_lock (&t->lock);
  t->room += units;
  pthread_mutex_unlock (&t->lock);
}

static void
take_all_room (struct thin *t)
{
  pthread_mutex_lock (&t->lock);
  t->room = 0;
  pthread_mutex_unlock (&t->lock);
}

/* Over an image, with storage for what is not zero in it. */
static struct thin *
thin_new (const char *args)
{
  static const uint8_t zeros[UNIT];
  struct thin *t = calloc (1, sizeof *t);
  uint64_t i;

  assert_non_null (t);
  t->md = image_make (args, IMAGE, files);
  pthread_mutex_init (&t->lock, NULL);
  t->dev = t->md->dev;
  t->dev.ops = &thin_ops;
  t->dev.can_cache = false;
  t->dev.can_status = true;
  for (i = 0; i < IMAGE / UNIT; i++)
    t->has[i] = memcmp (t->md->mem + i * UNIT, zeros, UNIT) != 0;
  return t;
}

static void
thin_free (struct thin *t)
{
  pthread_mutex_destroy (&t->lock);
  memdev_free (t->md);
  free (t);
}

struct setup {
  struct thin *t;
  struct filesystem *fs;
  struct inode *hole, *full;
  struct shadow h, f;
};

static void
setup_init (struct setup *s, const char *args, bool reserve)
{
  const struct filesystem_options opts = { .reserve = reserve };

  s->t = thin_new (args);
  assert_ok (filesystem_open (&s->t->dev, &opts, &s->fs));
  s->hole = image_iget (s->fs, "hole");
  s->full = image_iget (s->fs, "full");
  shadow_init (&s->h, SIZE);
  shadow_init (&s->f, SIZE);
  image_content ("full", s->f.data, SIZE);
}

/* All is well, and nothing is on record. */
static void
setup_end (struct setup *s)
{
  shadow_assert_same (&s->h, s->hole);
  shadow_assert_same (&s->f, s->full);
  iput (s->hole);
  image_close (s->fs, s->full);
  image_assert_clean (s->t->md);
  assert_int_equal (image_super (s->t->md)->s_error_count, 0);
  image_assert_dump (s->t->md, "hole", s->h.data, SIZE);
  image_assert_dump (s->t->md, "full", s->f.data, SIZE);
  shadow_free (&s->h);
  shadow_free (&s->f);
  thin_free (s->t);
}

static errcode_t
write_hole (struct setup *s, uint64_t lblk, uint8_t with, unsigned flags)
{
  uint8_t data[8 * BLOCK];
  errcode_t err;

  memset (data, with, sizeof data);
  err = file_write (s->hole, data, sizeof data, lblk * BLOCK, flags);
  if (!err)
    memcpy (s->h.data + lblk * BLOCK, data, sizeof data);
  return err;
}

static void
trim_full (struct setup *s, uint64_t count, uint64_t offset)
{
  assert_ok (file_trim (s->full, count, offset, 0));
  shadow_trim (s->fs, &s->f, count, offset);
}

static const char *const kinds[] = {
  "-t ext4 -b 1024 -J size=1 -N 32", "-t ext3 -b 1024 -J size=1 -N 32",
  "-t ext4 -b 1024 -O ^has_journal -N 32", "-t ext2 -b 1024 -N 32",
};

/* A commit for which there is no room is kept, and made when there is. */
static void
commit_later (const char *args)
{
  struct setup s;
  unsigned i, kept = 0;

  setup_init (&s, args, false);
  give_room (s.t, 40);
  for (i = 0; i < 4; i++)
    assert_ok (write_hole (&s, 100 * i, 1 + i, 0));
  take_all_room (s.t);
  for (i = 0; i < 3; i++) {
    /* Where the log has a little room, or there is none, the blocks to be
     * written may all be there already; then the trim below is committed.
     */
    errcode_t err = filesystem_flush (s.fs);

    assert_true (err == ENOSPC || err == 0);
    kept += err == ENOSPC;
    /* What needs no block goes on, and so do trims. */
    assert_ok (write_hole (&s, 100, 10 + i, 0));
    trim_full (&s, 2 * UNIT, (20 + 4 * i) * UNIT);
    if (err)
      assert_int_equal (write_hole (&s, 1000, 9, 0), ENOSPC);
  }
  assert_true (kept > 0 || !s.fs->log);
  assert_false (atomic_load (&s.fs->aborted));
  give_room (s.t, 400);
  assert_ok (write_hole (&s, 1000, 9, 0));
  assert_ok (filesystem_flush (s.fs));
  setup_end (&s);
}

static void
test_commit_later (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
    commit_later (kinds[i]);
}

/* With storage for the journal a full host costs no flush, and a trim is
 * enough to go on.
 */
static void
reserved (const char *args)
{
  struct setup s;
  uint64_t lblk = 0;
  errcode_t err = 0;

  setup_init (&s, args, true);
  give_room (s.t, 400);
  assert_ok (write_hole (&s, 0, 1, 0));
  assert_ok (filesystem_flush (s.fs));
  /* From here on there is room for a few blocks more. */
  take_all_room (s.t);
  give_room (s.t, 20);
  while (err == 0) {
    lblk += 8;
    err = write_hole (&s, lblk, 2, lblk % 64 ? 0 : FILE_FUA);
  }
  assert_int_equal (err, ENOSPC);
  assert_ok (filesystem_flush (s.fs));
  trim_full (&s, 1 << 20, 0);
  assert_ok (filesystem_flush (s.fs));
  syncer_drain (s.fs);
  assert_true (s.t->room > 100);
  assert_ok (write_hole (&s, lblk, 3, FILE_FUA));
  setup_end (&s);
}

static void
test_reserved (void **state)
{
  size_t i;

  (void) state;
  for (i = 0; i < 2; i++)
    reserved (kinds[i]);
}

/* Only what the device says is a hole is zeroed, once, and before anything
 * else is written; a device that cannot tell is not asked.
 */
static void
test_what_is_reserved (void **state)
{
  struct setup s;
  uint64_t zeros;
  bool told;

  (void) state;
  for (told = false;; told = true) {
    setup_init (&s, kinds[0], true);
    s.t->dev.can_status = told;
    give_room (s.t, 1000);
    zeros = memdev_count (s.t->md, MEMDEV_MASK (MEMDEV_ZERO));
    assert_ok (filesystem_flush (s.fs));
    assert_int_equal (memdev_count (s.t->md, MEMDEV_MASK (MEMDEV_ZERO)),
                      zeros);
    assert_ok (write_hole (&s, 0, 1, FILE_FUA));
    zeros = memdev_count (s.t->md, MEMDEV_MASK (MEMDEV_ZERO)) - zeros;
    assert_true (told ? zeros > 0 : zeros == 0);
    zeros = memdev_count (s.t->md, MEMDEV_MASK (MEMDEV_ZERO));
    assert_ok (write_hole (&s, 8, 1, FILE_FUA));
    assert_int_equal (memdev_count (s.t->md, MEMDEV_MASK (MEMDEV_ZERO)),
                      zeros);
    setup_end (&s);
    if (told)
      break;
  }
}

/* One client's write with FUA finds no room: that says nothing about the
 * data of others.
 */
static void
test_fua (void **state)
{
  struct setup s;
  int fua;

  (void) state;
  for (fua = 0; fua < 2; fua++) {
    setup_init (&s, kinds[0], true);
    s.t->dev.can_fua = fua;
    give_room (s.t, 400);
    assert_ok (write_hole (&s, 0, 1, FILE_FUA));
    /* Thin under written blocks of the file, too: the image was copied. */
    s.t->has[s.t->dev.size / UNIT - 1] = false;
    take_all_room (s.t);
    assert_int_equal (write_hole (&s, 1000, 1, FILE_FUA), ENOSPC);
    assert_ok (filesystem_flush (s.fs));
    assert_ok (write_hole (&s, 0, 2, FILE_FUA));
    give_room (s.t, 100);
    assert_ok (write_hole (&s, 1000, 1, FILE_FUA));
    setup_end (&s);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_commit_later),
    cmocka_unit_test (test_reserved),
    cmocka_unit_test (test_what_is_reserved),
    cmocka_unit_test (test_fua),
  };

  image_init ();
  return cmocka_run_group_tests (tests, NULL, NULL);
}

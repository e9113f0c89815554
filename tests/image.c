/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* Filesystem images for the unit tests: see image.h. */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ondisk.h"
#include "errors.h"
#include "image.h"
#include "path.h"

static atomic_uint errors;

unsigned
image_errors (void)
{
  return errors;
}

static void
quiet (enum log_level level, const char *line)
{
  (void) line;
  errors += level == LOG_LEVEL_ERROR;
}

static void
loud (enum log_level level, const char *line)
{
  errors += level == LOG_LEVEL_ERROR;
  fprintf (stderr, "# %d %s\n", (int) level, line);
}

void
image_init (void)
{
  const char *path = getenv ("PATH");
  char buf[4096];

  snprintf (buf, sizeof buf, "%s:/usr/local/sbin:/usr/sbin:/sbin",
            path ? path : "/usr/bin:/bin");
  setenv ("PATH", buf, 1);
  if (system ("for p in mke2fs e2fsck debugfs; do command -v $p; done "
              ">/dev/null") != 0) {
    puts ("mke2fs, e2fsck or debugfs is missing (package e2fsprogs)");
    exit (77);
  }
  errors_init (getenv ("V") ? loud : quiet);
  alarm (IMAGE_HANG);
}

unsigned
image_scale (unsigned n)
{
  const char *s = getenv ("EXT2_SANITIZER");

  return s && *s && n >= 8 ? n / 4 : n;
}

unsigned
image_stride (void)
{
  const char *s = getenv ("EXT2_SANITIZER");

  if (getenv ("EXT2_THOROUGH"))
    return 1;
  return s && *s ? 25 : 5;
}

/* Runs a command; its output goes to memory, shown if it fails. */
static int __attribute__ ((__format__ (__printf__, 2, 3)))
run (int most, const char *fmt, ...)
{
  char command[2048], out[256];
  va_list ap;
  FILE *p;
  char *text = NULL;
  size_t len = 0, n;
  FILE *mem = open_memstream (&text, &len);
  int status;

  va_start (ap, fmt);
  n = vsnprintf (command, sizeof command - 8, fmt, ap);
  va_end (ap);
  strcpy (command + n, " 2>&1");
  /* The child sees what we have written through the mapping at once: it
   * is the same page cache.
   */
  p = popen (command, "r");
  if (p == NULL || mem == NULL)
    abort ();
  while ((n = fread (out, 1, sizeof out, p)) > 0)
    fwrite (out, 1, n, mem);
  fclose (mem);
  status = pclose (p);
  status = WIFEXITED (status) ? WEXITSTATUS (status) : 255;
  if (status > most)
    print_error ("%s: exit code %d\n%s\n", command, status, text);
  free (text);
  return status;
}

void
image_content (const char *name, void *buf, size_t len)
{
  struct rng rng = { 0 };

  while (*name)
    rng.state = rng.state * 31 + (unsigned char) *name++;
  rng_fill (&rng, buf, len);
}

static void
make_file (const char *dir, const struct image_file *f)
{
  char path[1024];
  char *buf;
  int fd;

  snprintf (path, sizeof path, "%s/%s", dir, f->name);
  fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  assert_true (fd >= 0);
  assert_return_code (ftruncate (fd, f->size), errno);
  if (f->filled) {
    buf = malloc (f->size);
    assert_non_null (buf);
    image_content (f->name, buf, f->size);
    assert_int_equal (pwrite (fd, buf, f->size, 0), f->size);
    free (buf);
  }
  close (fd);
}

struct memdev *
image_make (const char *args, uint64_t size, const struct image_file *files)
{
  const char *tmp = getenv ("TMPDIR");
  struct memdev *md = memdev_new (size);
  char dir[512], path[64];
  const struct image_file *f;

  snprintf (dir, sizeof dir, "%s/ext2unit.XXXXXX", tmp ? tmp : "/tmp");
  assert_non_null (mkdtemp (dir));
  for (f = files; f->name; f++)
    make_file (dir, f);
  assert_int_equal (run (0, "mke2fs -q -F -E nodiscard %s -d %s %s %lluk",
                         args, dir, memdev_path (md, path, sizeof path),
                         (unsigned long long) size / 1024), 0);
  for (f = files; f->name; f++) {
    char name[1024];

    snprintf (name, sizeof name, "%s/%s", dir, f->name);
    unlink (name);
  }
  rmdir (dir);
  return md;
}

int
image_fsck (struct memdev *md, const char *options, int most)
{
  char path[64];

  return run (most, "e2fsck %s %s", options,
              memdev_path (md, path, sizeof path));
}

void
image_assert_clean (struct memdev *md)
{
  assert_int_equal (image_fsck (md, "-fn", 0), 0);
}

void
image_debugfs (struct memdev *md, const char *command)
{
  char path[64];

  assert_int_equal (run (0, "debugfs -w -R '%s' %s", command,
                         memdev_path (md, path, sizeof path)), 0);
}

void
image_assert_dump (struct memdev *md, const char *name, const void *buf,
                   size_t len)
{
  struct memdev *out = memdev_new (len ? len : 1);
  char path[64], to[64];

  assert_int_equal (run (0, "debugfs -R 'dump %s %s' %s", name,
                         memdev_path (out, to, sizeof to),
                         memdev_path (md, path, sizeof path)), 0);
  assert_memory_equal (out->mem, buf, len);
  memdev_free (out);
}

struct ext2_super_block *
image_super (struct memdev *md)
{
  return (void *) (md->mem + 1024);
}

uint64_t
image_free_blocks (struct memdev *md)
{
  const struct ext2_super_block *sb = image_super (md);

  return (uint64_t) sb->s_free_blocks_hi << 32 | sb->s_free_blocks_count;
}

void
image_assert_ok (errcode_t err, const char *call, const char *file, int line)
{
  char why[128];

  if (err) {
    print_error ("%s: %s\n", call, errcode_text (err, why, sizeof why));
    _fail (file, line);
  }
}

struct filesystem *
image_open (struct memdev *md)
{
  const struct filesystem_options opts = { .cache_size = 0 };
  struct filesystem *fs = NULL;

  assert_ok (filesystem_open (&md->dev, &opts, &fs));
  return fs;
}

struct inode *
image_iget (struct filesystem *fs, const char *name)
{
  struct inode *inode = NULL;
  ext2_ino_t ino;

  assert_ok (path_resolve (fs, name, &ino));
  assert_ok (iget (fs, ino, name, &inode));
  return inode;
}

void
image_close (struct filesystem *fs, struct inode *inode)
{
  if (inode)
    iput (inode);
  assert_ok (filesystem_close (fs));
}

void
shadow_init (struct shadow *s, uint64_t size)
{
  s->data = calloc (1, size ? size : 1);
  assert_non_null (s->data);
  s->size = size;
}

void
shadow_free (struct shadow *s)
{
  free (s->data);
}

void
shadow_trim (const struct filesystem *fs, struct shadow *s, uint64_t count,
             uint64_t offset)
{
  const uint64_t bs = fs->block_size;
  uint64_t start = (offset + bs - 1) / bs * bs, end = offset + count;

  if (end < s->size)
    end = end / bs * bs;
  if (start < end)
    memset (s->data + start, 0, end - start);
}

void
shadow_assert_same (const struct shadow *s, struct inode *inode)
{
  const uint64_t most = UINT64_C (1) << 20;
  uint8_t *buf = malloc (most);
  uint64_t at, n, i;

  assert_non_null (buf);
  assert_int_equal (inode->size, s->size);
  for (at = 0; at < s->size; at += n) {
    n = s->size - at < most ? s->size - at : most;
    assert_ok (file_read (inode, buf, n, at));
    if (memcmp (buf, s->data + at, n) == 0)
      continue;
    for (i = 0; buf[i] == s->data[at + i]; i++)
      ;
    print_error ("byte %llu is 0x%02x, not 0x%02x\n",
                 (unsigned long long) (at + i), buf[i], s->data[at + i]);
    fail ();
  }
  free (buf);
}

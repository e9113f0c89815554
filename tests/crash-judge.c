/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The judge of the crash harness: see crash.h.  Who is asked about what
 * a power cut left: e2fsck, we ourselves, Linux; and about the bytes of
 * the files, the oracle.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash.h"
#include "errors.h"
#include "image.h"
#include "path.h"

/* The bytes of all files. */
struct content {
  uint8_t *data[CRASH_FILES];
  uint64_t size[CRASH_FILES];
};

struct judge {
  enum crash_expect expect;
  struct replay *replay;
  struct oracle *oracle[CRASH_FILES];
  struct content initial;
  struct memdev *cut;           /* what the power cut left */
  struct memdev *fsck;          /* the same, recovered by e2fsck */
  struct memdev *ours;          /* the same, recovered by us */
};

static bool __attribute__ ((__format__ (__printf__, 1, 2)))
wrong (const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  fputs ("  ", stderr);
  vfprintf (stderr, fmt, ap);
  fputc ('\n', stderr);
  va_end (ap);
  return false;
}

/* Child processes. */

/* Runs ARGV; its output goes to memory, and to stderr if the exit code is
 * above MOST.
 */
static bool
run (int most, char *const *argv)
{
  posix_spawn_file_actions_t actions;
  int fd = memfd_create ("output", MFD_CLOEXEC), status;
  char buf[4096];
  ssize_t n;
  pid_t pid;

  posix_spawn_file_actions_init (&actions);
  posix_spawn_file_actions_addopen (&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2 (&actions, fd, 1);
  posix_spawn_file_actions_adddup2 (&actions, fd, 2);
  if (fd == -1 ||
      posix_spawnp (&pid, argv[0], &actions, NULL, argv, environ) != 0 ||
      waitpid (pid, &status, 0) != pid) {
    perror (argv[0]);
    exit (1);
  }
  posix_spawn_file_actions_destroy (&actions);
  status = WIFEXITED (status) ? WEXITSTATUS (status) : 255;
  if (status > most) {
    wrong ("%s %s %s: exit code %d", argv[0], argv[1], argv[2], status);
    lseek (fd, 0, SEEK_SET);
    while ((n = read (fd, buf, sizeof buf)) > 0)
      fwrite (buf, 1, n, stderr);
  }
  close (fd);
  return status <= most;
}

static bool
e2fsck (struct memdev *md, const char *option, const char *argument,
        int most)
{
  char path[64], o[16], a[32];
  char program[] = "e2fsck";
  char *argv[] = { program, o, a, path, NULL };

  memdev_path (md, path, sizeof path);
  snprintf (o, sizeof o, "%s", option);
  snprintf (a, sizeof a, "%s", argument);
  return run (most, argv);
}

static bool
clean (struct memdev *md, const char *when)
{
  return e2fsck (md, "-f", "-n", 0) || wrong ("... %s", when);
}

/* Reading the files. */

static void
content_free (struct content *c)
{
  unsigned i;

  for (i = 0; i < CRASH_FILES; i++)
    free (c->data[i]);
  memset (c, 0, sizeof *c);
}

static errcode_t
read_file (struct filesystem *fs, unsigned i, struct content *c)
{
  struct inode *inode;
  ext2_ino_t ino;
  errcode_t err;

  if ((err = path_resolve (fs, crash_files[i], &ino)) ||
      (err = iget (fs, ino, crash_files[i], &inode)))
    return err;
  c->size[i] = inode->size;
  c->data[i] = malloc (inode->size ? inode->size : 1);
  err = c->data[i] ? file_read (inode, c->data[i], inode->size, 0) : ENOMEM;
  iput (inode);
  return err;
}

/* Opens, reads and closes by our own code. */
static bool
read_all (struct memdev *md, bool writable, struct content *c,
          const char *what)
{
  const struct filesystem_options opts = { .readonly = !writable };
  struct filesystem *fs;
  char why[128];
  errcode_t err, err2;
  unsigned i;

  memset (c, 0, sizeof *c);
  err = filesystem_open (&md->dev, &opts, &fs);
  if (err)
    return wrong ("%s: we cannot open it: %s", what,
                  errcode_text (err, why, sizeof why));
  if (writable && !fs->writable)
    err = EROFS;
  for (i = 0; i < CRASH_FILES && !err; i++)
    err = read_file (fs, i, c);
  err2 = filesystem_close (fs);
  if (!err)
    err = err2;
  return !err || wrong ("%s: we cannot read it: %s", what,
                        errcode_text (err, why, sizeof why));
}

static bool
same (const struct content *a, const struct content *b, const char *what)
{
  unsigned i;
  uint64_t k;

  for (i = 0; i < CRASH_FILES; i++) {
    if (a->size[i] != b->size[i])
      return wrong ("%s: %s has %llu bytes, not %llu", what, crash_files[i],
                    (unsigned long long) b->size[i],
                    (unsigned long long) a->size[i]);
    if (memcmp (a->data[i], b->data[i], a->size[i]) == 0)
      continue;
    for (k = 0; a->data[i][k] == b->data[i][k]; k++)
      ;
    return wrong ("%s: byte %llu of %s is 0x%02x, after e2fsck 0x%02x", what,
                  (unsigned long long) k, crash_files[i], b->data[i][k],
                  a->data[i][k]);
  }
  return true;
}

static bool
ask_oracle (struct judge *j, const struct content *c, uint64_t at)
{
  char why[256];
  unsigned i;

  for (i = 0; i < CRASH_FILES; i++) {
    if (c->size[i] != j->initial.size[i])
      return wrong ("%s has %llu bytes, not %llu", crash_files[i],
                    (unsigned long long) c->size[i],
                    (unsigned long long) j->initial.size[i]);
    if (!oracle_check (j->oracle[i], c->data[i], at, why, sizeof why))
      return wrong ("%s", why);
  }
  return true;
}

/* The judges. */

static void
copy_image (struct memdev *to, const struct memdev *from)
{
  memcpy (to->mem, from->mem, from->dev.size);
}

/* e2fsck recovers it; what we read then is what others are compared
 * with.
 */
static bool
judge_fsck (struct judge *j, uint64_t at, struct content *c)
{
  struct memdev *md = j->fsck;
  bool ok;

  copy_image (md, j->cut);
  if (j->expect == CRASH_REPLAY)
    ok = e2fsck (md, "-pE", "journal_only", 1) &&
      clean (md, "after e2fsck -E journal_only");
  else
    ok = e2fsck (md, "-f", "-p", 1) && clean (md, "after e2fsck -fp");
  return ok && read_all (md, false, c, "after e2fsck") &&
    ask_oracle (j, c, at);
}

/* Read-only, on what the power cut left: the same, and nothing is
 * written.
 */
static bool
judge_readonly (struct judge *j, const struct content *expect)
{
  const unsigned writes = MEMDEV_CHANGES;
  struct content c;
  uint64_t before;
  bool ok;

  copy_image (j->ours, j->cut);
  before = memdev_count (j->ours, writes);
  ok = read_all (j->ours, false, &c, "read-only") &&
    same (expect, &c, "read-only");
  content_free (&c);
  if (ok && memdev_count (j->ours, writes) != before)
    return wrong ("read-only: it was written to");
  return ok;
}

/* Our own recovery: the same bytes, and a clean filesystem behind. */
static bool
judge_ours (struct judge *j, const struct content *expect)
{
  struct content c;
  bool ok;

  ok = read_all (j->ours, true, &c, "recovered by us") &&
    same (expect, &c, "recovered by us") &&
    clean (j->ours, "after our recovery");
  content_free (&c);
  return ok;
}

/* A filesystem in need of repair says so, and is not written to. */
static bool
judge_refusal (struct judge *j)
{
  const struct filesystem_options opts = { .readonly = false };
  struct filesystem *fs;
  errcode_t err;

  if (ext2fs_le16_to_cpu (image_super (j->cut)->s_state) & EXT2_VALID_FS)
    return clean (j->ours, "although its superblock says VALID_FS");
  err = filesystem_open (&j->ours->dev, &opts, &fs);
  if (err)
    return true;
  filesystem_close (fs);
  return wrong ("it was opened for writing although it needs e2fsck");
}

static bool
read_mounted (const char *dir, struct content *c)
{
  char path[512];
  unsigned i;
  bool ok = true;
  int fd;

  memset (c, 0, sizeof *c);
  for (i = 0; i < CRASH_FILES && ok; i++) {
    snprintf (path, sizeof path, "%s/%s", dir, crash_files[i]);
    fd = open (path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
      return wrong ("Linux: cannot open %s: %s", path, strerror (errno));
    c->size[i] = lseek (fd, 0, SEEK_END);
    c->data[i] = malloc (c->size[i] + 1);
    if (c->data[i] == NULL ||
        pread (fd, c->data[i], c->size[i], 0) != (ssize_t) c->size[i])
      ok = wrong ("Linux: cannot read %s", path);
    close (fd);
  }
  return ok;
}

static bool
mount_image (const char *image, const char *dir)
{
  char mount[] = "mount", o[] = "-oloop", img[512], d[512];
  char *argv[] = { mount, o, img, d, NULL };

  snprintf (img, sizeof img, "%s", image);
  snprintf (d, sizeof d, "%s", dir);
  return run (0, argv);
}

static bool
unmount (const char *dir)
{
  char umount[] = "umount", d[512], f[] = "-v";
  char *argv[] = { umount, f, d, NULL };

  snprintf (d, sizeof d, "%s", dir);
  return run (0, argv);
}

/* MD's content in a file, because the kernel is to see it. */
static bool
with_mount (struct memdev *md, const char *tmp, const struct content *expect)
{
  char image[300], dir[300];
  struct content c = { .size = { 0 } };
  bool ok;
  int fd;

  snprintf (image, sizeof image, "%s/image", tmp);
  snprintf (dir, sizeof dir, "%s/mnt", tmp);
  fd = open (image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ok = fd != -1 && mkdir (dir, 0700) == 0 &&
    write (fd, md->mem, md->dev.size) == (ssize_t) md->dev.size;
  if (!ok)
    wrong ("%s: %s", tmp, strerror (errno));
  else if ((ok = mount_image (image, dir))) {
    ok = read_mounted (dir, &c) && same (expect, &c, "mounted by Linux");
    ok = unmount (dir) && ok;
  }
  content_free (&c);
  if (ok)
    ok = pread (fd, md->mem, md->dev.size, 0) == (ssize_t) md->dev.size &&
      clean (md, "after Linux has mounted it");
  close (fd);
  unlink (image);
  rmdir (dir);
  return ok;
}

/* Linux replays the journal itself, but repairs nothing. */
static bool
judge_linux (struct judge *j, const struct content *expect)
{
  const char *base = getenv ("TMPDIR");
  char tmp[256];
  bool ok;

  snprintf (tmp, sizeof tmp, "%s/ext2crash.XXXXXX", base ? base : "/tmp");
  if (mkdtemp (tmp) == NULL)
    return wrong ("%s: %s", tmp, strerror (errno));
  if (j->expect == CRASH_REPLAY)
    copy_image (j->ours, j->cut);
  else
    copy_image (j->ours, j->fsck);
  ok = with_mount (j->ours, tmp, expect);
  rmdir (tmp);
  return ok;
}

/* All of it, on what is in j->cut. */
static bool
judge_all (struct judge *j, uint64_t at, bool mount)
{
  struct content c = { .size = { 0 } };
  bool ok;

  ok = judge_fsck (j, at, &c) && judge_readonly (j, &c) &&
    (!mount || judge_linux (j, &c));
  copy_image (j->ours, j->cut);
  ok = ok && (j->expect == CRASH_REPLAY ? judge_ours (j, &c)
              : judge_refusal (j));
  content_free (&c);
  return ok;
}

bool
judge_cut (struct judge *j, const struct powercut *cut, bool mount)
{
  replay_cut (j->replay, cut, j->cut->mem);
  return judge_all (j, cut->at, mount);
}

bool
judge_found (struct judge *j, const char *name)
{
  const uint64_t size = j->cut->dev.size;
  int fd = open (name, O_RDONLY | O_CLOEXEC);
  bool ok;

  ok = fd != -1 && pread (fd, j->cut->mem, size, 0) == (ssize_t) size;
  if (fd != -1)
    close (fd);
  return ok ? judge_all (j, UINT64_MAX, false)
    : wrong ("%s cannot be read: %s", name, strerror (errno));
}

struct memdev *
judge_next (struct judge *j, bool recovered)
{
  return memdev_copy (recovered ? j->fsck : j->cut);
}

struct judge *
judge_new (const struct crash_history *h, enum crash_expect expect)
{
  struct judge *j = calloc (1, sizeof *j);
  const struct ext2_super_block *sb;
  unsigned i;

  if (j == NULL)
    abort ();
  j->expect = expect;
  sb = (const void *) (h->base + SUPER_START);
  j->replay = replay_new (h->base, h->size, h->log, h->log_count,
                          expect == CRASH_REPLAY ? SECTOR
                          : (uint32_t) EXT2_BLOCK_SIZE (sb));
  j->cut = memdev_new (h->size);
  j->fsck = memdev_new (h->size);
  j->ours = memdev_new (h->size);
  memcpy (j->fsck->mem, h->base, h->size);
  if (!read_all (j->fsck, false, &j->initial, "before it all")) {
    fputs ("the image is not one for crash tests\n", stderr);
    exit (1);
  }
  for (i = 0; i < CRASH_FILES; i++)
    j->oracle[i] = oracle_new (i, j->initial.data[i], j->initial.size[i],
                               h->requests, h->request_count);
  return j;
}

void
judge_free (struct judge *j)
{
  unsigned i;

  for (i = 0; i < CRASH_FILES; i++)
    oracle_free (j->oracle[i]);
  content_free (&j->initial);
  replay_free (j->replay);
  memdev_free (j->cut);
  memdev_free (j->fsck);
  memdev_free (j->ours);
  free (j);
}

bool
judge_can_mount (void)
{
  return getenv ("NBD_TEST_NO_MOUNT") == NULL && geteuid () == 0 &&
    system ("d=`mktemp -d` && mke2fs -q -F -t ext4 $d/i 2M >$d/o 2>&1 && "
            "mkdir $d/m && mount -o loop,ro $d/i $d/m 2>$d/o; r=$?; "
            "test $r != 0 || umount $d/m; rm -f $d/i $d/o; "
            "rmdir $d/m $d; exit $r") == 0;
}

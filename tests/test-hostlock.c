/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* The lock against other servers on this machine.  The directories are in
 * one of the test's own; other servers are other processes where it
 * matters, other holders in this one elsewhere: such locks do not know.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "errors.h"
#include "hostlock.h"

#define NOBODY 65534
#define UUID "00010203-0405-0607-0809-0a0b0c0d0e0f"

static char root[64];
static char said[4096];         /* the last line logged */
static unsigned warnings;

static void
remember (enum log_level level, const char *line)
{
  snprintf (said, sizeof said, "%s", line);
  warnings += level == LOG_LEVEL_WARNING;
}

static const char *
in_root (const char *name)
{
  static char path[4][256];
  static unsigned i;

  i = (i + 1) % 4;
  snprintf (path[i], sizeof path[i], "%s/%s", root, name);
  return path[i];
}

/* Where this user's locks are. */
static const char *
own_dir (void)
{
  char name[64] = "run/nbdkit-ext2";

  if (geteuid () != 0)
    snprintf (name, sizeof name, "run/lock/nbdkit-ext2-%lu",
              (unsigned long) geteuid ());
  return in_root (name);
}

static const char *
lock_file (const char *dir)
{
  static char path[512];

  snprintf (path, sizeof path, "%s/" UUID ".lock", dir);
  return path;
}

static int
set_up (void **state)
{
  static const char *const dirs[] = { "run", "run/lock", "tmp", "shared" };
  static const char *const files[] = { "a.img", "b.img", "victim" };
  size_t i;

  strcpy (root, "/tmp/nbdkit-ext2.XXXXXX");
  if (mkdtemp (root) == NULL || chmod (root, 0755) == -1)
    return -1;
  for (i = 0; i < 4; i++)
    if (mkdir (in_root (dirs[i]), 0) == -1 ||
        chmod (in_root (dirs[i]), i == 0 ? 0755 : 01777) == -1)
      return -1;
  for (i = 0; i < 3; i++) {
    int fd = creat (in_root (files[i]), 0644);

    if (fd == -1 || write (fd, "data", 4) != 4)
      return -1;
    close (fd);
  }
  said[0] = '\0';
  warnings = 0;
  return 0;
}

static int
tear_down (void **state)
{
  char cmd[128];

  snprintf (cmd, sizeof cmd, "rm -rf %s", root);
  return system (cmd);
}

/* Image A, B or, NULL, an unknown one. */
static struct hostlock_request
request (const char *image)
{
  struct hostlock_request r = { .who = "me", .root = root };
  unsigned i;

  for (i = 0; i < 16; i++)
    r.uuid[i] = (uint8_t) i;
  if (image)
    r.image = in_root (image);
  return r;
}

static errcode_t
take (const char *image, struct hostlock **lp)
{
  const struct hostlock_request r = request (image);

  return hostlock_take (&r, lp);
}

static struct hostlock *
must_take (const char *image)
{
  struct hostlock *l;

  assert_int_equal (take (image, &l), 0);
  assert_non_null (l);
  return l;
}

static void
assert_busy (const char *image)
{
  struct hostlock *l;
  char who[64];

  said[0] = '\0';
  assert_int_equal (take (image, &l), EBUSY);
  assert_null (l);
  snprintf (who, sizeof who, "written by pid %ld (me)", (long) getpid ());
  assert_non_null (strstr (said, who));
}

/* One at a time; what is left behind is nothing. */
static void
test_twice (void **state)
{
  struct hostlock *l = must_take ("a.img");

  assert_int_equal (access (lock_file (own_dir ()), F_OK), 0);
  assert_busy ("a.img");
  hostlock_release (l);
  assert_int_equal (access (lock_file (own_dir ()), F_OK), -1);
  l = must_take (NULL);
  assert_busy (NULL);
  assert_non_null (strstr (said, UUID));
  hostlock_release (l);
  hostlock_release (must_take ("a.img"));
  assert_int_equal (access (lock_file (own_dir ()), F_OK), -1);
  assert_int_equal (warnings, 0);
}

/* Copies are told apart where both are known. */
static void
test_copies (void **state)
{
  struct hostlock *a = must_take ("a.img"), *b = must_take ("b.img");

  assert_busy ("a.img");
  assert_busy ("b.img");
  assert_busy (NULL);
  hostlock_release (a);
  assert_int_equal (access (lock_file (own_dir ()), F_OK), 0);
  assert_busy (NULL);
  hostlock_release (b);
  a = must_take (NULL);
  assert_busy ("a.img");
  assert_busy ("b.img");
  hostlock_release (a);
  /* Two names of one file are one. */
  assert_int_equal (link (in_root ("a.img"), in_root ("hard")), 0);
  assert_int_equal (symlink ("a.img", in_root ("soft")), 0);
  a = must_take ("hard");
  assert_busy ("a.img");
  assert_busy ("soft");
  hostlock_release (a);
  /* A device is not known: there may be others to the same disk. */
  a = must_take ("b.img");
  assert_int_equal (symlink ("/dev/null", in_root ("dev")), 0);
  assert_busy ("dev");
  hostlock_release (a);
}

/* Children do not outlive the test. */
static pid_t
start_child (uid_t uid)
{
  const pid_t pid = fork ();

  if (pid == 0 && ((uid && setresuid (uid, uid, uid) == -1) ||
                   prctl (PR_SET_PDEATHSIG, SIGKILL) == -1))
    _exit (1);
  return pid;
}

/* A child that holds the lock until it is killed. */
static pid_t
start_holder (const char *image, uid_t uid)
{
  struct hostlock *l;
  int ready[2];
  char c;
  pid_t pid;

  assert_int_equal (pipe (ready), 0);
  pid = start_child (uid);
  assert_true (pid >= 0);
  if (pid == 0) {
    if (take (image, &l) || !l || write (ready[1], "x", 1) != 1)
      _exit (1);
    for (;;)
      pause ();
  }
  close (ready[1]);
  assert_int_equal (read (ready[0], &c, 1), 1);
  close (ready[0]);
  return pid;
}

static void
end_holder (pid_t pid)
{
  assert_int_equal (kill (pid, SIGKILL), 0);
  assert_int_equal (waitpid (pid, NULL, 0), pid);
}

static void
assert_busy_by (const char *image, pid_t pid)
{
  struct hostlock *l;
  char who[64];

  assert_int_equal (take (image, &l), EBUSY);
  snprintf (who, sizeof who, "written by pid %ld (me)", (long) pid);
  assert_non_null (strstr (said, who));
}

static void
test_killed (void **state)
{
  pid_t pid = start_holder ("a.img", 0);
  struct hostlock *l;

  assert_busy_by ("a.img", pid);
  end_holder (pid);
  l = must_take ("a.img");
  assert_busy ("a.img");                /* by us now, not by the dead */
  hostlock_release (l);
}

/* Root and the image's owner keep each other off. */
static void
test_owner (void **state)
{
  struct hostlock *l;
  pid_t pid;

  if (geteuid () != 0)
    skip ();
  assert_int_equal (chown (in_root ("a.img"), NOBODY, (gid_t) -1), 0);
  pid = start_holder ("a.img", NOBODY);
  assert_busy_by ("a.img", pid);
  assert_int_equal (access (lock_file (own_dir ()), F_OK), -1);
  hostlock_release (must_take ("b.img"));
  end_holder (pid);

  l = must_take ("a.img");
  assert_int_equal (seteuid (NOBODY), 0);
  assert_busy ("a.img");
  assert_int_equal (seteuid (0), 0);
  hostlock_release (l);
  assert_int_equal (seteuid (NOBODY), 0);
  hostlock_release (must_take ("a.img"));
  assert_int_equal (seteuid (0), 0);
}

/* Readers are told, and leave no trace. */
static void
test_reader (void **state)
{
  struct hostlock_request a = request ("a.img"), b = request ("b.img"),
    none = request (NULL);
  struct hostlock *l;

  hostlock_warn_reader (&a);
  hostlock_warn_reader (&none);
  assert_int_equal (warnings, 0);
  assert_int_equal (access (own_dir (), F_OK), -1);
  l = must_take ("a.img");
  hostlock_warn_reader (&b);
  assert_int_equal (warnings, 0);
  hostlock_warn_reader (&a);
  assert_int_equal (warnings, 1);
  assert_non_null (strstr (said, "being written by pid"));
  hostlock_warn_reader (&none);
  assert_int_equal (warnings, 2);
  hostlock_release (l);
  hostlock_warn_reader (&a);
  assert_int_equal (warnings, 2);
}

/* Called in place of the C library's, so that a test can stop in it. */
static void (*before_removal) (void);

int
unlinkat (int dir, const char *name, int flags)
{
  if (before_removal)
    before_removal ();
  return (int) syscall (SYS_unlinkat, dir, name, flags);
}

static pid_t newcomer;          /* a child */

/* Somebody comes for the other image, where a whole one's last holder was
 * killed.
 */
static void
come_for_b (void)
{
  const char *old = "pid 1 (dead)";
  int fd = open (lock_file (own_dir ()), O_RDWR);
  struct hostlock *l;

  assert_int_equal (pwrite (fd, old, strlen (old), 0), strlen (old));
  close (fd);
  newcomer = start_child (0);
  if (newcomer == 0)
    _exit (take ("b.img", &l) != 0 || l == NULL);
  usleep (20000);
}

/* Who is just leaving is in nobody's way. */
static void
test_leaving (void **state)
{
  struct hostlock *l = must_take ("a.img");
  int status;

  before_removal = come_for_b;
  hostlock_release (l);
  before_removal = NULL;
  assert_int_equal (waitpid (newcomer, &status, 0), newcomer);
  assert_int_equal (status, 0);
}

static void
assert_victim (void)
{
  char buf[8] = "";
  int fd = open (in_root ("victim"), O_RDONLY);

  assert_int_equal (read (fd, buf, sizeof buf), 4);
  assert_string_equal (buf, "data");
  close (fd);
}

/* In a common directory anything may stand under the lock's name: it is
 * neither followed, waited for nor written to.
 */
static void
test_hostile_names (void **state)
{
  struct hostlock_request r = request ("a.img");
  char path[512], dir[256];
  struct hostlock *l;
  unsigned i;

  snprintf (dir, sizeof dir, "%s", in_root ("shared"));
  r.dir = dir;
  snprintf (path, sizeof path, "%s", lock_file (r.dir));
  for (i = 0; i < 4; i++) {
    if (i == 0)
      assert_int_equal (symlink ("../victim", path), 0);
    else if (i == 1)
      assert_int_equal (link (in_root ("victim"), path), 0);
    else if (i == 2)
      assert_int_equal (mkfifo (path, 0666), 0);
    else
      assert_int_equal (mkdir (path, 0777), 0);
    assert_int_not_equal (hostlock_take (&r, &l), 0);
    assert_null (l);
    assert_non_null (strstr (said, "ext2lock=off"));
    hostlock_warn_reader (&r);
    assert_victim ();
    assert_int_equal (i < 3 ? unlink (path) : rmdir (path), 0);
  }
  assert_int_equal (hostlock_take (&r, &l), 0);
  assert_non_null (l);
  hostlock_release (l);
}

/* A user's own directory must be that; else there is no lock, but a word. */
static void
test_hostile_directory (void **state)
{
  char dir[256];
  struct hostlock *l;

  snprintf (dir, sizeof dir, "%s", own_dir ());
  assert_int_equal (mkdir (dir, 0755), 0);
  assert_int_equal (chmod (dir, 0777), 0);
  if (geteuid () == 0) {
    assert_int_equal (take ("a.img", &l), 0);
    assert_null (l);
    assert_int_equal (warnings, 1);
    assert_non_null (strstr (said, "ext2lock=DIR"));
    assert_int_equal (chmod (dir, 0755), 0);
    assert_int_equal (chown (dir, NOBODY, (gid_t) -1), 0);
    assert_int_equal (take ("a.img", &l), 0);
    assert_null (l);
    assert_int_equal (rmdir (dir), 0);
    assert_int_equal (symlink (in_root ("shared"), dir), 0);
    assert_int_equal (take ("a.img", &l), 0);
    assert_null (l);
    assert_int_equal (warnings, 3);
    assert_int_equal (access (lock_file (in_root ("shared")), F_OK), -1);
    return;
  }
  /* Others have a second one. */
  l = must_take ("a.img");
  assert_int_equal (access (lock_file (dir), F_OK), -1);
  assert_busy ("a.img");
  hostlock_release (l);
}

/* Directories that cannot be used. */
static void
test_no_directory (void **state)
{
  struct hostlock_request r = request ("a.img");
  struct hostlock *l;

  r.dir = in_root ("missing");
  assert_int_equal (hostlock_take (&r, &l), ENOENT);
  assert_null (l);
  assert_non_null (strstr (said, "missing: No such file"));
  hostlock_warn_reader (&r);
  assert_int_equal (warnings, 0);
  r = request ("a.img");
  r.root = in_root ("nowhere");
  assert_int_equal (hostlock_take (&r, &l), 0);
  assert_null (l);
  assert_int_equal (warnings, 1);
}

/* Many come and go, and files are made and removed. */

struct shared { atomic_int a, b, all; };

static void
come_and_go (struct shared *s, unsigned which, unsigned rounds)
{
  static const char *const image[] = { "a.img", "b.img", NULL };
  struct hostlock *l;
  errcode_t err;

  while (rounds > 0) {
    err = take (image[which], &l);
    if (err == EBUSY)
      continue;
    rounds--;
    if (err || l == NULL)
      _exit (2);
    if (which == 2) {
      if (atomic_fetch_add (&s->all, 1) || s->a || s->b)
        _exit (3);
      usleep (100);
      atomic_fetch_sub (&s->all, 1);
    }
    else {
      atomic_int *mine = which ? &s->b : &s->a;

      if (atomic_fetch_add (mine, 1) || s->all)
        _exit (4);
      usleep (100);
      atomic_fetch_sub (mine, 1);
    }
    hostlock_release (l);
  }
  _exit (0);
}

static void
test_race (void **state)
{
  struct shared *s = mmap (NULL, sizeof *s, PROT_READ | PROT_WRITE,
                           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t pid[5];
  int status;
  unsigned i;

  assert_ptr_not_equal (s, MAP_FAILED);
  for (i = 0; i < 5; i++)
    if ((pid[i] = start_child (0)) == 0)
      come_and_go (s, i % 3, 100);
  for (i = 0; i < 5; i++) {
    assert_int_equal (waitpid (pid[i], &status, 0), pid[i]);
    assert_int_equal (status, 0);
  }
  munmap (s, sizeof *s);
}

/* Who has another image is never in the way, not even in leaving. */
static void
test_no_false_alarm (void **state)
{
  struct hostlock *l;
  int status;
  unsigned i;
  pid_t pid = start_child (0);

  if (pid == 0)
    for (i = 0; ; i++) {
      if (i == 1000 || take ("b.img", &l) || l == NULL)
        _exit (i < 1000);
      hostlock_release (l);
    }
  for (i = 0; i < 1000; i++)
    hostlock_release (must_take ("a.img"));
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_int_equal (status, 0);
}

int
main (void)
{
#define TEST(t) cmocka_unit_test_setup_teardown (t, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (test_twice),
    TEST (test_copies),
    TEST (test_killed),
    TEST (test_leaving),
    TEST (test_owner),
    TEST (test_reader),
    TEST (test_hostile_names),
    TEST (test_hostile_directory),
    TEST (test_no_directory),
    TEST (test_race),
    TEST (test_no_false_alarm),
  };

  umask (022);
  alarm (300);
  errors_init (remember);
  return cmocka_run_group_tests (tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/* SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors */

/* A filter that tries what a server that has been taken over would try, and
 * says what came of it: one line each on stderr, and at the end how many
 * attempts succeeded.  In place of the ext2 filter in test-confined.sh.
 */

#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-filter.h>

static int
try_open (const char *path, int flags)
{
  int fd = open (path, flags, 0600);

  if (fd != -1)
    close (fd);
  return fd;
}

static int
read_a_file (void)
{
  return try_open ("/etc/passwd", O_RDONLY);
}

static int
read_own_process (void)
{
  return try_open ("/proc/self/maps", O_RDONLY);
}

static int
list_root (void)
{
  return try_open ("/var", O_RDONLY | O_DIRECTORY);
}

static int
create_files (void)
{
  static const char *const dirs[] = {
    "/", "/dev", "/dev/shm", "/etc", "/lib", "/run", "/tmp", "/usr",
    "/usr/lib", "/var/tmp",
  };
  char path[64];
  size_t i;

  for (i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
    snprintf (path, sizeof path, "%s/probe-%d", dirs[i], (int) getpid ());
    if (try_open (path, O_CREAT | O_WRONLY) != -1) {
      unlink (path);
      return 0;
    }
  }
  return -1;
}

static int
internet_socket (void)
{
  return socket (AF_INET, SOCK_STREAM, 0);
}

static int
local_socket (void)
{
  return socket (AF_UNIX, SOCK_STREAM, 0);
}

static int
fork_a_process (void)
{
  pid_t pid = fork ();

  if (pid == 0)
    _exit (0);
  if (pid > 0)
    waitpid (pid, NULL, 0);
  return pid == -1 ? -1 : 0;
}

static int
signal_another (void)
{
  return kill (getppid () > 1 ? getppid () : -1, 0);
}

static int
new_namespace (void)
{
  return unshare (CLONE_NEWUSER);
}

static int
trace_itself (void)
{
  return (int) ptrace (PTRACE_TRACEME, 0, NULL, NULL);
}

static int
mount_something (void)
{
  return mount ("none", "/", "tmpfs", 0, NULL);
}

static int
become_root (void)
{
  return setuid (0);
}

static int
make_setuid (void)
{
  return chmod ("/dev/null", 04777);
}

static int
secret_memory (void)
{
  return (int) syscall (SYS_memfd_create, "probe", 0);
}

static const struct {
  const char *what;
  int (*attempt) (void);
} probes[] = {
  { "read another file", read_a_file },
  { "read /proc", read_own_process },
  { "look into another directory", list_root },
  { "create a file", create_files },
  { "make a socket of the Internet", internet_socket },
  { "make a local socket", local_socket },
  { "start a process", fork_a_process },
  { "reach another process", signal_another },
  { "make a namespace", new_namespace },
  { "mount", mount_something },
  { "become root", become_root },
  { "change a file's mode", make_setuid },
  { "make a file in memory", secret_memory },
  { "be traced", trace_itself },        /* stops it at the next signal */
};

static int
probe_get_ready (int thread_model)
{
  unsigned succeeded = 0;
  size_t i;

  for (i = 0; i < sizeof probes / sizeof probes[0]; i++) {
    errno = 0;
    if (probes[i].attempt () != -1) {
      fprintf (stderr, "probe: %s: it can\n", probes[i].what);
      succeeded++;
    }
    else
      fprintf (stderr, "probe: %s: %s\n", probes[i].what, strerror (errno));
  }
  fprintf (stderr, "probe: %u of %zu succeeded\n", succeeded, i);
  exit (0);
}

static struct nbdkit_filter filter = {
  .name = "probe",
  .get_ready = probe_get_ready,
};

NBDKIT_REGISTER_FILTER (filter)

# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The servers that are compared, and what they cost while they run."""

import os
import resource
import shutil
import signal
import subprocess
import time

from load import Failed, Steps, run

RAW, THIN, OURS, LINUX, DIST, FUSE = (
    "raw", "thin", "this", "linux", "dist", "fuse2fs")

TITLES = {
    RAW: "raw file",
    # What any layer costs: one that adds zero to each offset.
    THIN: "offset filter over it",
    OURS: "this filter",
    LINUX: "Linux loop mount",
    DIST: "distribution's filter",
    FUSE: "fuse2fs",
}


def _wait(process, seconds):
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise Failed(f"{process.args[0]}: did not end") from None


def _many_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server:
    """nbdkit, perhaps over a mount; used with "with"."""

    def __init__(self, tools, kind, image, path="/vm.raw", beneath=(),
                 options=()):
        self.tools = tools
        self.kind = kind
        self.socket = tools.scratch("sock")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.image = image
        self.file = None          # what nbdkit serves
        self.mount = None
        self.fuse = None
        self.nbdkit = None
        try:
            self._start(image, path, list(beneath), list(options))
        except BaseException:
            self._end()
            raise

    def _start(self, image, path, beneath, options):
        file, command = image, self.tools.installed
        arguments = []
        if self.kind == LINUX:
            self._mount(image)
            file = self.mount + path
        elif self.kind == FUSE:
            self._mount_fuse(image)
            file = self.mount + path
        elif self.kind in (OURS, DIST):
            if self.kind == OURS:
                command = self.tools.ours
            arguments = ["--filter=ext2"]
        elif self.kind == THIN:
            arguments = ["--filter=offset"]
        self.file = file
        arguments += [f"--filter={f}" for f in beneath]
        arguments += ["file", f"file={file}"]
        if self.kind in (OURS, DIST):
            arguments += [f"ext2file={path}"]
        elif self.kind == THIN:
            arguments += ["offset=0"]
        pidfile = self.tools.scratch("pid")
        self.log = self.tools.scratch("log")
        with open(self.log, "wb") as log:
            self.nbdkit = subprocess.Popen(
                [command, "-f", "--exit-with-parent", "-U", self.socket,
                 "-P", pidfile, *arguments, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=_many_files)
        for _ in range(1500):
            if os.path.exists(pidfile) and os.path.getsize(pidfile) > 0:
                return
            if self.nbdkit.poll() is not None:
                raise Failed(f"{self.kind}: {self.messages()}")
            time.sleep(0.01)
        raise Failed(f"{self.kind}: the server does not start")

    def messages(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-1:]).strip() or "it ended"

    def _mount(self, image):
        self.mount = self.tools.scratch("mnt")
        os.mkdir(self.mount)
        run(["mount", "-o", "loop", image, self.mount], what="mount")

    def _mount_fuse(self, image):
        self.mount = self.tools.scratch("mnt")
        os.mkdir(self.mount)
        with open(self.tools.scratch("log"), "wb") as log:
            self.fuse = subprocess.Popen(
                ["fuse2fs", "-f", "-o", "fakeroot", image, self.mount],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        for _ in range(1000):
            if os.path.ismount(self.mount):
                return
            if self.fuse.poll() is not None:
                raise Failed("fuse2fs does not mount")
            time.sleep(0.01)
        raise Failed("fuse2fs does not mount")

    def cpu(self):
        """Seconds of CPU that the server's processes have used.  Not from
        /proc, which counts in ticks of 10 ms.  The number is what
        clock_getcpuclockid(3) makes of a pid."""
        return sum(time.clock_gettime(~p.pid << 3 | 2)
                   for p in (self.nbdkit, self.fuse) if p is not None)

    def memory(self, field="Anonymous"):
        """Bytes; "Anonymous" leaves out code and files, "Rss" does not."""
        with open(f"/proc/{self.nbdkit.pid}/smaps_rollup",
                  encoding="ascii") as f:
            for line in f:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        raise Failed("no smaps_rollup")

    def steps(self):
        return Steps(self.tools.client("client-step"))

    def stop(self):
        """Ends it in order: what it has not written yet, it writes now."""
        process, self.nbdkit = self.nbdkit, None
        status = 0
        if process is not None:
            process.terminate()
            status = _wait(process, 120)
        self._end()
        if status != 0:
            raise Failed(f"{self.kind}: ended with status {status}")

    def _end(self):
        if self.nbdkit is not None:
            self.nbdkit.terminate()
            _wait(self.nbdkit, 60)
            self.nbdkit = None
        if self.fuse is not None:
            # It unmounts, writes and ends.
            self.fuse.send_signal(signal.SIGTERM)
            _wait(self.fuse, 120)
            self.fuse = None
        elif self.mount is not None and os.path.ismount(self.mount):
            run(["umount", self.mount], what="umount")
        self.mount = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self._end()


class Tools:
    """Where the programs are, and which contenders can run here."""

    def __init__(self, builddir, srcdir, directory):
        self.builddir = builddir
        self.srcdir = srcdir
        self.directory = directory
        self.installed = shutil.which("nbdkit")
        self.ours = os.path.join(builddir, "nbdkit")
        self.names = 0
        self.absent = {}          # contender: why it does not run
        self.dist_parallel = False

    def scratch(self, suffix):
        """A new name in the working directory."""
        self.names += 1
        return os.path.join(self.directory, f"{self.names}.{suffix}")

    def client(self, name):
        return os.path.join(self.builddir, "bench", name)

    def find(self, image):
        """Tries every contender on a copy of a small image."""
        for kind in LINUX, DIST, FUSE:
            if kind == LINUX and os.geteuid() != 0:
                self.absent[kind] = "needs root"
            elif kind == FUSE and shutil.which("fuse2fs") is None:
                self.absent[kind] = "not installed"
            else:
                self._try(kind, image)

    def _try(self, kind, image):
        copy = self.scratch("img")
        shutil.copyfile(image, copy)
        try:
            with Server(self, kind, copy) as server:
                run(["nbdinfo", "--size", server.uri], 20)
                if kind == DIST:
                    self._try_parallel(server)
        except Failed as e:
            if kind not in self.absent and not self._known(kind, e):
                self.absent[kind] = str(e)
        os.unlink(copy)

    def _known(self, kind, error):
        # A hanging second connection is an answer, not a failure.
        return kind == DIST and "not done" in str(error)

    def _try_parallel(self, server):
        with server.steps() as step:
            step("connect", server.uri)
            run(["nbdinfo", "--size", server.uri], 3)
        self.dist_parallel = True

    def runs(self, kind, connections=1):
        if kind in self.absent:
            return False
        return kind != DIST or connections == 1 or self.dist_parallel

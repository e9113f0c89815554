# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""Load on a server: fio, and the two clients of this directory."""

import json
import subprocess


class Failed(Exception):
    """A measurement that could not be made; says why."""


def run(argv, timeout=120, what=None):
    """Runs a program to its end; returns its output."""
    try:
        p = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=timeout, check=False)
    except subprocess.TimeoutExpired as e:
        raise Failed(f"{what or argv[0]}: not done in {timeout:.0f} s") from e
    if p.returncode != 0:
        tail = p.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Failed(f"{what or argv[0]}: {' '.join(tail) or p.returncode}")
    return p.stdout.decode(errors="replace")


def fio(uri, rw, block, size, connections=1, depth=1):
    """One fio run: every block of size once, by regions.

    Returns {"requests", "bytes", "seconds", "p99", "mean"}, times in us.
    """
    align = max(block, 4096)
    region = size // connections // align * align
    argv = ["fio", "--name=bench", "--thread", "--ioengine=nbd",
            f"--uri={uri}", f"--rw={rw}", f"--bs={block}",
            f"--iodepth={depth}", f"--numjobs={connections}",
            "--group_reporting", "--output-format=json", "--randrepeat=1",
            "--random_generator=tausworthe64", f"--size={region}",
            f"--offset_increment={region}"]
    text = run(argv, 360, "fio")
    # The engine's own messages come before the JSON.
    at = text.find("{\n")
    if at < 0:
        raise Failed("fio: no result")
    job = json.loads(text[at:])["jobs"][0]
    if job["error"] != 0:
        raise Failed(f"fio: error {job['error']}")
    side = job["write" if "write" in rw else "read"]
    if side["total_ios"] == 0:
        raise Failed("fio: no request was answered")
    return {"requests": side["total_ios"], "bytes": side["io_bytes"],
            "seconds": side["runtime"] / 1000,
            "p99": side["clat_ns"]["percentile"]["99.000000"] / 1000,
            "mean": side["clat_ns"]["mean"] / 1000}


def _load_argv(program, uri, options):
    argv = [program]
    for name, value in options.items():
        argv += [f"-{name}", value]
    return [str(a) for a in argv + [uri]]


def client_load(program, uri, timeout=300, **options):
    """One run of client-load; options are its letters (l, o, ...)."""
    return json.loads(run(_load_argv(program, uri, options), timeout,
                          "client-load"))


class Background:
    """client-load beside something else."""

    def __init__(self, program, uri, **options):
        self.process = subprocess.Popen(
            _load_argv(program, uri, options), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def stop(self):
        """The result up to now."""
        self.process.terminate()
        return self.result()

    def result(self, timeout=120):
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as e:
            self.process.kill()
            self.process.communicate()
            raise Failed("client-load: hangs") from e
        if self.process.returncode != 0:
            raise Failed(err.decode(errors="replace").strip()
                         or "client-load failed")
        return json.loads(out)


class Steps:
    """client-step: single requests, each timed; used with "with"."""

    def __init__(self, program):
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, bufsize=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def __call__(self, *command):
        """Milliseconds that the command took."""
        try:
            print(*command, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(self.process.stderr.read().strip() or "no answer")
        return int(answer) / 1000

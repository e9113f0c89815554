#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""Measures this filter beside a raw file, Linux, and other ways to the same
bytes; writes a table (Markdown), a picture (SVG) and the numbers (JSON)."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile

import picture
import report
import rows
import rows_scale
from contenders import Tools
from images import FRAGMENTS, Images
from load import Failed
from measure import Bench

ROWS = {**rows.ROWS, **rows_scale.ROWS}
SETUP = 15                      # seconds to make images and look around


def options():
    p = argparse.ArgumentParser(description=__doc__, epilog="rows: " + "; ".join(
        f"{name}: {row[0]}" for name, row in ROWS.items()))
    p.add_argument("--rows", default="all", metavar="ROW,...",
                   help="which rows to run (default all)")
    p.add_argument("--pairs", type=int, metavar="N",
                   help="pairs of measurements (default 5); three times "
                   "as many, and as short, of reads and overwrites")
    p.add_argument("--most", type=int, metavar="N",
                   help="pairs at most, where more are taken until the "
                   "median is known well (default 12)")
    p.add_argument("--others", type=int, metavar="N",
                   help="rounds in which those take part that are neither "
                   "the reference nor this filter (default 2)")
    p.add_argument("--seconds", type=float, metavar="S",
                   help="of one measurement (default 0.5)")
    p.add_argument("--size", type=int, metavar="MIB",
                   help="of the files read and overwritten (default 512)")
    p.add_argument("--fill", type=int, metavar="MIB",
                   help="holes to fill (default 1024)")
    p.add_argument("--fragments", type=int, metavar="N",
                   help=f"extents of the fragmented file ({FRAGMENTS})")
    p.add_argument("--clients", type=int, metavar="N",
                   help="open exports (default 1000)")
    p.add_argument("--connections", metavar="N,...", help="of the reads and "
                   "overwrites (default 1,4,16,64)")
    p.add_argument("--large-pages", action="store_true", help="have the "
                   "images in the page cache as the kernel likes it; by "
                   "default it is page by page")
    p.add_argument("--quick", action="store_true",
                   help="a short look: fewer pairs, smaller files")
    p.add_argument("--dir", metavar="DIR", help="for images and sockets, "
                   "about 10 GiB (default: TMPDIR or /tmp)")
    p.add_argument("--out", default="results", metavar="DIR",
                   help="for the results (default results)")
    p.add_argument("--builddir", default="..", metavar="DIR",
                   help="the built tree (default ..)")
    p.add_argument("--list", action="store_true", help="list the rows")
    o = p.parse_args()
    full = {"pairs": 5, "most": 12, "others": 2, "seconds": 0.5, "size": 512,
            "fill": 1024, "fragments": FRAGMENTS, "clients": 1000,
            "connections": "1,4,16,64"}
    quick = {"pairs": 1, "most": 1, "others": 1, "seconds": 0.5, "size": 128,
             "fill": 256, "fragments": 40_000, "clients": 200,
             "connections": "1,16"}
    for name, value in (quick if o.quick else full).items():
        if getattr(o, name) is None:
            setattr(o, name, value)
    o.connections = [int(n) for n in o.connections.split(",")]
    o.rows = list(ROWS) if o.rows == "all" else o.rows.split(",")
    for name in o.rows:
        if name not in ROWS:
            p.error(f"no row {name}; there are: {', '.join(ROWS)}")
    if o.pairs < 1 or o.others < 0 or o.seconds <= 0 or o.clients < 2 \
       or o.fragments < 1000 or min(o.size, o.fill) < 16:
        p.error("too few to measure anything")
    return o


def check_tools(tools):
    missing = [name for name in ("nbdkit", "fio", "nbdinfo", "mke2fs",
                                 "debugfs") if shutil.which(name) is None]
    if missing:
        raise Failed("needed and not installed: " + ", ".join(missing) +
                     " (Debian: nbdkit, fio, libnbd-bin, e2fsprogs)")
    for path in (tools.ours, tools.client("client-load"),
                 tools.client("client-step")):
        if not os.path.exists(path):
            raise Failed(f"{path} has not been built yet: run make bench")


def write(bench, facts, out):
    os.makedirs(out, exist_ok=True)
    svg = picture.draw(bench.cells)
    name = "performance.svg" if svg else None
    if svg:
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            f.write(svg)
    with open(os.path.join(out, "performance.md"), "w",
              encoding="utf-8") as f:
        f.write(report.markdown(bench, facts, name))
    numbers = {
        "machine": dict(facts),
        "cells": [{"row": c.row, "label": c.label, "unit": c.unit,
                   "reference": c.reference, "absent": c.absent,
                   "samples": {k: [vars(s) for s in v]
                               for k, v in c.samples.items()}}
                  for c in bench.cells],
        "facts": [vars(f) for f in bench.facts],
        "failures": bench.failures,
    }
    with open(os.path.join(out, "performance.json"), "w",
              encoding="utf-8") as f:
        json.dump(numbers, f, indent=1)


def measure(bench, names, facts, out):
    for name in names:
        try:
            ROWS[name][1](bench)
        except (Failed, OSError) as e:
            bench.failures.append(f"{name}: {e}")
            bench.say(f"{name}: {e}")
        # After each row: an interrupted run leaves what it has.
        write(bench, facts, out)


def main():
    o = options()
    if o.list:
        for name, row in ROWS.items():
            print(f"{name:12} {row[0]}")
        return 0
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    os.environ["LC_ALL"] = "C"
    srcdir = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="nbdkit-ext2-bench.",
                                     dir=o.dir) as directory:
        tools = Tools(os.path.abspath(o.builddir), srcdir, directory)
        check_tools(tools)
        images = Images(tools, o.large_pages)
        bench = Bench(tools, images, o)
        bench.estimate = int(SETUP + sum(ROWS[n][2](bench) for n in o.rows))
        facts = report.machine(tools)
        print(f"{len(o.rows)} rows, {o.pairs} to {bench.most} pairs each: "
              f"at most about {bench.estimate // 60 + 1} minutes; results "
              f"in {o.out}", flush=True)
        tools.find(images.small())
        for kind, why in tools.absent.items():
            bench.say(f"{kind}: not run: {why}")
        measure(bench, o.rows, facts, o.out)
    for failure in bench.failures:
        print(f"failed: {failure}")
    bench.say(f"done: {os.path.join(o.out, 'performance.md')}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"bench: {e}")
    except KeyboardInterrupt:
        sys.exit(130)

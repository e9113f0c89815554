# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The tables, in Markdown, and the machine they come from."""

import os
import platform
import shutil
import subprocess
import time

from contenders import DIST, FUSE, LINUX, OURS, RAW, THIN, TITLES
from measure import BURSTS, ENOUGH


def _first_line(*argv, error=False):
    if shutil.which(argv[0]) is None:
        return "not installed"
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, check=False)
    lines = (p.stderr if error else p.stdout).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def _cpu():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _memory():
    with open("/proc/meminfo", encoding="ascii") as f:
        return int(f.readline().split()[1]) / 1024 / 1024


def _distribution():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (AttributeError, KeyError, OSError):
        return platform.system()


def _commit(srcdir):
    if not os.path.exists(os.path.join(srcdir, ".git")):
        return "a release"
    return _first_line("git", "-C", srcdir, "describe", "--always", "--dirty")


def machine(tools):
    kind = _first_line("findmnt", "-n", "-o", "FSTYPE", "-T", tools.directory)
    facts = [
        ("Date", time.strftime("%Y-%m-%d")),
        ("Processor", f"{_cpu()}, {os.cpu_count()} cores"),
        ("Memory", f"{_memory():.0f} GiB"),
        ("System", f"{_distribution()}, Linux {platform.release()}"),
        ("Images on", f"{kind}, page cache warm"),
        ("nbdkit", _first_line("nbdkit", "--version")),
        ("e2fsprogs", _first_line("mke2fs", "-V", error=True)),
        ("fio", _first_line("fio", "--version")),
        ("This filter", _commit(tools.srcdir)),
    ]
    config = os.path.join(tools.builddir, "config.h")
    with open(config, encoding="utf-8") as f:
        if "#define EXT2_DEBUG_CHECKS 1" in f.read():
            facts.append(("**Build**", "with debug checks: not for numbers"))
    load = os.getloadavg()[0]
    if load > 0.5 * os.cpu_count():
        facts.append(("**Load**", f"{load:.1f} when it began: do not trust "
                      "the numbers"))
    return facts


def speed(cell, value):
    if value is None:
        return "-"
    if cell.unit == "bytes":
        return f"{value / 1e6:.0f} MB/s"
    digits = 2 if value < 1e4 else 1 if value < 1e5 else 0
    return f"{value / 1000:.{digits}f} k/s"


def micro(us):
    if us is None:
        return "-"
    if us < 1000:
        return f"{us:.0f} µs"
    return f"{us / 1000:.1f} ms" if us < 1e5 else f"{us / 1000:.0f} ms"


def title(cell, kind):
    return cell.titles.get(kind, TITLES.get(kind, kind))


def verdict(thing):
    return {True: "yes", False: "**no**", None: "-"}[thing.met()]


def _spread(s):
    return "-" if s is None else f"{s.median:.2f} ({s.low:.2f}..{s.high:.2f})"


def _number(s):
    return "-" if s is None else str(s.number)


def _target(cell):
    parts = []
    if cell.target is not None:
        parts.append(f"≥ {cell.target:g}")
    if cell.cpu_target is not None:
        parts.append(f"CPU ≤ {cell.cpu_target:g} x")
    if cell.p99_target is not None:
        parts.append(f"p99 ≤ {cell.p99_target:g} x")
    if cell.worst_target is not None:
        parts.append(f"worst ≤ {micro(cell.worst_target)}")
    return ", ".join(parts) or "-"


def _p99(cell):
    a, b = (micro(cell.median(k, "p99")) for k in (cell.reference, OURS))
    return f"{a} → {b}"


def _cpu_cell(cell):
    a, b = (cell.median(k, "cpu") for k in (cell.reference, OURS))
    if a is None or b is None:
        return "-"
    spread = cell.ratio(OURS, "cpu")
    ratio = "" if spread is None else f": {spread.median:.2f}"
    return f"{a:.1f} → {b:.1f} µs{ratio}"


def _other(cell, kind):
    if kind == cell.reference:
        return "1"
    s = cell.ratio(kind)
    if s is not None:
        return f"{s.median:.2f}"
    return "-"


def _table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return lines + ["| " + " | ".join(r) + " |" for r in rows]


def _cells_table(cells):
    """Cells with one reference."""
    kinds = [k for k in (RAW, THIN, LINUX, DIST, FUSE)
             if any(k in c.samples for c in cells)
             and not all(k == c.reference for c in cells)]
    reference = title(cells[0], cells[0].reference)
    head = ["work", reference, "this filter", "ratio (quartiles)", "pairs",
            "server CPU per request", "p99"]
    head += [f"{TITLES[k]}, ratio" for k in kinds] + ["to reach", "reached"]
    rows = []
    for c in cells:
        rows.append([c.label, speed(c, c.median(c.reference, "speed")),
                     speed(c, c.median(OURS, "speed")), _spread(c.ratio()), _number(c.ratio()),
                     _cpu_cell(c), _p99(c)]
                    + [_other(c, k) for k in kinds]
                    + [_target(c), verdict(c)])
    return _table(head, rows)


def _absent(bench):
    seen = {}
    for c in bench.cells:
        for kind, why in c.absent.items():
            seen.setdefault((title(c, kind), why), []).append(c.label)
    lines = []
    for (kind, why), labels in seen.items():
        what = labels[0] if len(labels) == 1 else f"{len(labels)} lines"
        lines.append(f"- {kind}, {what}: {why}")
    return lines


NOTES = """\
Speeds are medians; ratios are taken pair by pair, within a round, to the
first column of speeds, and given as median (quartiles) of so many pairs. Of
reads and overwrites these are {least} pairs of {short:.2g} s, or up to {most}
until the median's standard error is below {enough}; of the rest at least
{pairs} of {seconds:g} s. The other contenders took part in fewer rounds; a
dash says that they were not asked or could not. Server CPU is that of the
nbdkit process (and of fuse2fs): what the kernel does in its own threads for a
loop mount is not in it. Files of {size} MiB; 16 requests in flight in all, or
one each with more connections. Filling includes the flush, the end of the
server, unmounting, and syncing the image. The images were in the page cache
{pages}."""


def markdown(bench, facts, picture):
    lines = ["# Performance", ""]
    lines += _table(["", ""], [[a, b] for a, b in facts])
    lines += ["", NOTES.format(pairs=bench.pairs, least=bench.pairs * BURSTS,
                               most=bench.most * BURSTS,
                               enough=ENOUGH, pages=bench.images.pages(),
                               seconds=bench.seconds, short=bench.short,
                               size=bench.size // 1048576), ""]
    if bench.cells and picture:
        lines += [f"![Throughput and latency]({picture})", ""]
    groups = {}
    for c in bench.cells:
        groups.setdefault(title(c, c.reference), []).append(c)
    for reference, cells in groups.items():
        lines += [f"## Compared with: {reference}", ""]
        lines += _cells_table(cells) + [""]
    if bench.facts:
        lines += ["## Scale", ""]
        lines += _table(
            ["row", "what", "this filter", "at most", "reached", "beside"],
            [[f.row, f.what, f"{f.value:.4g} {f.unit}",
              "-" if f.limit is None else f"{f.limit:g}", verdict(f),
              f.beside or "-"] for f in bench.facts])
        lines.append("")
    absent = _absent(bench)
    if absent:
        lines += ["## Not run", ""] + absent + [""]
    return "\n".join(lines)

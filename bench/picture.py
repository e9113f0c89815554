# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""The picture: throughput as bars, relative to the reference, and p99
latency as dots on a logarithmic scale, one line of both per cell."""

import math
import textwrap
from xml.sax.saxutils import escape

from contenders import DIST, FUSE, LINUX, OURS, RAW, THIN, TITLES
from report import micro, speed, title

ORDER = [RAW, THIN, LINUX, OURS, DIST, FUSE]
# Distinguishable without colour vision too (Okabe and Ito).
COLOURS = {RAW: "#999999", THIN: "#555555", LINUX: "#56b4e9", OURS: "#0072b2",
           DIST: "#d55e00", FUSE: "#e69f00"}

LABELS, BARS, VALUES, DOTS = 20, 440, 800, 960
WIDTH, MARGIN = 1280, 30
BAR_WIDTH, DOT_WIDTH = VALUES - BARS - 10, WIDTH - DOTS - MARGIN
BAR, GAP = 11, 12


class Drawing:
    def __init__(self):
        self.parts = []

    def text(self, x, y, text, anchor="start", size=12, colour="#222",
             weight="normal"):
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'font-size="{size}" fill="{colour}" font-weight="{weight}">'
            f"{escape(text)}</text>")

    def box(self, x, y, width, height, colour):
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" '
            f'height="{height:.1f}" fill="{colour}"/>')

    def line(self, x1, y1, x2, y2, colour="#ccc", width=1.0):
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}" stroke-width="{width}"/>')

    def dot(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" '
                          f'fill="{colour}" stroke="#fff"/>')

    def end(self, height):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
                f'height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
                'font-family="sans-serif">\n'
                '<!-- SPDX-License-Identifier: BSD-3-Clause -->\n'
                f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>')
        return "\n".join([head] + self.parts + ["</svg>\n"])


def _kinds(cell):
    """The reference first, unless that is one of the usual contenders."""
    kinds = [k for k in ORDER if k in cell.samples and cell.ratio(k)]
    if cell.reference not in kinds and cell.reference in cell.samples:
        kinds.insert(0, cell.reference)
    return kinds


def _height(cell):
    lines = len(_lines(cell)) + 1
    return max(lines, len(_kinds(cell))) * (BAR + 2) + GAP


def _lines(cell):
    return textwrap.wrap(cell.label, 62)


class Picture:
    def __init__(self, cells):
        self.cells = [c for c in cells if c.ratio() is not None]
        self.d = Drawing()
        top = 1.2
        p99 = []
        for c in self.cells:
            for k in _kinds(c):
                top = max(top, min(3, c.ratio(k).high))
                p99.append(c.median(k, "p99"))
        p99 = [v for v in p99 if v]
        self.top = math.ceil(top * 5) / 5
        self.low = math.floor(math.log10(min(p99, default=10)))
        self.high = max(self.low + 1,
                        math.ceil(math.log10(max(p99, default=1000))))

    def bar_x(self, ratio):
        return BARS + min(ratio, self.top) / self.top * BAR_WIDTH

    def dot_x(self, us):
        part = (math.log10(us) - self.low) / (self.high - self.low)
        return DOTS + part * DOT_WIDTH

    def grid(self, y1, y2):
        step = 0.2 if self.top <= 2 else 0.5
        for i in range(int(self.top / step + 0.01) + 1):
            x = self.bar_x(i * step)
            one = abs(i * step - 1) < 0.01
            self.d.line(x, y1, x, y2, "#222" if one else "#ddd")
            self.d.text(x, y1 - 5, f"{i * step:.1f}", "middle", 11, "#555")
        for e in range(self.low, self.high + 1):
            x = self.dot_x(10 ** e)
            self.d.line(x, y1, x, y2, "#ddd")
            self.d.text(x, y1 - 5, micro(10 ** e), "middle", 11, "#555")

    def legend(self, y):
        x = LABELS
        used = {k for c in self.cells for k in _kinds(c)}
        for k in [k for k in ORDER if k in used] + ["own"]:
            if k == "own":
                if used <= set(ORDER):
                    continue
                text, colour = "this filter, the case it is compared with", \
                    "#bbbbbb"
            else:
                text, colour = TITLES[k], COLOURS[k]
            self.d.box(x, y - 10, 12, 12, colour)
            self.d.text(x + 17, y, text)
            x += 40 + 7 * len(text)

    def cell(self, c, y):
        lines = _lines(c)
        for i, line in enumerate(lines):
            self.d.text(LABELS, y + BAR + i * (BAR + 2), line, size=12)
        self.d.text(LABELS, y + BAR + len(lines) * (BAR + 2),
                    f"1 = {title(c, c.reference)}", size=10, colour="#777")
        for k in _kinds(c):
            colour = COLOURS.get(k, "#bbbbbb")
            ratio = c.ratio(k)
            own = k == c.reference
            value = 1 if own else ratio.median
            self.d.box(BARS, y, self.bar_x(value) - BARS, BAR, colour)
            if not own and ratio.number > 1:
                middle = y + BAR / 2
                self.d.line(self.bar_x(ratio.low), middle,
                            self.bar_x(ratio.high), middle, "#000", 1.5)
            text = speed(c, c.median(k, "speed"))
            if not own:
                text += f"  ({ratio.median:.2f})"
            self.d.text(VALUES, y + BAR - 1, text, size=11,
                        weight="bold" if k == OURS else "normal")
            p99 = c.median(k, "p99")
            if p99:
                self.d.dot(self.dot_x(p99), y + BAR / 2, colour)
            y += BAR + 2

    def draw(self):
        d = self.d
        d.text(LABELS, 30, "nbdkit-ext2: throughput and latency", size=18,
               weight="bold")
        self.legend(56)
        top = 110
        d.text(BARS, top - 25, "throughput, relative to the reference "
               "(line: quartiles of the pairs)", size=12, colour="#555")
        d.text(DOTS, top - 25, "p99 latency, logarithmic (left is better)",
               size=12, colour="#555")
        bottom = top + 8 + sum(_height(c) for c in self.cells)
        self.grid(top, bottom)
        y = top + 8
        for i, c in enumerate(self.cells):
            if i > 0:
                d.line(LABELS, y - GAP / 2, WIDTH - MARGIN, y - GAP / 2,
                       "#eee")
            self.cell(c, y)
            y += _height(c)
        return d.end(bottom + 20)


def draw(cells):
    """The SVG's text, or None when there is nothing to show."""
    picture = Picture(cells)
    return picture.draw() if picture.cells else None

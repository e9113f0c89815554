# SPDX-License-Identifier: BSD-3-Clause
# SPDX-FileCopyrightText: 2026 the nbdkit-ext2 authors

"""Interleaved measurements, and what follows from them.

A cell is one comparison: in each round everybody is measured once, the
reference first and this filter next, so that drift of the machine meets
both.  The ratio is taken within a round; its median and quartiles over the
rounds are the result.
"""

import statistics
import time

from contenders import OURS
from load import Failed


# Until files get new places in memory.
ROUNDS_IN_PLACE = 6

# Where it matters, pairs are this many times as many, and as much shorter:
# the machine's speed changes within a second.
BURSTS = 3

# A median's standard error that is small enough.
ENOUGH = 0.012


class Sample:
    """One measurement: speed in units a second, times in us."""

    def __init__(self, speed, p99=None, cpu=None, worst=None):
        self.speed = speed
        self.p99 = p99
        self.cpu = cpu            # of the server, per request
        self.worst = worst


class Spread:
    """The median, and the quartiles: half of the values lie between."""

    def __init__(self, values):
        self.number = len(values)
        if len(values) == 1:
            values = values * 2
        self.low, self.median, self.high = statistics.quantiles(
            values, method="inclusive")

    def error(self):
        """The standard error of the median, as if of a normal
        distribution: 1.253 sigma / sqrt n, and the quartiles are 1.349
        sigma apart."""
        return 0.93 * (self.high - self.low) / self.number ** 0.5


class Cell:
    """unit: "requests" or "bytes" a second.  against: reference of each."""

    def __init__(self, row, label, reference, unit="requests", target=None,
                 p99_target=None, worst_target=None, cpu_target=None,
                 against=None, titles=None, note=None):
        self.row = row
        self.label = label
        self.reference = reference
        self.unit = unit
        self.target = target              # ratio to reach
        self.p99_target = p99_target      # ratio not to exceed
        self.worst_target = worst_target  # us not to exceed
        self.cpu_target = cpu_target      # ratio not to exceed
        self.against = against or {}
        self.titles = titles or {}
        self.note = note
        self.samples = {}
        self.absent = {}                  # kind: why

    def pairs(self, kind, field):
        """Ratios to the reference, round by round."""
        other = self.against.get(kind, self.reference)
        both = zip(self.samples.get(kind, []), self.samples.get(other, []))
        values = [(getattr(a, field), getattr(b, field)) for a, b in both]
        return [a / b for a, b in values if a is not None and b]

    def ratio(self, kind=OURS, field="speed"):
        values = self.pairs(kind, field)
        return Spread(values) if values else None

    def median(self, kind, field):
        values = [getattr(s, field) for s in self.samples.get(kind, [])]
        values = [v for v in values if v is not None]
        return statistics.median(values) if values else None

    def worst(self, kind=OURS):
        values = [s.worst for s in self.samples.get(kind, []) if s.worst]
        return max(values) if values else None

    def met(self):
        """True, False, or None: no target, or nothing to compare with."""
        answers = []
        for target, spread, sign in (
                (self.target, self.ratio(), 1),
                (self.cpu_target, self.ratio(OURS, "cpu"), -1),
                (self.p99_target, self.ratio(OURS, "p99"), -1)):
            if target is not None:
                if spread is None:
                    return None
                answers.append(sign * spread.median >= sign * target)
        if self.worst_target is not None:
            if self.worst() is None:
                return None
            answers.append(self.worst() <= self.worst_target)
        return all(answers) if answers else None


class Fact:
    """One number that is not a comparison of speeds."""

    def __init__(self, row, what, value, unit, limit=None, beside=""):
        self.row = row
        self.what = what
        self.value = value
        self.unit = unit
        self.limit = limit
        self.beside = beside

    def met(self):
        if self.limit is None or self.value is None:
            return None
        return self.value <= self.limit


class Bench:
    """What all rows share: options, images, results, progress."""

    def __init__(self, tools, images, options):
        self.tools = tools
        self.images = images
        self.pairs = options.pairs
        self.most = max(options.most, options.pairs)
        self.others = min(options.others, options.pairs)
        self.seconds = options.seconds
        self.short = options.seconds / BURSTS
        self.size = options.size * 1024 * 1024
        self.fragments = options.fragments
        self.fill = options.fill * 1024 * 1024
        self.clients = options.clients
        self.connections = options.connections
        self.cells = []
        self.facts = []
        self.failures = []
        self.begin = time.monotonic()
        self.estimate = 0

    def say(self, text):
        gone = int(time.monotonic() - self.begin)
        print(f"{gone // 60:3d}:{gone % 60:02d} of at most "
              f"{self.estimate // 60 + 1} min  {text}", flush=True)

    def fact(self, *args, **kwargs):
        f = Fact(*args, **kwargs)
        self.facts.append(f)
        value = "-" if f.value is None else f"{f.value:.4g} {f.unit}"
        self.say(f"{f.row}: {f.what}: {value}")

    def can(self, kind, connections=1):
        return self.tools.runs(kind, connections)

    def why_not(self, kind):
        return self.tools.absent.get(kind, "one connection after the other")

    def compare(self, cell, measures, full=(), precise=False, bursts=1,
                again=None):
        """measures: {kind: function}, the reference first.  precise: more
        rounds, until the median is known well.  bursts: so many times as
        many rounds.  again: called every few
        rounds, to get each one's file new places in memory: which ones it
        has makes a difference of 10 %, to the same file's speed.

        The reference, this filter and whatever is in full are measured in
        every round, the others in the first few.  The order is turned round
        each time: what one leaves behind, pages to be written to disk above
        all, is to the cost of the next.
        """
        always = {cell.reference, OURS, *full}
        least, others = self.pairs * bursts, self.others * bursts
        for i in range(self.most * bursts if precise else least):
            # Whatever the ratio is, so that stopping does not choose it.
            if i >= least and cell.ratio() is not None and \
               cell.ratio().error() <= ENOUGH:
                break
            if again and i > 0 and i % ROUNDS_IN_PLACE == 0:
                again()
            order = list(measures.items())
            for kind, measure in reversed(order) if i % 2 else order:
                if kind in cell.absent:
                    continue
                if kind not in always and i >= others:
                    continue
                try:
                    sample = measure()
                except (Failed, OSError) as e:
                    cell.absent[kind] = str(e)
                    self.failures.append(f"{cell.row}, {cell.label}: {e}")
                    continue
                cell.samples.setdefault(kind, []).append(sample)
        self.cells.append(cell)
        spread = cell.ratio()
        if spread is None:
            text = "; ".join(f"{k}: {v}" for k, v in cell.absent.items())
            self.say(f"{cell.row}, {cell.label}: no ratio ({text})")
        else:
            self.say(f"{cell.row}, {cell.label}: {spread.median:.2f} "
                     f"({spread.low:.2f}..{spread.high:.2f}), "
                     f"{spread.number} pairs")

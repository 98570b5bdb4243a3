"""A verdict on whether a suite is slower, fatter or less accurate than its base. It allows for noise.

The lower quartile of each run's values is compared, because disturbances only make a machine slower. The spread from
run to run gives Welch's interval of the change. A **regression** is a change beyond the limit whose interval does not
contain zero. If the fixed workload, which ran in the same rounds, shows that the machine itself has changed, values are
first divided by it; otherwise they are not, because it has noise of its own. The **smallest detectable** change is the
one that this comparison would have caught nine times out of ten.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bench.estimates import t95
from lowres_seg.bench.suite import Benchmark, Suite
from lowres_seg.errors import BenchmarkError

Format = Literal["text", "markdown", "json", "github"]
#: One-sided 90% quantile of the normal distribution: "nine times out of ten".
_Z90 = 1.2816


@dataclass(frozen=True)
class Tolerances:
    """Allowed losses.

    Attributes
    ----------
    latency, memory : float
        Allowed rises, as shares: 0.05 is 5%. For throughput, `latency` bounds the seconds for each volume.
    max_drop : float
        Allowed drop of the mean Dice of any region.
    max_hd95_rise_mm : float
        Allowed rise of the mean HD95 of any region.
    """

    latency: float = 0.05
    memory: float = 0.10
    max_drop: float = 0.005
    max_hd95_rise_mm: float = 1.0


@dataclass(frozen=True)
class Change:
    """One quantity of one benchmark, before and after.

    `change` is a share for latency and memory, and a difference for Dice and HD95. `interval` is its 95% interval, and
    `detectable` the smallest change that would have been caught; both need several runs.
    """

    benchmark: str
    quantity: str
    base: float
    new: float
    change: float
    limit: float
    verdict: Literal["same", "better", "regression"]
    interval: tuple[float, float] | None = None
    detectable: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All changes, and the benchmarks that are missing."""

    changes: tuple[Change, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> list[str]:
        """Changes for the worse beyond the limits, in words."""
        worse = [
            f"{c.benchmark}: {c.quantity} {_value(c, c.base)} → {_value(c, c.new)} ({_signed(c, c.change)}, "
            f"allowed {_signed(c, c.limit)})"
            for c in self.changes
            if c.verdict == "regression"
        ]
        return worse + [f"{name}: measured in the base, but not in the new suite" for name in self.lost]

    @property
    def met(self) -> bool:
        """True if nothing is worse beyond the limits."""
        return not self.regressions

    def render(self, form: Format) -> str:
        """Write as text, as a Markdown table, as JSON, or as GitHub's annotations with that table."""
        if form == "json":
            return self._json()
        if form == "github":
            marks = [f"::error title=lowres-seg compare::{_escaped(line)}" for line in self.regressions]
            marks += [f"::warning title=lowres-seg compare::{_escaped(note)}" for note in self.notes]
            return "\n".join([*marks, self._markdown()])
        if form == "markdown":
            return self._markdown()
        return self._text()

    def _json(self) -> str:
        content = {
            "met": self.met,
            "regressions": self.regressions,
            "notes": list(self.notes),
            "changes": [asdict(change) for change in self.changes],
        }
        return json.dumps(content, indent=2)

    def _markdown(self) -> str:
        titles = ("benchmark", "what", "base", "new", "change", "smallest detectable", "verdict")
        head = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in self.rows()]
        mark = "**no regression**" if self.met else "**regression**"
        more = [f"- {line}" for line in (*self.regressions, *self.notes)]
        return "\n".join([*head, *body, "", mark, "", *more]).rstrip()

    def _text(self) -> str:
        titles = ["benchmark", "what", "base", "new", "change", "detectable", "verdict"]
        rows = [titles, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        verdict = ["no regression"] if self.met else [f"regression: {line}" for line in self.regressions]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), *verdict])

    def rows(self) -> list[list[str]]:
        """Cells of a table."""
        return [
            [
                c.benchmark,
                c.quantity,
                _value(c, c.base),
                _value(c, c.new),
                _signed(c, c.change),
                "" if c.detectable is None else f"{100 * c.detectable:.1f}%",
                c.verdict,
            ]
            for c in self.changes
        ]


def compare(base: Suite, new: Suite, tolerances: Tolerances | None = None) -> Comparison:
    """Compare two suites of one host.

    Raises
    ------
    BenchmarkError
        If they are of different hosts, of different definitions of HD95, or share no benchmark.
    """
    tolerances = tolerances or Tolerances()
    if base.host.identity != new.host.identity:
        raise BenchmarkError(
            f"the suites are of different hosts ({_host(base)}; {_host(new)}); measure both on one, in one job"
        )
    if base.ignore_labels != new.ignore_labels:
        ignored = [", ".join(map(str, suite.ignore_labels)) or "no label" for suite in (base, new)]
        raise BenchmarkError(f"the base ignores {ignored[0]} and the new suite {ignored[1]}; measure both as one")
    if base.hd95 != new.hd95:
        raise BenchmarkError(f"HD95 is {base.hd95} in the base and {new.hd95} in the new suite; measure both as one")
    if base.timed != new.timed:
        raise BenchmarkError(f"the base was timed on {base.timed}, the new suite on {new.timed}; time both on one scan")
    before = {b.key: b for b in base.benchmarks if b.status == "measured"}
    after = {b.key: b for b in new.benchmarks}
    shared = [(b, after[key]) for key, b in before.items() if key in after and after[key].status == "measured"]
    if not shared:
        raise BenchmarkError("the suites share no benchmark that both have measured; do their bundles have one name?")
    changes = [change for one, other in shared for change in _changes(one, other, tolerances)]
    lost = [
        b.title + (f" ({after[key].reason})" if key in after else "")
        for key, b in before.items()
        if key not in after or after[key].status != "measured"
    ]
    return Comparison(tuple(changes), tuple(lost), tuple(_notes(base, new, shared)))


def _notes(base: Suite, new: Suite, shared: Sequence[tuple[Benchmark, Benchmark]]) -> list[str]:
    notes = []
    added = {b.key for b in new.benchmarks if b.status == "measured"} - {one.key for one, _ in shared}
    if added:
        notes.append(f"{len(added)} benchmarks of the new suite have no counterpart in the base")
    for name, suite in (("base", base), ("new suite", new)):
        if suite.partial:
            notes.append(f"the {name} is partial")
        notes += [f"{name}: {doubt}" for doubt in suite.doubts]
    for key, version in new.host.versions.items():
        if base.host.versions.get(key, version) != version:
            notes.append(f"{key} is {base.host.versions[key]} in the base and {version} in the new suite")
    return notes


def _changes(one: Benchmark, other: Benchmark, tolerances: Tolerances) -> list[Change]:
    changes = [_latency(one, other, tolerances.latency)]
    if one.peak_rss_bytes and other.peak_rss_bytes:
        share = other.peak_rss_bytes / one.peak_rss_bytes - 1
        verdict = _verdict(share, tolerances.memory)
        pair = (float(one.peak_rss_bytes), float(other.peak_rss_bytes))
        changes.append(Change(one.title, "peak RSS", *pair, share, tolerances.memory, verdict))
    for region in dict.fromkeys(row.region for row in one.accuracy):
        then, now = ({row.case: row for row in b.accuracy if row.region == region} for b in (one, other))
        if set(then) != set(now):
            raise BenchmarkError(
                f"{one.title}: {region} was judged on {len(then)} cases in the base and {len(now)} in the new suite, "
                "or on others; judge both on the same"
            )
        for metric, limit, sign in (("dice", tolerances.max_drop, -1), ("hd95_mm", tolerances.max_hd95_rise_mm, 1)):
            first, second = (float(np.mean([getattr(row, metric) for row in rows.values()])) for rows in (then, now))
            worse = sign * (second - first)
            name = f"{region} {'Dice' if metric == 'dice' else 'HD95'}"
            changes.append(Change(one.title, name, first, second, second - first, sign * limit, _verdict(worse, limit)))
    return changes


def _latency(one: Benchmark, other: Benchmark, limit: float) -> Change:
    quantity = "seconds a volume" if one.workload == "throughput" else "latency"
    assert one.latency_s is not None  # noqa: S101 - both are measured
    assert other.latency_s is not None  # noqa: S101
    pair = (one.latency_s.p50, other.latency_s.p50)
    a, b = _levels(one), _levels(other)
    work, work_now = _fixed_levels(one), _fixed_levels(other)
    if _is_significant(_welch(work, work_now)):
        a, b = a - work, b - work_now
    change, error, half = _welch(a, b)
    share = math.expm1(change)
    verdict = _verdict(share, limit)
    if math.isnan(error):
        return Change(one.title, quantity, *pair, share, limit, verdict)
    if not _is_significant((change, error, half)):
        verdict = "same"
    interval = (math.expm1(change - half), math.expm1(change + half))
    detectable = math.expm1(max(math.log1p(limit), half) + _Z90 * error)
    return Change(one.title, quantity, *pair, share, limit, verdict, interval, detectable)


def _welch(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Change of the mean, its standard error, and half of its 95% interval; NaN if one of both has a single run."""
    change = float(np.mean(b) - np.mean(a))
    if min(len(a), len(b)) < 2:
        return change, math.nan, math.nan
    variances = [float(np.var(x, ddof=1)) / len(x) for x in (a, b)]
    error = math.sqrt(sum(variances))
    spread = sum(v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True))
    return change, error, t95(sum(variances) ** 2 / max(spread, 1e-30)) * error


def _is_significant(found: tuple[float, float, float]) -> bool:
    change, _, half = found
    return abs(change) > half


def _levels(benchmark: Benchmark) -> NDArray[np.float64]:
    """Logarithm of the lower quartile of each run."""
    return np.array([math.log(np.percentile(run.values_s, 25)) for run in benchmark.runs])


def _fixed_levels(benchmark: Benchmark) -> NDArray[np.float64]:
    """Logarithm of the lower quartile of the fixed workload in each run."""
    return np.array([math.log(np.percentile(run.reference_s, 25)) for run in benchmark.runs])


def _verdict(worse: float, limit: float) -> Literal["same", "better", "regression"]:
    # A comparison with NaN is false, so NaN is a regression.
    if not worse <= limit:
        return "regression"
    return "better" if worse < -limit else "same"


def _host(suite: Suite) -> str:
    return f"{suite.host.cpu}, {suite.host.cores} cores, {' '.join(suite.host.features)}"


def _value(change: Change, value: float) -> str:
    if change.quantity == "peak RSS":
        return f"{value / 2**20:.0f} MiB"
    if change.quantity.endswith("Dice"):
        return f"{value:.4f}"
    if change.quantity.endswith("HD95"):
        return f"{value:.2f} mm"
    return f"{1000 * value:.1f} ms"


def _signed(change: Change, value: float) -> str:
    if change.quantity.endswith("Dice"):
        return f"{value:+.4f}"
    if change.quantity.endswith("HD95"):
        return f"{value:+.2f} mm"
    return f"{100 * value:+.1f}%"


def _escaped(text: str) -> str:
    """Escape as GitHub's workflow commands need it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

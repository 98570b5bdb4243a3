"""A verdict on whether a suite is slower, fatter or less accurate than its base. It allows for noise.

The lower quartile of each run's values is compared, because disturbances only make a machine slower. The spread from
run to run gives Welch's interval of the change. A **regression** is a change beyond the limit whose interval does not
contain zero. If the fixed workload, which ran in the same rounds, shows that the machine itself has changed, values are
first divided by it; otherwise they are not, because it has noise of its own. The **smallest detectable** change is the
one that this comparison would have caught nine times out of ten. A suite of a single pass has no spread, and there is
no verdict on its time.

Time and memory are compared on one host only. Accuracy is the same for every number of cores and every workload, so it
is compared once for each bundle, backend and instruction set, and across hosts if it is compared alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bench.changes import Change, Tolerances, of_classes, verdict
from lowres_seg.bench.estimates import t95
from lowres_seg.bench.suite import Benchmark, Suite
from lowres_seg.errors import BenchmarkError
from lowres_seg.wording import columns, counted

Format = Literal["text", "markdown", "json", "github"]
What = Literal["time", "memory", "accuracy"]
#: What is compared, all of it by default.
WHAT: tuple[What, ...] = ("time", "memory", "accuracy")
#: One-sided 90% quantile of the normal distribution: "nine times out of ten".
_Z90 = 1.2816


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
            f"{c.benchmark}: {c.quantity} {c.shown(c.base)} → {c.shown(c.new)} ({c.signed(c.change)}, "
            f"allowed {c.signed(c.limit)})"
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
        mark = f"**{self._summary()}**" if self.met else "**regression**"
        more = [f"- {line}" for line in (*self.regressions, *self.notes)]
        return "\n".join([*head, *body, "", mark, "", *more]).rstrip()

    def _text(self) -> str:
        table: list[list[str]] = [["", "base", "new", "change", "detectable", "verdict"]]
        last = ""
        for benchmark, *cells in self.rows():
            if benchmark != last:
                table.append([benchmark])
            table.append([f"  {cells[0]}", *cells[1:]])
            last = benchmark
        said = [self._summary()] if self.met else [f"regression: {line}" for line in self.regressions]
        return "\n".join([*columns(table), *(f"note: {note}" for note in self.notes), *said])

    def _summary(self) -> str:
        """The verdict where nothing is a regression."""
        open_ones = sum(change.verdict == "no verdict" for change in self.changes)
        if not open_ones:
            return "no regression"
        if open_ones == len(self.changes):
            return "no verdict"
        return "no regression in what was judged; no verdict on time"

    def rows(self) -> list[list[str]]:
        """Cells of a table."""
        return [
            [
                c.benchmark,
                c.quantity,
                c.shown(c.base),
                c.shown(c.new),
                c.signed(c.change),
                "" if c.detectable is None else f"{100 * c.detectable:.1f}%",
                c.verdict,
            ]
            for c in self.changes
        ]


def compare(
    base: Suite, new: Suite, tolerances: Tolerances | None = None, *, what: Collection[What] = WHAT
) -> Comparison:
    """Compare two suites.

    Parameters
    ----------
    base, new : Suite
        Of one host, if time or memory are compared.
    tolerances : Tolerances, optional
    what : collection of {"time", "memory", "accuracy"}
        What is compared.

    Raises
    ------
    BenchmarkError
        If they are of different hosts, of different definitions of HD95, or share nothing that is compared.
    """
    tolerances = tolerances or Tolerances()
    on_one_host = "time" in what or "memory" in what
    _check_alike(base, new, on_one_host=on_one_host, accuracy="accuracy" in what)
    changes: list[Change] = []
    lost: list[str] = []
    shared: list[tuple[Benchmark, Benchmark]] = []
    if on_one_host:
        before = {b.key: b for b in base.benchmarks if b.status == "measured"}
        after = {b.key: b for b in new.benchmarks}
        shared = [(b, after[key]) for key, b in before.items() if key in after and after[key].status == "measured"]
        if not shared:
            raise BenchmarkError(
                "the suites share no benchmark that both have measured; do their bundles have one name?"
            )
        changes = [change for one, other in shared for change in _costs(one, other, tolerances, what)]
        lost = [
            b.title + (f" ({after[key].reason})" if key in after else "")
            for key, b in before.items()
            if key not in after or after[key].status != "measured"
        ]
    if "accuracy" in what:
        judged = _judged(base), _judged(new)
        both = [(one, judged[1][key]) for key, one in judged[0].items() if key in judged[1]]
        if not on_one_host and not both:
            raise BenchmarkError(
                "the suites share no bundle whose accuracy both have; measure with --cases, and name both alike"
            )
        # What was not measured at all is lost already.
        there = {_key(one) for _, one in shared} if on_one_host else set(judged[0])
        lost += [
            f"accuracy of {_place(one)}" for key, one in judged[0].items() if key in there and key not in judged[1]
        ]
        changes += [change for one, other in both for change in _accuracy(one, other, tolerances)]
    return Comparison(tuple(changes), tuple(lost), tuple(_notes(base, new, shared, changes, on_one_host=on_one_host)))


def _check_alike(base: Suite, new: Suite, *, on_one_host: bool, accuracy: bool) -> None:
    """Refuse suites that were measured in ways that cannot be compared."""
    if on_one_host and base.host.identity != new.host.identity:
        raise BenchmarkError(
            f"the suites are of different hosts ({_host(base)}; {_host(new)}); measure both on one, in one job, or "
            "compare --what accuracy"
        )
    if accuracy and base.ignore_labels != new.ignore_labels:
        ignored = [", ".join(map(str, suite.ignore_labels)) or "no label" for suite in (base, new)]
        raise BenchmarkError(f"the base ignores {ignored[0]} and the new suite {ignored[1]}; measure both as one")
    if accuracy and base.hd95 != new.hd95:
        raise BenchmarkError(f"HD95 is {base.hd95} in the base and {new.hd95} in the new suite; measure both as one")
    if on_one_host and base.timed != new.timed:
        raise BenchmarkError(f"the base was timed on {base.timed}, the new suite on {new.timed}; time both on one scan")


def _judged(suite: Suite) -> dict[tuple[str, ...], Benchmark]:
    """One benchmark with accuracy for each bundle, backend and instruction set: all of them have the same."""
    return {_key(b): b for b in suite.benchmarks if b.status == "measured" and (b.accuracy or b.classified)}


def _key(benchmark: Benchmark) -> tuple[str, ...]:
    return (benchmark.bundle, benchmark.backend, benchmark.isa)


def _place(benchmark: Benchmark) -> str:
    """Name of what has one accuracy, for people."""
    limited = "" if benchmark.isa == "native" else f", limited to {benchmark.isa}"
    return f"{benchmark.bundle}, {benchmark.backend} {benchmark.shown_precision}{limited}"


def _notes(
    base: Suite,
    new: Suite,
    shared: Sequence[tuple[Benchmark, Benchmark]],
    changes: Sequence[Change],
    *,
    on_one_host: bool,
) -> list[str]:
    notes = []
    if any(change.verdict == "no verdict" for change in changes):
        notes.append(
            "one pass has no interval, so there is no verdict on time; measure base and new with at least --passes 2"
        )
    added = {b.key for b in new.benchmarks if b.status == "measured"} - {one.key for one, _ in shared}
    if added and on_one_host:
        some = f"{counted(len(added), 'benchmark')} of the new suite {'has' if len(added) == 1 else 'have'}"
        notes.append(f"{some} no counterpart in the base")
    if base.host.identity != new.host.identity:
        notes.append(f"the suites are of different hosts ({_host(base)}; {_host(new)})")
    for name, suite in (("base", base), ("new suite", new)):
        if suite.partial:
            notes.append(f"the {name} is partial")
        notes += [f"{name}: {doubt}" for doubt in suite.doubts if on_one_host]
    for key, version in new.host.versions.items():
        if base.host.versions.get(key, version) != version:
            notes.append(f"{key} is {base.host.versions[key]} in the base and {version} in the new suite")
    return notes


def _costs(one: Benchmark, other: Benchmark, tolerances: Tolerances, what: Collection[What]) -> list[Change]:
    """Changes of time and memory."""
    changes = [_latency(one, other, tolerances.latency)] if "time" in what else []
    if "memory" in what and one.peak_rss_bytes and other.peak_rss_bytes:
        share = other.peak_rss_bytes / one.peak_rss_bytes - 1
        judged = verdict(share, tolerances.memory)
        pair = (float(one.peak_rss_bytes), float(other.peak_rss_bytes))
        changes.append(Change(one.title, "peak RSS", *pair, share, tolerances.memory, judged))
    return changes


def _accuracy(one: Benchmark, other: Benchmark, tolerances: Tolerances) -> list[Change]:
    """Changes of mean Dice and mean HD95 of each region, or of classes."""
    if one.classified or other.classified:
        return of_classes(_place(one), one, other, tolerances)
    changes = []
    for region in dict.fromkeys(row.region for row in one.accuracy):
        then, now = ({row.case: row for row in b.accuracy if row.region == region} for b in (one, other))
        if set(then) != set(now):
            raise BenchmarkError(
                f"{_place(one)}: {region} was judged on {counted(len(then), 'case')} in the base and {len(now)} in the "
                "new suite, or on others; judge both on the same"
            )
        for metric, limit, sign in (("dice", tolerances.max_drop, -1), ("hd95_mm", tolerances.max_hd95_rise_mm, 1)):
            first, second = (float(np.mean([getattr(row, metric) for row in rows.values()])) for rows in (then, now))
            judged = verdict(sign * (second - first), limit)
            name = f"{region} {'Dice' if metric == 'dice' else 'HD95'}"
            changes.append(Change(_place(one), name, first, second, second - first, sign * limit, judged))
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
    if math.isnan(error):
        return Change(one.title, quantity, *pair, share, limit, "no verdict")
    judged = verdict(share, limit) if _is_significant((change, error, half)) else "same"
    interval = (math.expm1(change - half), math.expm1(change + half))
    detectable = math.expm1(max(math.log1p(limit), half) + _Z90 * error)
    return Change(one.title, quantity, *pair, share, limit, judged, interval, detectable)


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


def _host(suite: Suite) -> str:
    return f"{suite.host.cpu}, {counted(suite.host.cores, 'core')}, {' '.join(suite.host.features)}"


def _escaped(text: str) -> str:
    """Escape as GitHub's workflow commands need it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

"""Changes of single quantities between two suites, with their limits and verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lowres_seg.bench.class_sums import ClassSums
from lowres_seg.bench.suite import Benchmark
from lowres_seg.errors import BenchmarkError
from lowres_seg.wording import counted

Judged = Literal["same", "better", "regression", "no verdict"]


@dataclass(frozen=True)
class Tolerances:
    """Allowed losses.

    Attributes
    ----------
    latency, memory : float
        Allowed rises, as shares: 0.05 is 5%. For throughput, `latency` bounds the seconds for each volume.
    max_drop : float
        Allowed drop of the mean Dice of any region, and of AUC and accuracy.
    max_hd95_rise_mm : float
        Allowed rise of the mean HD95 of any region.
    max_probability_change : float
        Allowed change of the value of any class in any case.
    max_flipped_decisions : int
        Number of cases whose decision may change.
    """

    latency: float = 0.05
    memory: float = 0.10
    max_drop: float = 0.005
    max_hd95_rise_mm: float = 1.0
    max_probability_change: float = 0.02
    max_flipped_decisions: int = 0


@dataclass(frozen=True)
class Change:
    """One quantity of one benchmark, before and after.

    `change` is a share for latency and memory, and a difference for all others. `interval` is its 95% interval, and
    `detectable` the smallest change that would have been caught. Both need several runs, and so does a verdict on time.
    """

    benchmark: str
    quantity: str
    base: float
    new: float
    change: float
    limit: float
    verdict: Judged
    interval: tuple[float, float] | None = None
    detectable: float | None = None

    def shown(self, value: float) -> str:
        """A value of the quantity with its unit."""
        if self.quantity == "peak RSS":
            return f"{value / 2**20:.0f} MiB"
        if self.quantity.endswith("HD95"):
            return f"{value:.2f} mm"
        if self._is_share:
            return f"{value:.4f}"
        return f"{value:.0f}" if self.quantity == FLIPPED else f"{1000 * value:.1f} ms"

    def signed(self, value: float) -> str:
        """A change of the quantity with its sign and unit."""
        if self.quantity.endswith("HD95"):
            return f"{value:+.2f} mm"
        if self._is_share:
            return f"{value:+.4f}"
        return f"{value:+.0f}" if self.quantity == FLIPPED else f"{100 * value:+.1f}%"

    @property
    def _is_share(self) -> bool:
        return self.quantity.endswith("Dice") or self.quantity in (VALUES, AUC, ACCURACY)


#: Quantities of bundles that classify. The first two are differences between base and new suite, so their base is 0.
VALUES, FLIPPED, AUC, ACCURACY = "value of a class", "flipped decisions", "AUC", "accuracy"


def verdict(worse: float, limit: float) -> Judged:
    """Verdict on a loss."""
    # A comparison with NaN is false, so NaN is a regression.
    if not worse <= limit:
        return "regression"
    return "better" if worse < -limit else "same"


def of_classes(place: str, one: Benchmark, other: Benchmark, tolerances: Tolerances) -> list[Change]:
    """Changes of a bundle that classifies: of its values, its decisions, and its AUC and accuracy.

    Raises
    ------
    BenchmarkError
        If the two were judged on other cases, or decide among other classes.
    """
    then, now = ({row.case: row for row in benchmark.classified} for benchmark in (one, other))
    if set(then) != set(now) or set(one.classes) != set(other.classes):
        raise BenchmarkError(
            f"{place}: was judged on {counted(len(then), 'case')} among {', '.join(one.classes) or 'no class'} in the "
            f"base, and on {len(now)} among {', '.join(other.classes) or 'no class'} in the new suite, or on others; "
            "judge both on the same"
        )
    pairs = [(row.values, now[case].values) for case, row in then.items()]
    moved = float(np.max([abs(value - new.get(name, math.nan)) for old, new in pairs for name, value in old.items()]))
    flipped = sum(row.decision != now[case].decision for case, row in then.items())
    most, some = tolerances.max_probability_change, tolerances.max_flipped_decisions
    changes = [
        Change(place, VALUES, 0.0, moved, moved, most, verdict(moved, most)),
        Change(place, FLIPPED, 0.0, flipped, flipped, some, verdict(flipped, some)),
    ]
    before, after = ClassSums.of(one), ClassSums.of(other)
    for quantity, first, second in ((AUC, before.auc, after.auc), (ACCURACY, before.accuracy, after.accuracy)):
        if first is not None and second is not None and before.known == after.known:
            judged = verdict(first - second, tolerances.max_drop)
            changes.append(Change(place, quantity, first, second, second - first, -tolerances.max_drop, judged))
    return changes

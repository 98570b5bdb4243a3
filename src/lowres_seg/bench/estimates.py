"""Estimates from measured values, and doubts about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lowres_seg.bench.suite import Latency, Run
from lowres_seg.wording import counted

Values = Sequence[float]
#: Number of resamples of a bootstrap.
RESAMPLES = 1000
#: Doubts are raised below this number of values; beyond these shares of the median for the spread between quartiles and
#: for the drift; beyond this share of a processor for other work; and for values shorter than this.
FEW, SPREAD, DRIFT, BUSY, SHORT_S = 10, 0.10, 0.10, 0.10, 1e-3
#: Degrees of freedom beyond which the quantile of Student's t is taken from its series about the normal distribution's.
_MANY = 300.0


def latency(runs: Sequence[Values], seed: int) -> Latency:
    """Percentiles of all values, and a bootstrap interval of the median over runs and then over their values."""
    values = np.concatenate([np.asarray(run) for run in runs])
    rng = np.random.default_rng(seed)
    medians = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(len(runs), size=len(runs))
        medians.append(np.median(np.concatenate([rng.choice(runs[index], len(runs[index])) for index in chosen])))
    p50, p90, p99 = (float(p) for p in np.percentile(values, (50, 90, 99)))
    low, high = (float(p) for p in np.percentile(medians, (2.5, 97.5)))
    return Latency(p50=p50, p90=p90, p99=p99, min=float(values.min()), ci95=(low, high))


def thinned(looks: Sequence[tuple[float, int]], most: int = 200) -> tuple[tuple[float, int], ...]:
    """At most some of many looks at a memory: of neighbours, the one with the largest value.

    Examples
    --------
    >>> thinned([(0.0, 1), (0.1, 5), (0.2, 2), (0.3, 3)], 2)
    ((0.1, 5), (0.3, 3))
    """
    size = max(1, math.ceil(len(looks) / most))
    return tuple(max(looks[at : at + size], key=lambda look: look[1]) for at in range(0, len(looks), size))


def median(values: Values) -> float:
    """Median of some values."""
    return float(np.median(values))


@lru_cache(maxsize=256)
def t95(freedom: float) -> float:
    """Two-sided 95% quantile of Student's t, for any number of degrees of freedom from 1 on.

    With t = √ν·tan θ the distribution function is an integral of cos(θ)^(ν-1), which has no tails.

    Examples
    --------
    >>> round(t95(1), 3), round(t95(16), 3), round(t95(1e9), 3)
    (12.706, 2.12, 1.96)
    """
    nu = max(1.0, float(freedom))
    if nu > _MANY:
        z = 1.959963984540054
        return z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    nodes, weights = np.polynomial.legendre.leggauss(200)

    def area(theta: float) -> float:
        """Integral of cos^(ν-1) from 0 to theta."""
        return float((weights * np.cos(theta * (nodes + 1) / 2) ** (nu - 1)).sum() * theta / 2)

    whole, low, high = area(math.pi / 2), 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if area(middle) < 0.95 * whole else (low, middle)
    return math.sqrt(nu) * math.tan(low)


def doubts(runs: Sequence[Run]) -> list[str]:
    """Reasons to doubt the values of a benchmark, each with what to do."""
    values = np.array([value for run in runs for value in run.values_s])
    middle = float(np.median(values))
    found = []
    if len(values) < FEW:
        found.append(f"only {counted(len(values), 'value')}: raise --passes or --rounds to have at least {FEW}")
    if middle < SHORT_S:
        found.append(f"a value takes {1e6 * middle:.0f} µs, too short for the clock: measure a larger input")
    low, high = np.percentile(values, (25, 75))
    if len(values) >= FEW and (high - low) / middle > SPREAD:
        found.append(
            f"unstable: the middle half of the values spreads over {100 * (high - low) / middle:.0f}% of the median; "
            "leave the machine alone, or raise --rounds"
        )
    fixed = [float(np.median(run.reference_s)) for run in runs if run.reference_s]
    if fixed and (max(fixed) - min(fixed)) / min(fixed) > DRIFT:
        found.append(
            f"the machine drifted: the fixed workload took {1000 * min(fixed):.0f} to {1000 * max(fixed):.0f} ms "
            "from one pass to another; compare within this suite only, or with `compare`, which allows for it"
        )
    return found

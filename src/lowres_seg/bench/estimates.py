"""Numbers from values, and doubts about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowres_seg.bench.suite import Latency, Run
from lowres_seg.host import Load

Values = Sequence[float]
#: Resamples of a bootstrap.
RESAMPLES = 1000
#: Two-sided 95% quantiles of Student's t, by degrees of freedom; beyond the last, that of the normal distribution.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
#: When there are doubts: fewer values than this, a spread (between quartiles) or a drift beyond these shares of the
#: median, other work on the machine beyond this share of a processor, and values shorter than this.
FEW, SPREAD, DRIFT, BUSY, SHORT_S = 10, 0.10, 0.10, 0.10, 1e-3


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


def median(values: Values) -> float:
    """Middle value."""
    return float(np.median(values))


def t95(freedom: float) -> float:
    """Two-sided 95% quantile of Student's t."""
    return _T95[min(max(int(freedom), 1), len(_T95)) - 1] if freedom <= len(_T95) else 1.96


def doubts(runs: Sequence[Run]) -> list[str]:
    """What a reader should know before believing the values, with what to do."""
    values = np.array([value for run in runs for value in run.values_s])
    middle = float(np.median(values))
    found = []
    if len(values) < FEW:
        found.append(f"only {len(values)} values: raise --passes or --rounds to have at least {FEW}")
    if middle < SHORT_S:
        found.append(f"a value takes {1e6 * middle:.0f} µs, too short for the clock: measure a larger input")
    low, high = np.percentile(values, (25, 75))
    if len(values) >= FEW and (high - low) / middle > SPREAD:
        found.append(
            f"unstable: the middle half of the values spreads over {100 * (high - low) / middle:.0f}% of the median; "
            "leave the machine alone, or raise --rounds"
        )
    reference = [float(np.median(run.reference_s)) for run in runs if run.reference_s]
    if reference and (max(reference) - min(reference)) / min(reference) > DRIFT:
        found.append(
            f"the machine drifted: the same work took {1000 * min(reference):.0f} to {1000 * max(reference):.0f} ms "
            "from one pass to another; compare within this suite only, or with `compare`, which allows for it"
        )
    return found


def busy(before: Load, after: Load) -> list[str]:
    """Doubts about the host: what else it did between two looks."""
    seconds = after.at_s - before.at_s
    found = []
    spent = {
        pid: (name, (total - before.others.get(pid, ("", 0.0))[1]) / seconds)
        for pid, (name, total) in after.others.items()
    }
    if sum(share for _, share in spent.values()) > BUSY:
        name, share = max(spent.values(), key=lambda one: one[1])
        found.append(f"busy host: other work, most of it {name} ({share:.1f} processors); stop it and measure again")
    if (after.stolen_s - before.stolen_s) / seconds > BUSY:
        found.append("busy host: the hypervisor gave processors to others; measure when it is idle")
    throttled = after.throttled - before.throttled
    if throttled:
        found.append(f"the CPU quota ran out in {throttled} periods: measure with fewer cores, or raise the quota")
    return found

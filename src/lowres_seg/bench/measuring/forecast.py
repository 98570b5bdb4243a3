"""About how long a plan takes, said before it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowres_seg.bench.measuring.plan import Cell, Plan

#: How much longer than OpenVINO a backend takes, about; see docs/results.md.
_LONGER = {"torch": 5.0, "torch-compile": 3.0, "onnxruntime": 2.0, "onnxruntime-int8": 2.0}
#: Seconds for which the peak of the CPU is looked for, and that HD95 of a case takes, about.
_PEAK_S, _HD95_S = 8.0, 1.0


@dataclass(frozen=True)
class Tried:
    """What the first segmentation with a bundle took, on all cores that the plan names.

    Attributes
    ----------
    start_s : float
        Seconds from the start of the process until it could segment, and from the result to its end.
    once_s : float
        Seconds of the segmentation.
    """

    start_s: float
    once_s: float


def seconds(plan: Plan, cells: Sequence[Cell], tried: Mapping[str, Tried], cases: int, cores: Sequence[int]) -> float:
    """Seconds that a plan takes, about.

    Parameters
    ----------
    plan : Plan
    cells : sequence of Cell
        Those that can be measured.
    tried : mapping of str to Tried
        By the name of a bundle.
    cases : int
        Number of labelled cases.
    cores : sequence of int
        Numbers of cores that are measured.
    """
    fixed_start_s = min(one.start_s for one in tried.values())
    one_pass = sum(fixed_start_s + plan.rounds * plan.turn_s for _ in cores)
    for cell in cells:
        one = tried[cell.bundle.name]
        threads = 1 if cell.workload == "throughput" else cell.cores
        value_s = one.once_s * _LONGER.get(cell.backend, 1.0) * max(cores) / threads
        one_pass += one.start_s + (1 + plan.warm_up) * value_s + plan.rounds * max(plan.turn_s, value_s)
    judged = {(cell.bundle.name, cell.backend, cell.isa) for cell in cells}
    judging = sum(
        cases * (tried[name].start_s + tried[name].once_s * _LONGER.get(backend, 1.0) + _HD95_S)
        for name, backend, _ in judged
    )
    return plan.passes * one_pass + judging + _PEAK_S * len(cores) * len(plan.isa)

"""Latency, memory, Dice and HD95 of bundles, and a verdict on them. Needs ``lowres-seg[bench]``.

A plan says what to measure, a suite holds what was measured, a comparison judges two suites.
Every measurement has a process of its own, and all processes take turns.
"""

from typing import TYPE_CHECKING

from lowres_seg.extras import on_demand

if TYPE_CHECKING:
    from lowres_seg.bench.changes import Tolerances
    from lowres_seg.bench.comparison import Comparison, compare
    from lowres_seg.bench.html.page import report
    from lowres_seg.bench.measuring.plan import Plan
    from lowres_seg.bench.measuring.runner import bench
    from lowres_seg.bench.suite import Suite

__all__ = [
    "Comparison",
    "Plan",
    "Suite",
    "Tolerances",
    "bench",
    "compare",
    "report",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Comparison": "comparison",
        "Plan": "measuring.plan",
        "Suite": "suite",
        "Tolerances": "changes",
        "bench": "measuring.runner",
        "compare": "comparison",
        "report": "html.page",
    },
)

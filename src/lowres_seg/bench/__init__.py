"""Latency, memory, Dice and HD95 of bundles, and a verdict on them. Needs ``lowres-seg[bench]``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowres_seg.bench.comparison import Comparison, Tolerances, compare
    from lowres_seg.bench.page import report
    from lowres_seg.bench.plan import Plan
    from lowres_seg.bench.runner import bench
    from lowres_seg.bench.suite import Suite

__all__ = ["Comparison", "Plan", "Suite", "Tolerances", "bench", "compare", "report"]

_HOMES = {
    "Comparison": "comparison",
    "Plan": "plan",
    "Suite": "suite",
    "Tolerances": "comparison",
    "bench": "runner",
    "compare": "comparison",
    "report": "page",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: a child process that times a network comes through here and needs none of them.
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Memory of processes from their start on: the places of lines in a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowres_seg.bench.axes import Workload
from lowres_seg.bench.html.axis import BOTTOM, LEFT, RIGHT, TOP, Axis
from lowres_seg.bench.html.charts import groups, mib, name_of, seconds, tone
from lowres_seg.bench.suite import Benchmark

_MIB = 2**20


@dataclass(frozen=True)
class Line:
    """Memory of one process: its points, the place of its first result, its number at its peak, and what they say."""

    number: int
    name: str
    tone: str
    points: tuple[tuple[float, float], ...]
    first: tuple[float, float]
    peak: tuple[float, float]
    texts: tuple[str, str, str]


@dataclass(frozen=True)
class Timeline:
    """Memory of the first process of each benchmark, in MiB over seconds."""

    workload: Workload
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    summary: str


def timeline(measured: Sequence[Benchmark]) -> Timeline | None:
    """Memory over time of the first workload that has it, on the most cores; None if none has.

    A benchmark of several processes is drawn by its first one.
    """
    drawn = [
        (workload, [b for b in group if b.runs and b.runs[0].memory])
        for workload, group in sorted(groups(measured), key=lambda one: one[0] != "end-to-end")
    ]
    workload, group = next(((name, found) for name, found in drawn if found), (None, []))
    if workload is None:
        return None
    looks = [b.runs[0].memory for b in group]
    x = Axis(0, max(at for one in looks for at, _ in one), LEFT, RIGHT, is_time=True)
    y = Axis(0, max(held for one in looks for _, held in one) / _MIB, BOTTOM, TOP + 6)
    lines = []
    for number, (b, found) in enumerate(zip(group, looks, strict=True), start=1):
        points = [(x.place(at), y.place(held / _MIB)) for at, held in found]
        first = next((n for n, (at, _) in enumerate(found) if at >= b.runs[0].cold_start_s), len(found) - 1)
        peak = max(range(len(found)), key=lambda n: found[n][1])
        texts = (
            seconds(b.runs[0].cold_start_s),
            mib(found[first][1]),
            f"{mib(found[peak][1])} at {seconds(found[peak][0])}",
        )
        lines.append(Line(number, name_of(b), tone(b), tuple(points), points[first], points[peak], texts))
    highest = min(lines, key=lambda line: line.peak[1])
    lowest = max(lines, key=lambda line: line.peak[1])
    summary = f"The highest peak has {highest.name}: {highest.texts[2]}."
    if lowest is not highest:
        summary += f" The lowest has {lowest.name}: {lowest.texts[2]}."
    return Timeline(workload, x, y, tuple(lines), summary)

"""A suite as one HTML page without scripts, fonts or requests. This is the home of Jinja."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean

from jinja2 import Environment, PackageLoader, StrictUndefined

from lowres_seg import atomic
from lowres_seg.bench.axes import WORKLOADS, Workload
from lowres_seg.bench.suite import Accuracy, Benchmark, Suite


@dataclass(frozen=True)
class Bar:
    """A row of a chart: its name, its text, its length as a share of the longest, its colour."""

    name: str
    text: str
    share: float
    tone: str


@dataclass(frozen=True)
class Chart:
    """Bars under one title. `about` says what is drawn and which direction is better."""

    id: str
    title: str
    about: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Stack:
    """Time of one benchmark by step: (step, text, share of the longest total, number of its colour)."""

    name: str
    total: str
    parts: tuple[tuple[str, str, float, int], ...]


@dataclass(frozen=True)
class Line:
    """Latency against cores: points of the drawing, with their values as text."""

    name: str
    tone: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Dumbbell:
    """One region of one case in each bundle. Positions are shares of the axis."""

    name: str
    dots: tuple[tuple[str, str, float, str], ...]

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest position."""
        places = [place for _, _, place, _ in self.dots]
        return min(places), max(places)


def report(suite: Suite, path: Path, *, force: bool = False) -> None:
    """Write a suite as one self-contained HTML page.

    Raises
    ------
    InputError
        If the file exists and not `force`, or cannot be written.
    """
    with atomic.file(path, force=force) as staged:
        staged.write_text(render(suite), encoding="utf-8")


def render(suite: Suite) -> str:
    """HTML of a suite."""
    environment = Environment(
        loader=PackageLoader("lowres_seg.bench.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measured = [b for b in suite.benchmarks if b.status == "measured"]
    return environment.get_template("page.html.j2").render(
        suite=suite,
        measured=measured,
        charts=[*_speed(measured), *_by_isa(measured), *_memory(measured), *_cold(measured), *_roofline(measured)],
        lines=_cores(measured),
        stacks=_stages(measured),
        dice=_joined(measured, "dice"),
        hd95=_joined(measured, "hd95_mm"),
        means=_means(measured),
        pictures=[(key, list(group)) for key, group in groupby(suite.pictures, lambda p: (p.bundle, p.case))],
        seconds=_seconds,
        mib=_mib,
        workloads=WORKLOADS,
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def _mib(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"


def _tone(benchmark: Benchmark) -> str:
    """Colour of a benchmark: one for each precision, and grey for other backends than OpenVINO."""
    return benchmark.shown_precision if benchmark.backend == "openvino" else "other"


def _name(b: Benchmark, *, cores: bool = False, isa: bool = False) -> str:
    parts = [b.bundle, b.backend, b.shown_precision]
    if cores:
        parts.append("1 core" if b.cores == 1 else f"{b.cores} cores")
    if isa:
        parts.append("this host as it is" if b.isa == "native" else f"this host limited to {b.isa}")
    return ", ".join(parts)


def _bars(
    benchmarks: Sequence[Benchmark],
    value: Callable[[Benchmark], float],
    text: Callable[[Benchmark], str],
    name: Callable[[Benchmark], str],
) -> tuple[Bar, ...]:
    longest = max((value(b) for b in benchmarks), default=0.0) or 1.0
    return tuple(Bar(name(b), text(b), value(b) / longest, _tone(b)) for b in benchmarks)


def _latency(b: Benchmark) -> float:
    return b.latency_s.p50 if b.latency_s is not None else 0.0


def _groups(measured: Sequence[Benchmark]) -> Iterable[tuple[Workload, list[Benchmark]]]:
    """Benchmarks on all cores without a limit on instruction sets, by workload."""
    most = max((b.cores for b in measured), default=0)
    for workload in WORKLOADS:
        group = [b for b in measured if b.workload == workload and b.cores == most and b.isa == "native"]
        if group:
            yield workload, group


def _speed(measured: Sequence[Benchmark]) -> list[Chart]:
    charts = []
    for workload, group in _groups(measured):
        slowest = max(group, key=_latency)
        base = next((b for b in group if b.backend == "torch"), slowest)
        bars = _bars(
            group,
            lambda b, base=base: _latency(base) / _latency(b),  # type: ignore[misc]
            lambda b, base=base: f"{_latency(base) / _latency(b):.2f}× ({_seconds(_latency(b))})",  # type: ignore[misc]
            _name,
        )
        about = f"How many times as fast as {_name(base)}; longer is better. Medians, {WORKLOADS[workload]}."
        charts.append(Chart(f"speed-{workload}", f"Speed-up: {workload}", about, bars))
    return charts


def _by_isa(measured: Sequence[Benchmark]) -> list[Chart]:
    charts = []
    for workload, meaning in WORKLOADS.items():
        group = [b for b in measured if b.workload == workload and b.backend == "openvino"]
        if len({b.isa for b in group}) < 2:
            continue
        most = max(b.cores for b in group)
        group = [b for b in group if b.cores == most]
        bars = _bars(group, _latency, lambda b: _seconds(_latency(b)), lambda b: _name(b, isa=True))
        about = f"Latency with newer instruction sets kept from use; shorter is better. {meaning.capitalize()}."
        charts.append(Chart(f"isa-{workload}", f"Instruction sets: {workload}", about, bars))
    return charts


def _memory(measured: Sequence[Benchmark]) -> list[Chart]:
    return [
        Chart(
            f"memory-{workload}",
            f"Peak memory: {workload}",
            "Largest resident set of the process and all that it started; shorter is better.",
            _bars(group, lambda b: b.peak_rss_bytes or 0, lambda b: _mib(b.peak_rss_bytes or 0), _name),
        )
        for workload, group in _groups(measured)
    ]


def _cold(measured: Sequence[Benchmark]) -> list[Chart]:
    return [
        Chart(
            f"cold-{workload}",
            f"Cold start: {workload}",
            "From the start of the process to its first result; shorter is better.",
            _bars(group, lambda b: b.cold_start_s or 0, lambda b: _seconds(b.cold_start_s or 0), _name),
        )
        for workload, group in _groups(measured)
        if workload != "throughput"
    ]


def _roofline(measured: Sequence[Benchmark]) -> list[Chart]:
    group = [b for b in measured if b.peak_share is not None and b.isa == "native"]
    if not group:
        return []
    bars = tuple(
        Bar(_name(b, cores=True), f"{100 * (b.peak_share or 0):.0f}%", min(1.0, b.peak_share or 0), _tone(b))
        for b in group
    )
    about = (
        "Multiply-accumulates a second, as a share of what the fastest convolutions reach on this CPU in the same "
        "precision and run; longer is better."
    )
    return [Chart("roofline", "Share of this CPU's peak", about, bars)]


def _cores(measured: Sequence[Benchmark]) -> list[tuple[Workload, list[int], str, list[Line]]]:
    """For each workload: the numbers of cores, the highest latency, and a line for each bundle and backend."""
    drawn = []
    for workload in WORKLOADS:
        group = [b for b in measured if b.workload == workload and b.isa == "native"]
        counts = sorted({b.cores for b in group})
        if len(counts) < 2:
            continue
        highest = max(_latency(b) for b in group)
        lines = []
        for name in dict.fromkeys(_name(b) for b in group):
            ones = sorted((b for b in group if _name(b) == name), key=lambda b: b.cores)
            points = tuple(
                (
                    40 + 300 * counts.index(b.cores) / (len(counts) - 1),
                    200 - 180 * _latency(b) / highest,
                    f"{b.cores} cores: {_seconds(_latency(b))}",
                )
                for b in ones
            )
            lines.append(Line(name, _tone(ones[0]), points))
        drawn.append((workload, counts, _seconds(highest), lines))
    return drawn


def _stages(measured: Sequence[Benchmark]) -> tuple[list[str], list[Stack]]:
    """Steps in their order, and the time of each benchmark by step."""
    group = [b for b in measured if b.workload == "end-to-end" and b.stages_s and b.isa == "native"]
    steps = list(dict.fromkeys(step for b in group for step in b.stages_s))
    longest = max((sum(b.stages_s.values()) for b in group), default=1.0)
    stacks = [
        Stack(
            _name(b, cores=True),
            _seconds(sum(b.stages_s.values())),
            tuple((step, _seconds(s), s / longest, steps.index(step)) for step, s in b.stages_s.items()),
        )
        for b in group
    ]
    return steps, stacks


def _judged(measured: Sequence[Benchmark]) -> list[tuple[Benchmark, tuple[Accuracy, ...]]]:
    """Accuracy of each bundle as OpenVINO runs it."""
    found: dict[str, tuple[Benchmark, tuple[Accuracy, ...]]] = {}
    for b in measured:
        if b.accuracy and b.backend == "openvino" and b.isa == "native":
            found.setdefault(b.bundle, (b, b.accuracy))
    return list(found.values())


def _joined(measured: Sequence[Benchmark], quantity: str) -> tuple[str, str, list[Dumbbell]]:
    """Both ends of the axis, and a row for each region of each case."""
    judged = _judged(measured)
    values = [getattr(row, quantity) for _, rows in judged for row in rows]
    if not values:
        return "", "", []
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    unit = "" if quantity == "dice" else " mm"
    form = ".4f" if quantity == "dice" else ".2f"
    rows: list[Dumbbell] = []
    for case, region in dict.fromkeys((row.case, row.region) for _, found in judged for row in found):
        dots = tuple(
            (
                b.bundle,
                f"{getattr(row, quantity):{form}}{unit}",
                (getattr(row, quantity) - low) / (high - low),
                _tone(b),
            )
            for b, found in judged
            for row in found
            if (row.case, row.region) == (case, region)
        )
        rows.append(Dumbbell(f"{case}, {region}", dots))
    return f"{low:{form}}{unit}", f"{high:{form}}{unit}", rows


def _means(measured: Sequence[Benchmark]) -> list[tuple[str, str, int, float, float, float, float]]:
    """Bundle, region, cases, mean Dice, lowest Dice, mean HD95, highest HD95."""
    found = []
    for b, rows in _judged(measured):
        for region in dict.fromkeys(row.region for row in rows):
            of = [row for row in rows if row.region == region]
            dice, hd95 = [row.dice for row in of], [row.hd95_mm for row in of]
            found.append((b.bundle, region, len(of), mean(dice), min(dice), mean(hd95), max(hd95)))
    return found

"""Bars, stacks and lines of a suite, as plain values that the page draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lowres_seg.bench.axes import WORKLOADS, Workload
from lowres_seg.bench.html.axis import BOTTOM, LEFT, RIGHT, TOP, Axis
from lowres_seg.bench.suite import Benchmark


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


def seconds(value: float) -> str:
    """Seconds as text, in ms below one."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def mib(value: float) -> str:
    """Bytes as text, in MiB."""
    return f"{value / 2**20:.0f} MiB"


def tone(benchmark: Benchmark) -> str:
    """Colour of a benchmark: one for each precision, and grey for other backends than OpenVINO."""
    return benchmark.shown_precision if benchmark.backend == "openvino" else "other"


def name_of(b: Benchmark, *, cores: bool = False, isa: bool = False) -> str:
    """Name of a benchmark: bundle, backend and precision, and on request its cores and instruction set."""
    parts = [b.bundle, b.backend, b.shown_precision]
    if cores:
        parts.append(_cores(b))
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
    return tuple(Bar(name(b), text(b), value(b) / longest, tone(b)) for b in benchmarks)


def latency(b: Benchmark) -> float:
    """Median seconds of a benchmark."""
    return b.latency_s.p50 if b.latency_s is not None else 0.0


def _cores(b: Benchmark) -> str:
    return "1 core" if b.cores == 1 else f"{b.cores} cores"


def groups(measured: Sequence[Benchmark]) -> Iterable[tuple[Workload, list[Benchmark]]]:
    """Benchmarks on all cores without a limit on instruction sets, by workload."""
    most = max((b.cores for b in measured), default=0)
    for workload in WORKLOADS:
        group = [b for b in measured if b.workload == workload and b.cores == most and b.isa == "native"]
        if group:
            yield workload, group


def speed(measured: Sequence[Benchmark]) -> list[Chart]:
    """Speed-up of each benchmark, by workload: against torch, or else against the slowest."""
    charts = []
    for workload, group in groups(measured):
        slowest = max(group, key=latency)
        base = next((b for b in group if b.backend == "torch"), slowest)
        bars = _bars(
            group,
            lambda b, base=base: latency(base) / latency(b),  # type: ignore[misc]
            lambda b, base=base: f"{latency(base) / latency(b):.2f}× ({seconds(latency(b))})",  # type: ignore[misc]
            name_of,
        )
        about = f"How many times as fast as {name_of(base)}; longer is better. Medians, {WORKLOADS[workload]}."
        charts.append(Chart(f"speed-{workload}", f"Speed-up: {workload}", about, bars))
    return charts


def by_isa(measured: Sequence[Benchmark]) -> list[Chart]:
    """Latency with newer instruction sets kept from use, by workload."""
    charts = []
    for workload, meaning in WORKLOADS.items():
        group = [b for b in measured if b.workload == workload and b.backend == "openvino"]
        if len({b.isa for b in group}) < 2:
            continue
        most = max(b.cores for b in group)
        group = [b for b in group if b.cores == most]
        bars = _bars(group, latency, lambda b: seconds(latency(b)), lambda b: name_of(b, isa=True))
        about = f"Latency with newer instruction sets kept from use; shorter is better. {meaning.capitalize()}."
        charts.append(Chart(f"isa-{workload}", f"Instruction sets: {workload}", about, bars))
    return charts


def memory(measured: Sequence[Benchmark]) -> list[Chart]:
    """Peak memory, by workload."""
    return [
        Chart(
            f"memory-{workload}",
            f"Peak memory: {workload}",
            "Largest resident set of the process and all that it started; shorter is better.",
            _bars(group, lambda b: b.peak_rss_bytes or 0, lambda b: mib(b.peak_rss_bytes or 0), name_of),
        )
        for workload, group in groups(measured)
    ]


def cold(measured: Sequence[Benchmark]) -> list[Chart]:
    """Cold start, by workload."""
    return [
        Chart(
            f"cold-{workload}",
            f"Cold start: {workload}",
            "From the start of the process to its first result; shorter is better.",
            _bars(group, lambda b: b.cold_start_s or 0, lambda b: seconds(b.cold_start_s or 0), name_of),
        )
        for workload, group in groups(measured)
        if workload != "throughput"
    ]


def roofline(measured: Sequence[Benchmark]) -> list[Chart]:
    """Share of the CPU's peak."""
    group = [b for b in measured if b.peak_share is not None and b.isa == "native"]
    if not group:
        return []
    bars = tuple(
        Bar(name_of(b, cores=True), f"{100 * (b.peak_share or 0):.0f}%", min(1.0, b.peak_share or 0), tone(b))
        for b in group
    )
    about = (
        "Multiply-accumulates a second, as a share of what the fastest convolutions reach on this CPU in the same "
        "precision and run; longer is better."
    )
    return [Chart("roofline", "Share of this CPU's peak", about, bars)]


def cores(measured: Sequence[Benchmark]) -> list[tuple[Workload, list[tuple[float, int]], str, list[Line]]]:
    """For each workload: numbers of cores with their places, the highest latency, a line for each bundle."""
    drawn = []
    for workload in WORKLOADS:
        group = [b for b in measured if b.workload == workload and b.isa == "native"]
        counts = sorted({b.cores for b in group})
        if len(counts) < 2:
            continue
        highest = max(latency(b) for b in group)
        x = Axis(0, len(counts) - 1, LEFT + 8, RIGHT - 8)
        y = Axis(0, highest, BOTTOM, TOP + 6)
        lines = []
        for name in dict.fromkeys(name_of(b) for b in group):
            ones = sorted((b for b in group if name_of(b) == name), key=lambda b: b.cores)
            points = tuple(
                (
                    x.place(counts.index(b.cores)),
                    y.place(latency(b)),
                    f"{_cores(b)}: {seconds(latency(b))}",
                )
                for b in ones
            )
            lines.append(Line(name, tone(ones[0]), points))
        drawn.append((workload, [(x.place(n), count) for n, count in enumerate(counts)], seconds(highest), lines))
    return drawn


def stages(measured: Sequence[Benchmark]) -> tuple[list[str], list[Stack]]:
    """Steps in their order, and the time of each benchmark by step."""
    group = [b for b in measured if b.workload == "end-to-end" and b.stages_s and b.isa == "native"]
    steps = list(dict.fromkeys(step for b in group for step in b.stages_s))
    longest = max((sum(b.stages_s.values()) for b in group), default=1.0)
    stacks = [
        Stack(
            name_of(b, cores=True),
            seconds(sum(b.stages_s.values())),
            tuple((step, seconds(s), s / longest, steps.index(step)) for step, s in b.stages_s.items()),
        )
        for b in group
    ]
    return steps, stacks

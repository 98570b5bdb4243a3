"""A suite of benchmarks as lines of text that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from lowres_seg.bench.class_sums import ClassSums
from lowres_seg.bench.suite import Accuracy, Benchmark, Suite
from lowres_seg.wording import columns, counted

#: Seconds from which a time is written in seconds.
_ONE_S = 1.0
#: Number from which one digit behind the point is enough.
_HUNDRED = 100


def lines(suite: Suite) -> list[str]:
    """Times and memory of each benchmark, accuracy of each bundle, what was not measured, and doubts."""
    doubts = [f"doubt: {doubt}" for doubt in (*suite.doubts, *suite.benchmark_doubts())]
    return [*_costs(suite.benchmarks), *_accuracy(suite), *_classes(suite), *suite.gaps(), *doubts]


def _costs(benchmarks: Iterable[Benchmark]) -> list[str]:
    """Table of times and memory, with a heading for each combination and a row for each workload."""
    groups: dict[str, list[Benchmark]] = {}
    for b in benchmarks:
        groups.setdefault(b.title.removesuffix(f", {b.workload}"), []).append(b)
    rows: list[list[str]] = [["", "p50", "95% interval", "p99", "cold", "memory", ""]]
    for title, group in groups.items():
        rows.append([title])
        rows += [_row(b) for b in group]
    return columns(rows)


def _row(b: Benchmark) -> list[str]:
    if b.latency_s is None or b.cold_start_s is None or b.peak_rss_bytes is None:  # not measured
        return [f"  {b.workload}", b.status]
    latency = b.latency_s
    low, high = latency.ci95
    scale, unit = (1.0, "s") if latency.p50 >= _ONE_S else (1000.0, "ms")
    rate = "" if b.throughput_per_s is None else f"{b.throughput_per_s:.2f} a second"
    return [
        f"  {b.workload}",
        f"{_digits(scale * latency.p50)} {unit}",
        f"{_digits(scale * low)}–{_digits(scale * high)}" if len(b.runs) > 1 else "one pass",
        f"{_digits(scale * latency.p99)} {unit}",
        f"{b.cold_start_s:.1f} s",
        f"{b.peak_rss_bytes / 2**20:.0f} MiB",
        rate if b.peak_share is None else f"{100 * b.peak_share:.0f}% of peak",
    ]


def _digits(value: float) -> str:
    return f"{value:.1f}" if value >= _HUNDRED else f"{value:.2f}"


def _accuracy(suite: Suite) -> list[str]:
    """Table of mean Dice and mean HD95, once for each bundle where all of its backends agree."""
    found: dict[str, dict[tuple[Accuracy, ...], list[str]]] = {}
    for b in suite.benchmarks:
        if b.accuracy:
            where = f"{b.backend} {b.shown_precision}" + ("" if b.isa == "native" else f", limited to {b.isa}")
            places = found.setdefault(b.bundle, {}).setdefault(b.accuracy, [])
            if where not in places:
                places.append(where)
    if not found:
        return []
    rows: list[list[str]] = [["", "mean Dice", "mean HD95", "over"]]
    for bundle, results in found.items():
        for accuracy, places in results.items():
            rows.append([bundle if len(results) == 1 else f"{bundle}, {' and '.join(places)}"])
            rows += _means(accuracy)
    return ["", *columns(rows), f"HD95 is {suite.hd95}.", ""]


def _classes(suite: Suite) -> list[str]:
    """Table of changes against fp32, AUC and accuracy of each bundle that classifies, in each backend."""
    found: dict[tuple[str, ...], ClassSums] = {}
    for b in suite.benchmarks:
        if b.classified:
            where = f"{b.backend} {b.shown_precision}" + ("" if b.isa == "native" else f", limited to {b.isa}")
            found.setdefault((b.bundle, where), ClassSums.of(b))
    if not found:
        return []
    rows: list[list[str]] = [["", *next(iter(found.values())).texts()]]
    for bundle in dict.fromkeys(name for name, _ in found):
        rows.append([bundle])
        rows += [[f"  {where}", *sums.texts().values()] for (name, where), sums in found.items() if name == bundle]
    against = " and ".join(dict.fromkeys(sums.against for sums in found.values() if sums.against))
    told = f"Changes are against {against}." if against else "No fp32 network was judged to compare with."
    return ["", *columns(rows), *columns([[told]]), ""]


def _means(accuracy: tuple[Accuracy, ...]) -> list[list[str]]:
    """Row for each region."""
    rows = []
    for region in dict.fromkeys(row.region for row in accuracy):
        ones = [row for row in accuracy if row.region == region]
        dice, hd95 = (sum(getattr(row, name) for row in ones) / len(ones) for name in ("dice", "hd95_mm"))
        rows.append([f"  {region}", f"{dice:.4f}", f"{hd95:.2f} mm", counted(len(ones), "case")])
    return rows

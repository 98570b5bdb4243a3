"""What a quantization tried and why, as plain values that the page draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lowres_seg.bench.html.charts import Bar, seconds
from lowres_seg.bench.html.plots import Cases, cases
from lowres_seg.bundle.reports import LayerPrecision, QuantizeReport


@dataclass(frozen=True)
class Tried:
    """One attempt: its number, the layers that it kept, its losses by label, and what became of it."""

    number: int
    kept: tuple[str, ...]
    losses: tuple[tuple[str, int, str, str, str], ...]
    verdict: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Quantization:
    """A report of `quantize` as the page shows it. `name` is that of its bundle, and `id` begins ids of the page."""

    id: str
    name: str
    report: QuantizeReport
    facts: tuple[tuple[str, str], ...]
    attempts: tuple[Tried, ...]
    plots: tuple[Cases, ...]
    networks: tuple[tuple[str, tuple[LayerPrecision, ...]], ...]
    kinds: tuple[tuple[str, str, str, int], ...]
    speed: tuple[tuple[str, tuple[Bar, ...], str], ...]
    summary: str


def quantization(id_: str, name: str, report: QuantizeReport) -> Quantization:
    """Arrange a report for the page.

    Parameters
    ----------
    id_ : str
        What ids of the page begin with.
    name : str
        Name of the bundle, or of the report's file.
    report : QuantizeReport
    """
    kinds = Counter((layer.type, layer.precision, layer.why) for layer in report.layers)
    return Quantization(
        id_,
        name,
        report,
        tuple(_facts(report)),
        tuple(_attempts(report)),
        tuple(_plots(id_, report)),
        tuple(
            (network, tuple(layer for layer in report.layers if layer.network == network))
            for network in dict.fromkeys(layer.network for layer in report.layers)
        ),
        tuple((*kind, number) for kind, number in kinds.most_common()),
        tuple(_speed(report)),
        _summary(report),
    )


def _summary(report: QuantizeReport) -> str:
    counts = Counter(layer.precision for layer in report.layers)
    layers = ", ".join(f"{number} in {precision}" for precision, number in counts.most_common())
    told = f"Of {len(report.layers)} layers: {layers}. " if report.layers else ""
    if not report.judged:
        return f"{told}No validation case was given, so nothing was judged, and the limits were not applied."
    if report.result is None:
        return f"{told}No attempt kept the limits."
    number = report.chosen()
    which = "An attempt" if number is None else f"Attempt {number + 1} of {len(report.attempts)}"
    losses = [
        f"{label} loses {loss.mean_drop:.4f} of mean Dice and {loss.mean_hd95_rise_mm:.2f} mm of mean HD95"
        for label, loss in report.result.labels.items()
    ]
    return f"{told}{which} was written: {'; '.join(losses)}."


def _facts(report: QuantizeReport) -> list[tuple[str, str]]:
    limits, sets = report.limits, report.instruction_sets
    worst = "no bound" if limits.worst_case_drop is None else f"{limits.worst_case_drop:g}"
    facts = [
        ("precision", f"{report.precision}, preset {report.preset}, seed {report.seed}"),
        ("allowed drop of mean Dice", f"{limits.max_drop:g}"),
        ("allowed rise of mean HD95", f"{limits.max_hd95_rise_mm:g} mm"),
        ("allowed drop of Dice in any case", worst),
        ("calibrated on", ", ".join(report.of_role("calibration")) or "no case"),
        ("judged on", ", ".join(report.of_role("validation")) or "no case"),
        ("instruction sets", " ".join(sets.cpu) + (f", limited to {sets.limited_to}" if sets.limited_to else "")),
        ("tools", ", ".join(f"{name} {version}" for name, version in report.tools.items())),
    ]
    if report.ignore_labels:
        facts.append(("labels left out", ", ".join(map(str, report.ignore_labels))))
    if report.out_of_time:
        facts.append(("time budget", "ended before the search did"))
    return facts


def _attempts(report: QuantizeReport) -> list[Tried]:
    chosen = report.chosen()
    found = []
    for n, attempt in enumerate(report.attempts):
        losses = tuple(
            (
                label,
                int(loss.cases),
                f"{loss.mean_drop:.4f}",
                f"{loss.worst_drop:.4f}",
                f"{loss.mean_hd95_rise_mm:.2f} mm",
            )
            for label, loss in attempt.labels.items()
        )
        verdict = "written" if n == chosen else "beyond the limits" if attempt.breaches else "within the limits"
        found.append(Tried(n + 1, attempt.reverted, losses, verdict, attempt.breaches))
    return found


def _plots(id_: str, report: QuantizeReport) -> list[Cases]:
    rows = () if report.result is None else report.result.cases
    if not rows:
        return []
    columns = [("fp32", "f32"), (report.precision, report.precision)]
    dice = {f"{row.case}, {row.label}": (row.dice_fp32, row.dice) for row in rows}
    hd95 = {f"{row.case}, {row.label}": (row.hd95_mm_fp32, row.hd95_mm) for row in rows}
    return [cases(f"{id_}-dice", "Dice", columns, dice), cases(f"{id_}-hd95", "HD95", columns, hd95)]


def _speed(report: QuantizeReport) -> list[tuple[str, tuple[Bar, ...], str]]:
    """For each network: bars of its latency by variant, and the shares of its time in words."""
    found = []
    for network, gain in report.gain.items():
        longest = max(gain.latency_s.values(), default=0.0) or 1.0
        bars = tuple(
            Bar(
                {"candidate": f"{report.precision}, as it is"}.get(variant, f"fp32 computed in {variant}"),
                seconds(value),
                value / longest,
                report.precision if variant == "candidate" else variant,
            )
            for variant, value in gain.latency_s.items()
        )
        found.append((network, bars, ", ".join(f"{100 * share:.0f}% {kind}" for kind, share in gain.shares.items())))
    return found

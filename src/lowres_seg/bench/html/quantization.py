"""What a quantization tried and why, as plain values that the page draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lowres_seg.bench.html.charts import Bar, seconds
from lowres_seg.bench.html.plots import Cases, cases
from lowres_seg.bundle.reports import Agreement, ClassLimits, LayerPrecision, Limits, QuantizeReport
from lowres_seg.wording import counted


@dataclass(frozen=True)
class Tried:
    """One attempt: its number, the layers that it kept, its losses by label or class, and what became of it."""

    number: int
    kept: tuple[str, ...]
    losses: tuple[tuple[str, ...], ...]
    verdict: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Quantization:
    """A report of `quantize` as the page shows it. `name` is that of its bundle, and `id` begins ids of the page.

    `heads` are the columns of the losses. `decided` has a row for each case of a bundle that classifies.
    """

    id: str
    name: str
    report: QuantizeReport
    facts: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    attempts: tuple[Tried, ...]
    plots: tuple[Cases, ...]
    decided: tuple[tuple[str, ...], ...]
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
        _CLASS_HEADS if isinstance(report.limits, ClassLimits) else _HEADS,
        tuple(_attempts(report)),
        tuple(_plots(id_, report)),
        tuple(_decided(report)),
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
    losses += [f"{name} changes by {change.worst_change:.4f} at most" for name, change in report.result.classes.items()]
    if report.result.values:
        flipped = counted(report.result.flipped_decisions, "decision")
        losses.append(f"{flipped} of {len(report.result.values)} flipped")
    return f"{told}{which} was written: {'; '.join(losses)}.{_agreement(report.result.agreement)}"


def _agreement(found: Agreement | None) -> str:
    if found is None:
        return ""
    told = (
        f" Over the {counted(found.cases, 'case')} whose truth is known accuracy is {found.accuracy_fp32:.4f} in fp32"
    )
    told += f" and {found.accuracy:.4f} now"
    if found.auc_fp32 is not None and found.auc is not None:
        told += f", and AUC is {found.auc_fp32:.4f} in fp32 and {found.auc:.4f} now"
    return f"{told}."


def _facts(report: QuantizeReport) -> list[tuple[str, str]]:
    sets = report.instruction_sets
    facts = [
        ("precision", f"{report.precision}, preset {report.preset}, seed {report.seed}"),
        *_allowed(report.limits),
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


def _allowed(limits: Limits | ClassLimits) -> list[tuple[str, str]]:
    if isinstance(limits, ClassLimits):
        return [
            ("allowed change of a class's value in any case", f"{limits.max_probability_change:g}"),
            ("allowed number of decisions that flip", f"{limits.max_flipped_decisions}"),
        ]
    return [
        ("allowed drop of mean Dice", f"{limits.max_drop:g}"),
        ("allowed rise of mean HD95", f"{limits.max_hd95_rise_mm:g} mm"),
        (
            "allowed drop of Dice in any case",
            "no bound" if limits.worst_case_drop is None else f"{limits.worst_case_drop:g}",
        ),
    ]


#: Columns of the losses, after the attempt, its verdict and its layers.
_HEADS = ("label", "cases", "Dice drops by", "in the worst case", "HD95 rises by")
_CLASS_HEADS = ("class", "cases", "mean change", "largest change", "decisions that flip")


def _attempts(report: QuantizeReport) -> list[Tried]:
    chosen = report.chosen()
    found = []
    for n, attempt in enumerate(report.attempts):
        losses = [
            (
                label,
                f"{loss.cases:.0f}",
                f"{loss.mean_drop:.4f}",
                f"{loss.worst_drop:.4f}",
                f"{loss.mean_hd95_rise_mm:.2f} mm",
            )
            for label, loss in attempt.labels.items()
        ]
        losses += [
            (
                name,
                f"{change.cases:.0f}",
                f"{change.mean_change:.4f}",
                f"{change.worst_change:.4f}",
                f"{attempt.flipped_decisions}",
            )
            for name, change in attempt.classes.items()
        ]
        verdict = "written" if n == chosen else "beyond the limits" if attempt.breaches else "within the limits"
        found.append(Tried(n + 1, attempt.reverted, tuple(losses), verdict, attempt.breaches))
    return found


def _plots(id_: str, report: QuantizeReport) -> list[Cases]:
    rows = [] if report.result is None else report.result.scores
    if not rows:
        return []
    columns = [("fp32", "f32"), (report.precision, report.precision)]
    dice = {f"{row.case}, {row.label}": (row.dice_fp32, row.dice) for row in rows}
    hd95 = {f"{row.case}, {row.label}": (row.hd95_mm_fp32, row.hd95_mm) for row in rows}
    return [cases(f"{id_}-dice", "Dice", columns, dice), cases(f"{id_}-hd95", "HD95", columns, hd95)]


def _decided(report: QuantizeReport) -> list[tuple[str, ...]]:
    """For each case: its truth, its decisions, and each class's values."""
    return [
        (
            row.case,
            row.truth or "not known",
            row.decision_fp32,
            row.decision,
            "; ".join(f"{name} {value:.4f} to {row.values[name]:.4f}" for name, value in row.fp32.items()),
        )
        for row in (() if report.result is None else report.result.values)
    ]


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

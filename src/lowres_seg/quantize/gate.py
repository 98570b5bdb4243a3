"""The gate: what a change of precision may cost in Dice and HD95, and whether a candidate keeps to it.

Both bundles segment every validation case from end to end, with the code of `predict`. A case is judged against its
label map. A case without one is judged against the mask of the fp32 bundle, which then has Dice 1 and HD95 0. A case
that cannot be judged is an error, so that no case ever leaves a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lowres_seg.wording import columns


@dataclass(frozen=True)
class Limits:
    """What a candidate may lose against fp32.

    Attributes
    ----------
    max_drop : float
        Of the mean Dice of any label.
    max_hd95_rise_mm : float
        Of the mean HD95 of any label.
    worst_case_drop : float or None
        Of the Dice of any label in any case; None for no bound.
    """

    max_drop: float = 0.005
    max_hd95_rise_mm: float = 1.0
    worst_case_drop: float | None = None


@dataclass(frozen=True)
class LabelScore:
    """Scores of one label, or region, in one case: of fp32 and of the candidate.

    Attributes
    ----------
    case, label : str
    against : {"labels", "fp32"}
        What both are compared with.
    dice_fp32, dice : float
    hd95_mm_fp32, hd95_mm : float
    """

    case: str
    label: str
    against: str
    dice_fp32: float
    dice: float
    hd95_mm_fp32: float
    hd95_mm: float

    @property
    def drop(self) -> float:
        """Drop of Dice."""
        return self.dice_fp32 - self.dice

    @property
    def rise_mm(self) -> float:
        """Rise of HD95 in mm."""
        return self.hd95_mm - self.hd95_mm_fp32


@dataclass(frozen=True)
class Verdict:
    """Scores of a candidate, judged by the limits."""

    rows: tuple[LabelScore, ...]
    limits: Limits

    def labels(self) -> dict[str, dict[str, float]]:
        """Mean and worst losses of each label."""
        summary = {}
        for label in dict.fromkeys(row.label for row in self.rows):
            rows = [row for row in self.rows if row.label == label]
            summary[label] = {
                "cases": float(len(rows)),
                "mean_drop": float(np.mean([row.drop for row in rows])),
                "worst_drop": max(row.drop for row in rows),
                "mean_hd95_rise_mm": float(np.mean([row.rise_mm for row in rows])),
                "worst_hd95_rise_mm": max(row.rise_mm for row in rows),
            }
        return summary

    def breaches(self) -> list[str]:
        """Limits that are exceeded, in words; none if the gate is met."""
        found = []
        for label, s in self.labels().items():
            # A comparison with NaN is false, so NaN is a breach.
            if not s["mean_drop"] <= self.limits.max_drop:
                found.append(f"{label}: mean Dice drops by {s['mean_drop']:.4f}, allowed {self.limits.max_drop:g}")
            if not s["mean_hd95_rise_mm"] <= self.limits.max_hd95_rise_mm:
                found.append(
                    f"{label}: mean HD95 rises by {s['mean_hd95_rise_mm']:.3f} mm, "
                    f"allowed {self.limits.max_hd95_rise_mm:g}"
                )
            worst = self.limits.worst_case_drop
            if worst is not None and not s["worst_drop"] <= worst:
                found.append(f"{label}: worst Dice drops by {s['worst_drop']:.4f}, allowed {worst:g}")
        return found

    def overshoot(self) -> float:
        """Largest loss divided by its limit; at most 1 if the gate is met."""
        ratios = []
        for s in self.labels().values():
            pairs = [
                (s["mean_drop"], self.limits.max_drop),
                (s["mean_hd95_rise_mm"], self.limits.max_hd95_rise_mm),
                (s["worst_drop"], self.limits.worst_case_drop),
            ]
            ratios += [found / max(allowed, 1e-6) for found, allowed in pairs if allowed is not None]
        return max(ratios, default=0.0)

    def is_lost(self, remaining: Sequence[Mapping[str, Sequence[float]]]) -> bool:
        """Tell whether the gate cannot be met any more, whatever the scores of the remaining cases are.

        Parameters
        ----------
        remaining : sequence of dict of str to (Dice, HD95)
            Scores of fp32 in the cases that are not judged yet. A candidate gains at most 1 minus that Dice.
        """
        total = len({row.case for row in self.rows}) + len(remaining)
        for label in {row.label for row in self.rows}:
            drops = [row.drop for row in self.rows if row.label == label]
            at_best = sum(drops) - sum(1 - scores[label][0] for scores in remaining)
            if at_best > self.limits.max_drop * total:
                return True
            if self.limits.worst_case_drop is not None and max(drops) > self.limits.worst_case_drop:
                return True
        return False

    @property
    def met(self) -> bool:
        """True if the candidate keeps every limit."""
        return not self.breaches()

    def loss(self) -> float:
        """Largest drop of Dice."""
        return max(row.drop for row in self.rows)

    def summary(self) -> dict[str, Any]:
        """Losses of each label, and breaches, for the report."""
        return {"labels": self.labels(), "breaches": self.breaches()}

    def table(self) -> list[str]:
        """Lines of a table of every case, as of the function of this name."""
        return table(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return {**self.summary(), "cases": [asdict(row) for row in self.rows]}


def table(verdict: Verdict) -> list[str]:
    """Lines of a table of every case: fp32, the candidate, and the difference. They fit a terminal of 80 columns."""
    cells: list[list[str]] = [["", "Dice fp32", "Dice", "drop", "HD95 fp32", "HD95", "rise"]]
    groups = dict.fromkeys((row.label, row.against) for row in verdict.rows)
    for label, against in groups:
        cells.append([f"{label}, against {'label maps' if against == 'labels' else 'masks of fp32'}"])
        cells += [
            [
                f"  {row.case}",
                f"{row.dice_fp32:.5f}",
                f"{row.dice:.5f}",
                f"{row.drop:.5f}",
                f"{row.hd95_mm_fp32:.3f}",
                f"{row.hd95_mm:.3f}",
                f"{row.rise_mm:.3f}",
            ]
            for row in verdict.rows
            if (row.label, row.against) == (label, against)
        ]
    means: list[list[str]] = [["mean and worst", "cases", "Dice drop", "worst", "HD95 rise", "worst"]]
    means += [
        [
            label,
            f"{s['cases']:.0f}",
            f"{s['mean_drop']:.5f}",
            f"{s['worst_drop']:.5f}",
            f"{s['mean_hd95_rise_mm']:.3f} mm",
            f"{s['worst_hd95_rise_mm']:.3f} mm",
        ]
        for label, s in verdict.labels().items()
    ]
    return [*columns(cells), "", *columns(means)]


def rows(
    case: str, against: str, fp32: Mapping[str, Sequence[float]], candidate: Mapping[str, Sequence[float]]
) -> list[LabelScore]:
    """Pair the scores (Dice, HD95) of fp32 and of the candidate in one case, label by label."""
    return [
        LabelScore(case, label, against, fp32[label][0], candidate[label][0], fp32[label][1], candidate[label][1])
        for label in fp32
    ]

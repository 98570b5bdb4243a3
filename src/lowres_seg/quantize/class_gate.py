"""The gate of bundles that classify: what a change of precision may move the values of classes, and the decisions.

A case is judged against fp32: by how far the value of each class moves, and by whether the decision is still the same.
Where cases have a truth, AUC and accuracy of both are told beside it. They are no limit, because a few cases say little
about them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lowres_seg.metrics.classification import accuracy, auc, margin
from lowres_seg.wording import columns, counted

#: Number of cases that a breach names.
_NAMED = 3


@dataclass(frozen=True)
class ClassLimits:
    """What a candidate that classifies may change against fp32.

    Attributes
    ----------
    max_probability_change : float
        Of the value of any class in any case.
    max_flipped_decisions : int
        Number of cases whose decision changes.
    """

    max_probability_change: float = 0.02
    max_flipped_decisions: int = 0


@dataclass(frozen=True)
class ClassScore:
    """Values of one case: of fp32 and of the candidate.

    Attributes
    ----------
    case : str
    truth : str or None
        Decision that would be right; None if the case does not say.
    fp32, values : dict of str to float
        By class.
    decision_fp32, decision : str
    """

    case: str
    truth: str | None
    fp32: dict[str, float]
    values: dict[str, float]
    decision_fp32: str
    decision: str

    @property
    def changes(self) -> dict[str, float]:
        """How far the value of each class moves."""
        return {name: abs(self.values[name] - value) for name, value in self.fp32.items()}

    @property
    def change(self) -> float:
        """Largest change of a value. NaN counts as the largest."""
        return float(np.max(list(self.changes.values())))

    @property
    def flipped(self) -> bool:
        """True if the decision is another one."""
        return self.decision != self.decision_fp32


@dataclass(frozen=True)
class ClassVerdict:
    """Values of a candidate that classifies, judged by the limits.

    Attributes
    ----------
    rows : tuple of ClassScore
    limits : ClassLimits
    classes : tuple of str
        Among which it is decided.
    """

    rows: tuple[ClassScore, ...]
    limits: ClassLimits
    classes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Changes of each class, flipped decisions, agreement with the truth, and breaches, for the report."""
        return {
            "classes": self._by_class(),
            "flipped_decisions": sum(row.flipped for row in self.rows),
            "agreement": self.agreement(),
            "breaches": self.breaches(),
        }

    def agreement(self) -> dict[str, float | None] | None:
        """Accuracy and AUC of fp32 and of the candidate over the cases that have a truth; None if none has.

        AUC is None if no class has both cases that are of it and cases that are not.
        """
        rows = [(row, row.truth) for row in self.rows if row.truth is not None]
        if not rows:
            return None
        truths = [truth for _, truth in rows]
        return {
            "cases": len(rows),
            "accuracy_fp32": accuracy([row.decision_fp32 for row, _ in rows], truths),
            "accuracy": accuracy([row.decision for row, _ in rows], truths),
            "auc_fp32": auc([row.fp32 for row, _ in rows], truths, self.classes),
            "auc": auc([row.values for row, _ in rows], truths, self.classes),
        }

    def breaches(self) -> list[str]:
        """Limits that are exceeded, in words; none if the gate is met."""
        found = []
        for name, s in self._by_class().items():
            # A comparison with NaN is false, so NaN is a breach.
            if not s["worst_change"] <= self.limits.max_probability_change:
                worst = max(self.rows, key=lambda row, name=name: row.changes[name])  # type: ignore[misc]
                found.append(
                    f"{name}: its value changes by {s['worst_change']:.4f} in case {worst.case}, "
                    f"allowed {self.limits.max_probability_change:g}"
                )
        flipped = [row.case for row in self.rows if row.flipped]
        if len(flipped) > self.limits.max_flipped_decisions:
            more = f" and {len(flipped) - _NAMED} more" if len(flipped) > _NAMED else ""
            verb = "flips" if len(flipped) == 1 else "flip"
            found.append(
                f"{counted(len(flipped), 'decision')} {verb} ({', '.join(flipped[:_NAMED])}{more}), "
                f"allowed {self.limits.max_flipped_decisions}"
            )
        return found

    def overshoot(self) -> float:
        """How many times smaller the changes must become for the limits; at most 1 if the gate is met.

        A decision that flips is held to what its case may move without flipping.
        """
        ratios = [row.change / max(self.limits.max_probability_change, 1e-6) for row in self.rows]
        beyond = sorted(
            (row.change / max(margin(row.fp32, self.classes), 1e-6) for row in self.rows if row.flipped), reverse=True
        )
        return max([*ratios, *beyond[self.limits.max_flipped_decisions :]], default=0.0)

    def loss(self) -> float:
        """Largest change of a value."""
        return max(row.change for row in self.rows)

    def is_lost(self, remaining: Sequence[Any]) -> bool:  # noqa: ARG002 - no case makes up for another
        """Tell whether the gate cannot be met any more, whatever the values of the remaining cases are."""
        return any(row.change > self.limits.max_probability_change for row in self.rows) or (
            sum(row.flipped for row in self.rows) > self.limits.max_flipped_decisions
        )

    @property
    def met(self) -> bool:
        """True if the candidate keeps every limit."""
        return not self.breaches()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return {**self.summary(), "cases": [asdict(row) for row in self.rows]}

    def table(self) -> list[str]:
        """Lines of a table of every case, of each class, and of the agreement. They fit a terminal of 80 columns."""
        cells: list[list[str]] = [["", "value fp32", "value", "largest change", "decision", ""]]
        for decided in dict.fromkeys(row.decision_fp32 for row in self.rows):
            cells.append([f"{decided} in fp32"])
            cells += [_cells(row, self.classes) for row in self.rows if row.decision_fp32 == decided]
        sums: list[list[str]] = [["class", "cases", "mean change", "largest"]]
        sums += [
            [name, f"{s['cases']:.0f}", f"{s['mean_change']:.5f}", f"{s['worst_change']:.5f}"]
            for name, s in self._by_class().items()
        ]
        return [*columns(cells), "", *columns(sums), *agreement_lines(self.agreement())]

    def _by_class(self) -> dict[str, dict[str, float]]:
        """Mean and largest change of each class."""
        names = self.rows[0].fp32 if self.rows else ()
        changes = {name: [row.changes[name] for row in self.rows] for name in names}
        return {
            name: {
                "cases": float(len(moved)),
                "mean_change": float(np.mean(moved)),
                "worst_change": float(np.max(moved)),
            }
            for name, moved in changes.items()
        }


def agreement_lines(agreement: Mapping[str, float | None] | None) -> list[str]:
    """Lines of a table of AUC and accuracy; none if no case has a truth."""
    if agreement is None:
        return []
    over = counted(int(agreement["cases"] or 0), "case")
    rows = [["", "fp32", "now", "over"]]
    for title, key in (("AUC", "auc"), ("accuracy", "accuracy")):
        pair = [agreement[f"{key}_fp32"], agreement[key]]
        rows.append([title, *("none" if value is None else f"{value:.4f}" for value in pair), over])
    return ["", *columns(rows)]


def _cells(row: ClassScore, classes: Sequence[str]) -> list[str]:
    """Cells of a case. Its values are those of the class that fp32 decides on."""
    name = row.decision_fp32 if row.decision_fp32 in row.fp32 else classes[0]
    right = "" if row.truth is None else "right" if row.decision == row.truth else "wrong"
    return [
        f"  {row.case}",
        f"{row.fp32[name]:.5f}",
        f"{row.values[name]:.5f}",
        f"{row.change:.5f}",
        "flips" if row.flipped else "kept",
        right,
    ]

"""What the cases of a bundle that classifies come to: changes against fp32, flipped decisions, AUC and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowres_seg.bench.suite import Benchmark
from lowres_seg.metrics.classification import accuracy, auc


@dataclass(frozen=True)
class ClassSums:
    """Sums over the cases of one benchmark.

    Attributes
    ----------
    cases : int
    against : str
        The fp32 network that it was compared with; empty if there was none, or it is that network.
    change : float or None
        Largest difference of a value from fp32.
    flipped : int or None
        Number of cases with another decision than in fp32.
    known : int
        Number of cases whose truth is known.
    accuracy, auc : float or None
        Over these; AUC needs cases that are of a class and cases that are not.
    """

    cases: int
    against: str
    change: float | None
    flipped: int | None
    known: int
    accuracy: float | None
    auc: float | None

    @classmethod
    def of(cls, benchmark: Benchmark) -> ClassSums:
        """Sum up the cases of a benchmark."""
        rows = benchmark.classified
        known = [(row, row.truth) for row in rows if row.truth is not None]
        truths = [truth for _, truth in known]
        changes = [row.change for row in rows if row.change is not None]
        return cls(
            len(rows),
            rows[0].against if rows else "",
            max(changes, default=None),
            sum(bool(row.flipped) for row in rows) if changes else None,
            len(known),
            accuracy([row.decision for row, _ in known], truths) if known else None,
            auc([row.values for row, _ in known], truths, benchmark.classes) if known else None,
        )

    def texts(self) -> Mapping[str, str]:
        """Each sum as text; a dash where there is none."""
        return {
            "largest change": _text(self.change),
            "flipped": "–" if self.flipped is None else f"{self.flipped} of {self.cases}",
            "AUC": _text(self.auc),
            "accuracy": _text(self.accuracy),
            "truths": f"{self.known} of {self.cases}",
        }


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"

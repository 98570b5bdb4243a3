"""How cases are judged: what is kept of a result in fp32 and of one of a candidate, and the verdict on both.

Masks and classes each have a kind of limits, of scores and of verdict: `gate` and `class_gate`. The run asks the
protocols here, and knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Manifest
from lowres_seg.cohort.cases import Case, left_out
from lowres_seg.errors import InputError
from lowres_seg.metrics.agreement import score
from lowres_seg.metrics.classification import decision, decisions
from lowres_seg.quantize import gate
from lowres_seg.quantize.class_gate import ClassLimits, ClassScore, ClassVerdict
from lowres_seg.quantize.gate import Limits, Verdict
from lowres_seg.quantize.settings import Settings
from lowres_seg.runtime.segmentation import Segmentation
from lowres_seg.volumes.volume import Volume

Labels = NDArray[np.uint8]
Scan = Mapping[str, Volume]
#: A case, and what was kept of it in fp32 and of a candidate.
Judged = tuple[Case, Any, Any]


class Judgement(Protocol):
    """A verdict on a candidate."""

    @property
    def met(self) -> bool:
        """True if the candidate keeps every limit."""
        ...

    def breaches(self) -> list[str]:
        """Limits that are exceeded, in words."""
        ...

    def overshoot(self) -> float:
        """Largest loss divided by its limit; at most 1 if the gate is met."""
        ...

    def loss(self) -> float:
        """Largest loss in a case, to tell verdicts with as many breaches apart."""
        ...

    def is_lost(self, remaining: Sequence[Any]) -> bool:
        """Tell whether the gate cannot be met any more, by what was kept of the remaining cases in fp32."""
        ...

    def summary(self) -> dict[str, Any]:
        """Losses and breaches as plain values, for the report of an attempt."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """The same with every case, for the report of the result."""
        ...

    def table(self) -> list[str]:
        """Lines of a table of every case. They fit a terminal of 80 columns."""
        ...


class Judging(Protocol):
    """How the cases of a bundle are judged.

    Attributes
    ----------
    limits : Limits or ClassLimits
    verb : str
        What a bundle does with a case, such as ``segmenting``.
    """

    limits: Limits | ClassLimits
    verb: str

    def check(self, case: Case, scan: Scan) -> None:
        """Refuse a case whose truth is unusable, before anything slow begins.

        Raises
        ------
        InputError
            If it is.
        """
        ...

    def reference(self, case: Case, scan: Scan, found: Segmentation) -> Any:
        """What is kept of a result in fp32, as plain values."""
        ...

    def candidate(self, case: Case, scan: Scan, found: Segmentation) -> Any:
        """What is kept of the result of a candidate, as plain values."""
        ...

    def verdict(self, judged: Sequence[Judged]) -> Judgement:
        """Verdict on the cases that are judged so far."""
        ...


def of(bundle: Bundle, settings: Settings, folder: Path, prints: Mapping[str, str]) -> Judging:
    """How the cases of a bundle are judged: by masks if it writes labels, else by classes.

    Parameters
    ----------
    bundle : Bundle
    settings : Settings
    folder : pathlib.Path
        Folder for what is kept on disk.
    prints : mapping of str to str
        Digest of each case, by ``validation/ID``.

    Raises
    ------
    InputError
        If the limits are those of the other kind.
    """
    manifest, limits = bundle.manifest, settings.limits
    if manifest.evaluated:
        if isinstance(limits, ClassLimits):
            raise InputError(
                f"{bundle.path}: gives masks, and the limits are those of classes; give Limits, on Dice and HD95"
            )
        return Masks(manifest, limits or Limits(), settings.ignore_labels, folder, prints)
    if isinstance(limits, Limits) or settings.ignore_labels:
        found = "the limits are those of masks" if isinstance(limits, Limits) else "labels are to be ignored"
        raise InputError(
            f"{bundle.path}: classifies and gives no mask, and {found}; give ClassLimits, on values and decisions"
        )
    return ClassValues(manifest, limits or ClassLimits())


class Masks:
    """Dice and HD95 against the label map, or against the mask of fp32 where a case has none."""

    verb = "segmenting"

    def __init__(
        self, manifest: Manifest, limits: Limits, ignore: Sequence[int], folder: Path, prints: Mapping[str, str]
    ) -> None:
        self.limits: Limits | ClassLimits = limits
        self._of_masks = limits
        self._manifest = manifest
        self._ignore = ignore
        self._folder = folder
        self._prints = prints

    def check(self, case: Case, scan: Scan) -> None:
        """Read the label map."""
        self._truth(case, scan)

    def reference(self, case: Case, scan: Scan, found: Segmentation) -> Any:
        """Dice and HD95 of each region. The mask is kept on disk."""
        mask = found.labels.data
        path = self._path(case)
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, labels=mask)
        truth = self._truth(case, scan)
        return self._score(mask, mask if truth is None else truth, scan)

    def candidate(self, case: Case, scan: Scan, found: Segmentation) -> Any:
        """Dice and HD95 of each region."""
        truth = self._truth(case, scan)
        if truth is None:
            with np.load(self._path(case)) as stored:
                truth = stored["labels"]
        return self._score(found.labels.data, truth, scan)

    def verdict(self, judged: Sequence[Judged]) -> Verdict:
        """Verdict on Dice and HD95."""
        rows = [
            row
            for case, fp32, scores in judged
            for row in gate.rows(case.id, "labels" if case.label else "fp32", fp32, scores)
        ]
        return Verdict(tuple(rows), self._of_masks)

    def _path(self, case: Case) -> Path:
        return self._folder / "fp32" / f"{self._prints[f'validation/{case.id}']}.npz"

    def _truth(self, case: Case, scan: Scan) -> Labels | None:
        return case.load_label(self._manifest.known_labels, next(iter(scan.values())), ignore=self._ignore)

    def _score(self, found: Labels, truth: Labels, scan: Scan) -> Any:
        """Dice and HD95, without the voxels that are left out."""
        spacing_mm = next(iter(scan.values())).grid.spacing_mm
        unjudged = left_out(self._manifest.known_labels)
        return score(found, truth, self._manifest.evaluated, spacing_mm, left_out=unjudged)


class ClassValues:
    """The value of each class, and the decision."""

    verb = "classifying"

    def __init__(self, manifest: Manifest, limits: ClassLimits) -> None:
        self.limits: Limits | ClassLimits = limits
        self._of_classes = limits
        self._manifest = manifest

    def check(self, case: Case, scan: Scan) -> None:  # noqa: ARG002 - the truth is no image
        """Compare the truth with the classes."""
        known = decisions(self._manifest.classes)
        if case.truth is not None and case.truth not in known:
            raise InputError(f"case {case.id}: its truth is {case.truth!r}, expected one of {', '.join(known)} or none")

    def reference(self, case: Case, scan: Scan, found: Segmentation) -> Any:  # noqa: ARG002
        """Value of each class."""
        missing = [name for name in self._manifest.numbers if name not in found.numbers]
        if missing:
            why = "; ".join(found.doubts) or "no stage gave one"
            raise InputError(f"case {case.id}: has no value for class {missing[0]} ({why}); leave it out of the table")
        return found.numbers

    candidate = reference

    def verdict(self, judged: Sequence[Judged]) -> ClassVerdict:
        """Verdict on values and decisions."""
        classes = self._manifest.classes
        rows = []
        for case, *kept in judged:
            fp32, values = ({name: float(one[name]) for name in self._manifest.numbers} for one in kept)
            decided = decision(fp32, classes), decision(values, classes)
            rows.append(ClassScore(case.id, case.truth, fp32, values, *decided))
        return ClassVerdict(tuple(rows), self._of_classes, classes)

"""Parity: whether the converted network gives the same numbers as its source.

Parity is not accuracy. It says nothing about how well a network segments, only that conversion changed nothing.

Two runtimes add float32 numbers in different orders, so they never give the same numbers in a deep network. Which
difference is too large depends on the range of the scores and on the depth of the network. Unless a recipe gives
bounds, a runtime keeps parity in one of two ways. Either its scores differ from those of the source by a tiny share of
their range. Or its error is like that of the source, where both are compared with the source in float64. Of networks
that give probabilities of classes these are compared too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Classes, Decode
from lowres_seg.errors import ExportError, ParityError
from lowres_seg.export.recipe import Parity
from lowres_seg.runtime.decode import flips, select

Scores = NDArray[np.float32]
#: Largest difference of a score that needs no further question, as a share of the range of the scores.
RELATIVE = 3e-5
#: Largest share of voxels with another label, on a scan or a phantom.
FLIPPED = 1e-4
#: Largest difference of a class's probability.
PROBABILITY = 1e-4
#: How much larger than the source's own error in float32 an error may be.
FACTOR = 5.0
#: Largest error as a share of the range of the scores, whatever the source's own error is.
LARGEST = 1e-2


@dataclass(frozen=True)
class Errors:
    """Differences of two runtimes from the source in float64.

    Attributes
    ----------
    reference, candidate : float
        Largest difference of a score.
    reference_flipped, candidate_flipped : int
        Number of voxels with another label.
    """

    reference: float
    candidate: float
    reference_flipped: int
    candidate_flipped: int


@dataclass(frozen=True)
class ParityReport:
    """One network on one input in two runtimes.

    Attributes
    ----------
    network : str
    input : str
        ``random``, ``phantom`` or ``scan``.
    reference, candidate : str
        The runtime of the source, and the runtime that is compared with it.
    max_abs_diff, mean_abs_diff : float
        Largest and mean difference of a score.
    flipped : int
        Number of voxels with another label, on the network's own grid.
    voxels : int
    score_range : float
        Range of the scores of the reference.
    float64 : Errors or None
        Differences of both from the source in float64, if they were asked for.
    max_probability_diff : float or None
        Largest difference of a class's probability; None of a network that gives no probabilities of classes.
    """

    network: str
    input: str
    reference: str
    candidate: str
    max_abs_diff: float
    mean_abs_diff: float
    flipped: int
    voxels: int
    score_range: float = 0.0
    float64: Errors | None = None
    max_probability_diff: float | None = None

    @property
    def label_agreement(self) -> float:
        """Share of voxels with the same label."""
        return 1 - self.flipped / self.voxels

    @property
    def is_close(self) -> bool:
        """True if scores differ by a tiny share of their range, and labels hardly. On random input labels mean nothing.

        A comparison with NaN is false, so NaN is never close.
        """
        return self.max_abs_diff <= RELATIVE * self.score_range and (
            self.input == "random" or self.flipped <= FLIPPED * self.voxels
        )

    @property
    def errs_like_its_source(self) -> bool:
        """True if its error, against the source in float64, is at most a few times that of the source in float32."""
        if self.float64 is None:
            return False
        errors = self.float64
        labels = max(FLIPPED * self.voxels, FACTOR * errors.reference_flipped)
        return (
            errors.candidate <= FACTOR * errors.reference
            and errors.candidate <= LARGEST * self.score_range
            and (self.input == "random" or errors.candidate_flipped <= labels)
        )

    def check(self, bounds: Parity) -> None:
        """Check parity: by the bounds of a recipe if it gives any, else by range and float64.

        Raises
        ------
        ParityError
            If it is not kept, with the figures and the bounds.
        """
        where = f"network {self.network} on {self.input}: {self.candidate} differs from {self.reference} by up to"
        flips = f"flips {self.flipped} of {self.voxels} voxels"
        if not bounds.is_open:
            most = 1e-3 if bounds.max_abs_diff is None else bounds.max_abs_diff
            share = 1e-4 if bounds.max_flipped is None else bounds.max_flipped
            # A comparison with NaN is false, so NaN fails.
            if not self.max_abs_diff <= most or not self.flipped <= share * self.voxels:
                raise ParityError(
                    f"{where} {self.max_abs_diff:.3g} (allowed {most:g}) and {flips} (allowed {share:g} of them); "
                    "no bundle was written"
                )
        elif self.max_probability_diff is not None and not self.max_probability_diff <= PROBABILITY:
            raise ParityError(
                f"{where} {self.max_abs_diff:.3g}, and a class's probability by {self.max_probability_diff:.3g} "
                f"(allowed {PROBABILITY:g}); set bounds in [parity] if both are right; no bundle was written"
            )
        elif not self.is_close and not self.errs_like_its_source:
            why = "; torch cannot say in float64 which of them is off, so set bounds in [parity] if both are right"
            if self.float64 is not None:
                why = (
                    f"; from float64 it differs by {self.float64.candidate:.3g}, {self.reference} by "
                    f"{self.float64.reference:.3g} (allowed {FACTOR:g} times as much)"
                )
            raise ParityError(
                f"{where} {self.max_abs_diff:.3g} in a range of {self.score_range:.3g} (allowed "
                f"{RELATIVE:.2g} of it) and {flips}{why}; no bundle was written"
            )


def compare(
    network: str,
    source: str,
    decode: Decode,
    reference: tuple[str, Scores],
    candidate: tuple[str, Scores],
) -> ParityReport:
    """Compare the scores (1, C, D, H, W) that two runtimes give for one input.

    Raises
    ------
    ParityError
        If their shapes differ.
    """
    (reference_name, a), (candidate_name, b) = reference, candidate
    if a.shape != b.shape:
        raise ParityError(
            f"network {network}: {candidate_name} gives {b.shape}, {reference_name} {a.shape}; no bundle was written"
        )
    diff = np.abs(a - b)
    flipped, voxels = flips(a[0], b[0], decode)
    return ParityReport(
        network=network,
        input=source,
        reference=reference_name,
        candidate=candidate_name,
        max_abs_diff=float(diff.max()),
        mean_abs_diff=float(diff.mean(dtype=np.float64)),
        flipped=flipped,
        voxels=voxels,
        score_range=_score_range(a, decode),
        max_probability_diff=_probability_diff(a, b, decode),
    )


def with_float64(
    report: ParityReport, decode: Decode, reference: Scores, candidate: Scores, exact: Callable[[], NDArray[np.float64]]
) -> ParityReport:
    """Add the errors against the source in float64; nothing if it cannot run in float64."""
    try:
        right = exact()
    except ExportError:
        return report
    errors = Errors(
        reference=float(np.abs(reference - right).max()),
        candidate=float(np.abs(candidate - right).max()),
        reference_flipped=flips(reference[0], right[0], decode)[0],
        candidate_flipped=flips(candidate[0], right[0], decode)[0],
    )
    return replace(report, float64=errors)


def _score_range(scores: Scores, decode: Decode) -> float:
    """Range of scores. That of a few numbers means little, so of classes it is the largest score.

    What a probability is made of has the unit 1, however near 0 it is.
    """
    if not isinstance(decode, Classes):
        return float(np.ptp(scores))
    return max(float(np.abs(scores).max()), 0.0 if decode.activation == "none" else 1.0)


def _probability_diff(a: NDArray[np.floating], b: NDArray[np.floating], decode: Decode) -> float | None:
    if not isinstance(decode, Classes) or decode.activation == "none":
        return None
    return float(np.abs(select(a[0], decode) - select(b[0], decode)).max())

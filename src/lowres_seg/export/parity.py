"""Parity: whether the converted network gives the same numbers as its source.

Parity is not accuracy. It says nothing about how well a network segments, only that conversion changed nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Classes, Decode
from lowres_seg.errors import ParityError
from lowres_seg.export.recipe import Parity
from lowres_seg.runtime.decode import labels_of, select

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class ParityReport:
    """One network on one input in two runtimes.

    Attributes
    ----------
    network : str
    input : str
        ``random`` or ``scan``.
    reference, candidate : str
        The runtime of the source, and the runtime that is compared with it.
    max_abs_diff, mean_abs_diff : float
        Largest and mean difference of a score.
    flipped : int
        Number of voxels with another label, on the network's own grid.
    voxels : int
    """

    network: str
    input: str
    reference: str
    candidate: str
    max_abs_diff: float
    mean_abs_diff: float
    flipped: int
    voxels: int

    @property
    def label_agreement(self) -> float:
        """Share of voxels with the same label."""
        return 1 - self.flipped / self.voxels

    def check(self, tolerance: Parity) -> None:
        """Check that the tolerance is kept.

        Raises
        ------
        ParityError
            If it is not, with the figures and the bounds.
        """
        # A comparison with NaN is false, so NaN fails.
        if not self.max_abs_diff <= tolerance.max_abs_diff or not self.flipped <= tolerance.max_flipped * self.voxels:
            raise ParityError(
                f"network {self.network} on {self.input}: {self.candidate} differs from {self.reference} by up to "
                f"{self.max_abs_diff:.3g} (allowed {tolerance.max_abs_diff:g}) and flips {self.flipped} of "
                f"{self.voxels} voxels (allowed {tolerance.max_flipped:g} of them); no bundle was written"
            )


def compare(
    network: str, source: str, decode: Decode, reference: tuple[str, Scores], candidate: tuple[str, Scores]
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
    first, second = select(a[0], decode), select(b[0], decode)
    if isinstance(decode, Classes):
        flipped = np.atleast_1d(first.argmax() != second.argmax())
    else:
        flipped = labels_of(first, decode) != labels_of(second, decode)
    return ParityReport(
        network=network,
        input=source,
        reference=reference_name,
        candidate=candidate_name,
        max_abs_diff=float(diff.max()),
        mean_abs_diff=float(diff.mean(dtype=np.float64)),
        flipped=int(np.count_nonzero(flipped)),
        voxels=flipped.size,
    )

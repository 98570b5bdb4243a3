"""Normalisation of intensities, computed on what the manifest names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import InputError
from lowres_seg.stage import Affine, IntensityRule, PercentileScale, ZScore

Channel = NDArray[np.float32]


def normalise(
    x: NDArray[np.float32], rules: Sequence[IntensityRule], others: Mapping[str, NDArray[np.float32]]
) -> None:
    """Apply `rules` in their order to each channel apart, in place.

    Parameters
    ----------
    x : (C, I, J, K) ndarray of float32
        Overwritten.
    rules : sequence of rules of the manifest
    others : mapping of str to (C, ...) ndarray
        Conformed input of each stage whose statistics a rule may ask for.

    Raises
    ------
    InputError
        If a channel has no contrast, so that a rule would divide by zero.
    """
    for index in range(len(x)):
        channel = x[index]
        for rule in rules:
            if isinstance(rule, PercentileScale):
                source = channel if rule.statistics_of is None else others[rule.statistics_of][index]
                _percentile_scale(channel, rule, source)
            elif isinstance(rule, ZScore):
                _z_score(channel, rule)
            elif isinstance(rule, Affine):
                np.multiply(channel, np.float32(rule.scale), out=channel)
                np.add(channel, np.float32(rule.shift), out=channel)


def _percentile_scale(x: Channel, rule: PercentileScale, source: Channel) -> None:
    if rule.voxels == "nonzero":
        source = source[source != 0]
    elif rule.voxels == "above-mean":
        source = source[source >= source.mean(dtype=np.float64)]
    if source.size == 0:
        raise InputError("no voxel differs from zero, so percentiles cannot be taken; is the scan empty?")
    low, high = (np.float32(value) for value in np.percentile(source, [rule.lower, rule.upper]))
    divisor = high - low if rule.divide_by == "range" else high
    if divisor == 0:
        raise InputError(
            f"percentiles {rule.lower:g} and {rule.upper:g} of the intensities are {low:g} and {high:g}: "
            "the scan has no contrast there"
        )
    if rule.clip == "both":
        np.clip(x, low, high, out=x)
    elif rule.clip == "upper":
        np.minimum(x, high, out=x)
    x -= low
    x /= divisor


def _z_score(x: Channel, rule: ZScore) -> None:
    where = x != 0 if rule.voxels == "nonzero" else None
    voxels = x if where is None else x[where]
    if voxels.size > rule.ddof:
        voxels -= np.float32(voxels.mean(dtype=np.float64))
        # Slab by slab: float32 sums are not exact enough over 256³ voxels, a float64 copy is too large.
        squares = sum(float(np.vdot(slab, slab)) for slab in voxels)
        std = np.float32(np.sqrt(squares / (voxels.size - rule.ddof)))
    else:
        std = np.float32(0)
    if std == 0:
        raise InputError("intensities do not vary, so they cannot be scaled to unit variance; is the scan empty?")
    voxels /= std
    if where is not None:
        x[where] = voxels

"""Normalisation of intensities by the rules of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.rules import Affine, Clip, IntensityRule, Noise, PercentileScale, ZScore
from lowres_seg.errors import InputError
from lowres_seg.runtime.cleanup import fill_cavities

Channel = NDArray[np.float32]
#: Number of voxels whose squares are summed at a time.
_PIECE = 1 << 16


def normalise(
    x: NDArray[np.float32],
    rules: Sequence[IntensityRule],
    others: Mapping[str, NDArray[np.float32]],
    channels: Sequence[str],
) -> None:
    """Apply `rules` in their order to each channel separately, in place.

    Parameters
    ----------
    x : (C, I, J, K) ndarray of float32
        Overwritten.
    rules : sequence of rules of the manifest
    others : mapping of str to (C, ...) ndarray
        Conformed input of each stage that a rule takes statistics of.
    channels : sequence of str
        Names of the channels.

    Raises
    ------
    InputError
        If a channel has no contrast, so that a rule would divide by zero.
    """
    body = None
    if any(isinstance(rule, ZScore) and rule.voxels == "inside" for rule in rules):
        body = fill_cavities((x != 0).any(axis=0))
    for index, name in enumerate(channels):
        channel = x[index]
        empty = channel == 0 if any(isinstance(rule, Noise) for rule in rules) else None
        for rule in rules:
            if rule.channels and name not in rule.channels:
                continue
            match rule:
                case PercentileScale():
                    _percentile_scale(channel, rule, _source(rule, channel, others, index))
                case ZScore():
                    _z_score(channel, rule, body, _source(rule, channel, others, index))
                case Affine():
                    np.multiply(channel, np.float32(rule.scale), out=channel)
                    np.add(channel, np.float32(rule.shift), out=channel)
                case Clip():
                    np.clip(channel, np.float32(rule.lower), np.float32(rule.upper), out=channel)
                case Noise():
                    assert empty is not None  # noqa: S101 - it was made because there is such a rule
                    noise = np.random.default_rng((rule.seed, index))
                    channel[empty] = noise.standard_normal(np.count_nonzero(empty), dtype=np.float32)
                case _:
                    assert_never(rule)


def _source(
    rule: PercentileScale | ZScore, channel: Channel, others: Mapping[str, NDArray[np.float32]], index: int
) -> Channel:
    """Channel that a rule takes statistics of."""
    return channel if rule.statistics_of is None else others[rule.statistics_of][index]


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


def _z_score(x: Channel, rule: ZScore, body: NDArray[np.bool_] | None, source: Channel) -> None:
    where = None if rule.voxels == "all" else x != 0 if rule.voxels == "nonzero" else body
    voxels = x if where is None else x[where]
    if source is x:
        mean, std = _mean_and_deviation(voxels, rule.ddof)
    else:
        mean, std = _mean_and_deviation(source if rule.voxels == "all" else source[source != 0], rule.ddof)
    if std == 0:
        raise InputError("intensities do not vary, so they cannot be scaled to unit variance; is the scan empty?")
    voxels -= mean
    voxels /= std
    if where is not None:
        x[where] = voxels


def _mean_and_deviation(voxels: NDArray[np.float32], ddof: int) -> tuple[np.float32, np.float32]:
    """Mean and deviation in float32, summed in float64. The deviation is 0 if there are too few voxels."""
    if voxels.size <= ddof:
        return np.float32(0), np.float32(0)
    mean = np.float32(voxels.mean(dtype=np.float64))
    # In pieces: sums in float32 are not exact enough over 256³ voxels, and a float64 copy is too large.
    flat = voxels.reshape(-1)
    pieces = (flat[start : start + _PIECE] - mean for start in range(0, flat.size, _PIECE))
    squares = sum(float(np.vdot(piece, piece)) for piece in pieces)
    return mean, np.float32(np.sqrt(squares / (voxels.size - ddof)))

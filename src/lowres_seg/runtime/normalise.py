"""Normalisation of intensities by the rules of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.rules import (
    Affine,
    Clip,
    IntensityRule,
    Noise,
    PercentileClip,
    PercentileScale,
    Threshold,
    ZScore,
)
from lowres_seg.errors import InputError
from lowres_seg.runtime.cleanup import fill_cavities
from lowres_seg.runtime.scale import exponent, is_ordinary

Channel = NDArray[np.float32]
#: Number of voxels whose squares are summed at a time.
_PIECE = 1 << 16


def normalise(
    x: NDArray[np.float32],
    rules: Sequence[IntensityRule],
    others: Mapping[str, NDArray[np.float32]],
    channels: Sequence[str],
    insides: Mapping[str | None, NDArray[np.bool_]] | None = None,
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
    insides : mapping of str or None to (I, J, K) ndarray of bool, optional
        Voxels inside the scan, under None, and those or the foreground of the stage that a rule names. Found in `x` if
        it is not given.

    Raises
    ------
    InputError
        If a channel has no contrast, so that a rule would divide by zero.
    """
    # Whoever gives the result to a network looks whether it is finite. As a decorator it would be shared by threads.
    with np.errstate(over="ignore", invalid="ignore"):
        if not insides and any(isinstance(rule, ZScore) and rule.voxels == "inside" for rule in rules):
            insides = {None: inside(x)}
        empty = [channel == 0 for channel in x] if any(isinstance(rule, Noise) for rule in rules) else []
        for rule in rules:
            named = [index for index, name in enumerate(channels) if not rule.channels or name in rule.channels]
            together = not isinstance(rule, Noise | Affine | Clip | Threshold) and rule.together
            for group in [named] if together else [[index] for index in named]:
                targets = [x[index] for index in group]
                match rule:
                    case PercentileScale():
                        _percentile_scale(targets, rule, _sources(rule, targets, others, group))
                    case PercentileClip():
                        _percentile_clip(targets, rule)
                    case ZScore():
                        body = insides[rule.inside_also] if insides and rule.voxels == "inside" else None
                        _z_score(targets, rule, body, _sources(rule, targets, others, group))
                    case Affine():
                        _affine(targets[0], rule)
                    case Clip():
                        np.clip(targets[0], np.float32(rule.lower), np.float32(rule.upper), out=targets[0])
                    case Threshold():
                        _threshold(targets[0], rule)
                    case Noise():
                        noise = np.random.default_rng((rule.seed, group[0]))
                        where = empty[group[0]]
                        targets[0][where] = noise.standard_normal(np.count_nonzero(where), dtype=np.float32)
                    case _:
                        assert_never(rule)


def inside(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels of x (C, I, J, K) that are nonzero in any channel, with the cavities between them."""
    return fill_cavities((x != 0).any(axis=0))


def _sources(
    rule: PercentileScale | ZScore,
    targets: list[Channel],
    others: Mapping[str, NDArray[np.float32]],
    group: Sequence[int],
) -> list[Channel]:
    """Channels that a rule takes statistics of."""
    return targets if rule.statistics_of is None else [others[rule.statistics_of][index] for index in group]


def _joined(voxels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return voxels[0] if len(voxels) == 1 else np.concatenate([part.ravel() for part in voxels])


def _affine(x: Channel, rule: Affine) -> None:
    if rule.voxels == "all":
        np.multiply(x, np.float32(rule.scale), out=x)
        np.add(x, np.float32(rule.shift), out=x)
        return
    where = x != 0
    x[where] = x[where] * np.float32(rule.scale) + np.float32(rule.shift)


def _threshold(x: Channel, rule: Threshold) -> None:
    lost = np.zeros(x.shape, bool)
    if rule.above is not None:
        lost |= ~(x > rule.above)
    if rule.below is not None:
        lost |= ~(x < rule.below)
    x[lost] = rule.becomes


def _percentile_clip(targets: Sequence[Channel], rule: PercentileClip) -> None:
    joined = _joined(targets)
    low = None if rule.lower is None else np.float32(np.percentile(joined, rule.lower))
    high = None if rule.upper is None else np.float32(np.percentile(joined, rule.upper))
    for x in targets:
        np.clip(x, low, high, out=x)


def _percentile_scale(targets: Sequence[Channel], rule: PercentileScale, sources: Sequence[Channel]) -> None:
    source = _joined(sources)
    if rule.voxels == "nonzero":
        source = source[source != 0]
    elif rule.voxels == "above-mean":
        source = source[source >= source.mean(dtype=np.float64)]
    if source.size == 0:
        raise InputError("no voxel differs from zero, so percentiles cannot be taken; is the scan empty?")
    low, high, divisor = _percentiles(source, rule)
    if not is_ordinary(divisor) and (by := exponent(source)):
        # The same numbers a power of two away: a difference of tiny ones has no bits left, one of large ones overflows.
        low, high, divisor = _percentiles(np.ldexp(source, -by), rule)
        for x in targets:
            np.ldexp(x, -by, out=x)
    if divisor == 0:
        raise InputError(
            f"percentiles {rule.lower:g} and {rule.upper:g} of the intensities are {low:g} and {high:g}: "
            "the scan has no contrast there"
        )
    for x in targets:
        if rule.clip == "both":
            np.clip(x, low, high, out=x)
        elif rule.clip == "upper":
            np.minimum(x, high, out=x)
        np.subtract(x, low, out=x)
        np.divide(x, divisor, out=x)


def _percentiles(source: Channel, rule: PercentileScale) -> tuple[np.float32, np.float32, np.float32]:
    """Both percentiles, and what is divided by."""
    low, high = (np.float32(value) for value in np.percentile(source, [rule.lower, rule.upper]))
    return low, high, high - low if rule.divide_by == "range" else high


def _z_score(
    targets: Sequence[Channel], rule: ZScore, body: NDArray[np.bool_] | None, sources: Sequence[Channel]
) -> None:
    places = [None if rule.voxels == "all" else x != 0 if rule.voxels == "nonzero" else body for x in targets]
    voxels = [x if where is None else x[where] for x, where in zip(targets, places, strict=True)]
    if sources is targets:
        statistics = _joined(voxels)
    else:
        statistics = _joined([source if rule.voxels == "all" else source[source != 0] for source in sources])
    mean, std = _mean_and_deviation(statistics, rule.ddof)
    if not is_ordinary(std) and (by := exponent(statistics)):
        mean, std = _mean_and_deviation(np.ldexp(statistics, -by), rule.ddof)
        for values in voxels:
            np.ldexp(values, -by, out=values)
    if std == 0:
        raise InputError("intensities do not vary, so they cannot be scaled to unit variance; is the scan empty?")
    for x, where, values in zip(targets, places, voxels, strict=True):
        np.subtract(values, mean, out=values)
        np.divide(values, std, out=values)
        if where is not None:
            x[where] = values


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

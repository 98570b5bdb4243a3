"""One stage at work: from the volumes of a scan to what the stage finds in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, combinations
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.rules import PercentileScale, ZScore
from lowres_seg.bundle.stage import BoxOf, Classes, NonZero, Stage
from lowres_seg.errors import EngineError, InputError
from lowres_seg.runtime.cleanup import clean
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.decode import combine, labels_of, mean, select, vote
from lowres_seg.runtime.engine import Engine, is_transient, release
from lowres_seg.runtime.normalise import normalise
from lowres_seg.runtime.region import box_around, box_of_nonzero
from lowres_seg.runtime.windows import Accumulator, rows
from lowres_seg.volumes.grid import Box, Reorientation
from lowres_seg.volumes.volume import Volume

Array = NDArray[np.float32]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Found:
    """What a stage found, in its own orientation: on the region it looked at, or on the grid it conformed that to."""

    labels: Labels
    fit: Fit
    box: Box
    oriented: Reorientation


@dataclass(frozen=True, eq=False)
class Result:
    """What became of a stage.

    Attributes
    ----------
    found : Found or None
        None if there was nothing to look at.
    on_scan : (I, J, K) ndarray of uint8 or None
        Label map on the scan's own grid, None for a stage that restores nothing.
    numbers : dict of str to float
        Of a stage that tells classes.
    """

    found: Found | None
    on_scan: Labels | None
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan on its way through the stages.

    Attributes
    ----------
    volumes : sequence of Volume
        One for each channel, all on one grid.
    channels : sequence of str
        Their names.
    results : dict of str to Result
        By stage, of those that are done.
    inputs : dict of str to (C, ...) ndarray
        Conformed input of each stage whose statistics another one wants.
    timings_s : dict of str to float
    """

    volumes: Sequence[Volume]
    channels: Sequence[str]
    results: dict[str, Result] = field(default_factory=dict)
    inputs: dict[str, Array | None] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, volumes: Sequence[Volume], channels: Sequence[str], stages: Sequence[Stage]) -> Scan:
        """A scan that these stages are to be run on."""
        rules = [rule for stage in stages for rule in stage.normalise.rules]
        wanted = [rule.statistics_of for rule in rules if isinstance(rule, (PercentileScale, ZScore))]
        return cls(volumes, channels, inputs=dict.fromkeys(name for name in wanted if name is not None))


def run(stage: Stage, engines: Sequence[Engine], scan: Scan, *, threads: int) -> Result:
    """Run a stage on a scan whose earlier stages are done.

    Parameters
    ----------
    stage : Stage
    engines : sequence of Engine
        One for each of its networks.
    scan : Scan
    threads : int
        For resampling.

    Raises
    ------
    InputError
        If intensities cannot be normalised.
    EngineError
        If a network fails, or gives what cannot be decoded.
    """
    grid = scan.volumes[0].grid
    oriented = Reorientation(grid, stage.conform.orientation, stage.conform.axes)
    box = region(stage, oriented, scan)
    base = None if stage.onto is None else scan.results[stage.onto].on_scan
    if box is None:
        nothing = np.zeros(grid.shape, np.uint8) if base is None else base
        return Result(None, None if stage.restore.what == "nothing" else nothing)
    try:
        fit, x = _prepared(stage, oriented, box, scan, threads)
    except InputError as error:
        raise InputError(f"{scan.volumes[0].name}: {error}") from error
    if isinstance(stage.decode, Classes):
        return Result(None, None, _classes(stage, engines, x, scan.timings_s))
    slabs = _slabs(stage, engines, x, scan.timings_s)
    del x
    labels = _labels(stage, slabs, fit, scan.timings_s, threads)
    with timed(scan.timings_s, f"{stage.name}.cleanup"):
        labels = clean(labels, stage.cleanup)
        if stage.restore.what == "nothing":
            return Result(Found(labels, fit, box, oriented), None)
        on_scan = np.zeros(grid.shape, np.uint8) if base is None else base.copy()
        here = on_scan[oriented.undo_box(box).slices]
        mine = oriented.undo(labels)
        np.copyto(here, mine, where=mine != 0)
    return Result(Found(labels, fit, box, oriented), on_scan)


@contextmanager
def timed(timings_s: dict[str, float], step: str) -> Iterator[None]:
    """Add the seconds that a block takes to those of a step."""
    start = perf_counter()
    yield
    timings_s[step] = timings_s.get(step, 0.0) + perf_counter() - start


def region(stage: Stage, oriented: Reorientation, scan: Scan) -> Box | None:
    """Box that the stage looks at, in its own orientation; None if there is nothing in it."""
    if isinstance(stage.region, NonZero):
        return oriented.apply_box(box_of_nonzero([volume.data for volume in scan.volumes], stage.region))
    if not isinstance(stage.region, BoxOf):
        return Box((0, 0, 0), oriented.result.shape)
    other = scan.results[stage.region.stage].found
    if other is None:
        return None
    box = box_around(other.labels, other.fit, other.box, stage.region)
    return None if box is None else oriented.apply_box(other.oriented.undo_box(box))


def _prepared(stage: Stage, oriented: Reorientation, box: Box, scan: Scan, threads: int) -> tuple[Fit, Array]:
    """What the networks see, (C, *conformed)."""
    early = stage.normalise.when == "before-conform"
    rules, pad = stage.normalise.rules, stage.conform.pad
    others = {name: x for name, x in scan.inputs.items() if x is not None}
    # Each step lets go of what the one before it made: these arrays are what the peak is made of.
    with timed(scan.timings_s, f"{stage.name}.conform"):
        fit = Fit.of(box.shape, oriented.result.spacing_mm, stage.conform, stage.shape)
        x = np.stack([oriented.apply(v.data)[box.slices] for v in scan.volumes], dtype=np.float32)
        if early:
            normalise(x, rules, others, scan.channels)
        x = fit.resample(x, stage.conform.interpolation, threads=threads)
        if pad == "minimum":
            x = fit.place(x, None)
    with timed(scan.timings_s, f"{stage.name}.normalise"):
        if stage.name in scan.inputs:
            scan.inputs[stage.name] = x.copy()
        if not early:
            normalise(x, rules, others, scan.channels)
        if pad != "minimum":
            x = fit.place(x, 0.0)
            if pad == "noise":
                x = _in_noise(x, fit)
        for mask in stage.mask_channels:
            x = np.concatenate([x, _mask(scan.results[mask.stage], mask.labels, oriented, box, fit, threads)])
    return fit, x


def _in_noise(x: Array, fit: Fit) -> Array:
    """What lies around the region becomes noise."""
    noise = np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32)
    i, j, k = fit.inner
    noise[:, i, j, k] = x[:, i, j, k]
    return noise


def _mask(result: Result, labels: Sequence[int], oriented: Reorientation, box: Box, fit: Fit, threads: int) -> Array:
    """Another stage's labels as a channel, (1, *conformed)."""
    assert result.on_scan is not None  # noqa: S101 - the manifest was checked
    there = oriented.apply(result.on_scan)[box.slices]
    mask = np.isin(there, labels) if labels else there != 0
    return fit.place(fit.resample(mask[None].astype(np.float32), "nearest", threads=threads), 0.0)


def _slabs(
    stage: Stage, engines: Sequence[Engine], x: Array, timings_s: dict[str, float]
) -> Iterator[tuple[slice, list[Array]]]:
    """Scores (C, planes, H, W) of each member, or the mean of all, for slabs of planes of x, one after the other."""
    step = f"{stage.name}.network"
    whole = slice(0, x.shape[1])
    averaged = stage.ensemble == "mean-scores"
    # Rounded to half precision, a sum over folds is not the sum of their sums.
    apart = not averaged or (stage.windows is not None and stage.windows.in_half)
    members = list(enumerate(zip(stage.networks, engines, strict=True)))
    if stage.windows is None:
        with timed(timings_s, step):
            found = []
            for _, (name, engine) in members:
                scores = _scores(stage, name, engine, x)
                # Another engine's memory is another's, but the same network may be there twice.
                found.append(scores if len(members) == 1 else scores.copy())
                release(engine)
        del x  # among the largest there are, and nobody needs it any more
        yield whole, [mean(found)] if averaged else found
        return
    # Networks that are compiled when their turn comes take all windows in turn, the others each window in turn.
    groups = [[member] for member in members] if any(is_transient(engine) for engine in engines) else [members]
    shape = (x.shape[1], x.shape[2], x.shape[3])
    sums = [Accumulator(shape, stage.windows, whole=len(groups) > 1) for _ in range(len(members) if apart else 1)]
    for group in groups:
        for row, stop in rows(shape, stage.windows):
            with timed(timings_s, step):
                for at in row:
                    i, j, k = (slice(a, a + n) for a, n in zip(at, stage.windows.roi_size, strict=True))
                    for member, (name, engine) in group:
                        scores = _scores(stage, name, engine, x[:, i, j, k])
                        sums[member if apart else 0].add(scores, at)
            if len(groups) == 1:
                taken = [one.take(stop) for one in sums]
                found = [scores for _, scores in taken]
                yield taken[0][0], [mean(found)] if averaged else found
        for _, (_, engine) in group:
            release(engine)
    del x
    if len(groups) > 1:
        found = [one.take(shape[0])[1] for one in sums]
        yield whole, [mean(found)] if averaged else found


def _scores(stage: Stage, network: str, engine: Engine, x: Array) -> Array:
    """Scores (C, I, J, K) of one window; valid until the engine runs again."""
    order = stage.order(network)
    axes = stage.mirror_axes
    flips = list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))
    total: Array | None = None
    for flipped in flips:
        along = tuple(1 + axis for axis in flipped)
        seen = np.flip(x, along).transpose(0, *(1 + axis for axis in order))[None]
        given = engine.run(np.ascontiguousarray(seen))
        spatial = (1, 1, 1) if isinstance(stage.decode, Classes) else seen.shape[2:]
        if given.shape[0] != 1 or given.shape[2:] != spatial:
            raise EngineError(f"stage {stage.name}: its network gave {given.shape} for an input of {seen.shape}")
        back = np.flip(given[0].transpose(0, *(1 + order.index(axis) for axis in range(3))), along)
        if len(flips) == 1:
            return np.asarray(back)
        total = back.copy() if total is None else np.add(total, back, out=total)
    assert total is not None  # noqa: S101 - not to flip is one of them
    total /= np.float32(len(flips))
    return total


def _classes(stage: Stage, engines: Sequence[Engine], x: Array, timings_s: dict[str, float]) -> dict[str, float]:
    assert isinstance(stage.decode, Classes)  # noqa: S101 - for the reader and for types
    ((_, members),) = _slabs(stage, engines, x, timings_s)
    values = combine(members, stage.decode, stage.ensemble)
    return dict(zip(stage.decode.names, (float(value) for value in values.ravel()), strict=True))


def _labels(
    stage: Stage, slabs: Iterator[tuple[slice, list[Array]]], fit: Fit, timings_s: dict[str, float], threads: int
) -> Labels:
    """Labels on the region, or on the conformed grid for a stage that restores nothing."""
    decode, restore = f"{stage.name}.decode", f"{stage.name}.restore"
    what, interpolation = stage.restore.what, stage.restore.interpolation
    if what == "scores" and not fit.same:
        late = stage.restore.activated == "after"
        whole: Array | None = None
        for slab, members in slabs:
            with timed(timings_s, decode):
                part = members[0] if late else combine(members, stage.decode, stage.ensemble)
                if whole is None and part.shape[1] == fit.conformed[0]:
                    whole = part
                    continue
                if whole is None:
                    whole = np.empty((len(part), *fit.conformed), part.dtype)
                whole[:, slab] = part
        assert whole is not None  # noqa: S101 - there is at least one slab
        labels = np.empty(fit.region, np.uint8)
        restored = fit.restored(whole, interpolation, threads=threads)
        while True:
            with timed(timings_s, restore):
                piece = next(restored, None)
            if piece is None:
                return labels
            with timed(timings_s, decode):
                slab, part = piece[0], piece[1].astype(whole.dtype, copy=False)
                labels[slab] = labels_of(select(part, stage.decode) if late else part, stage.decode)
    labels = np.empty(fit.conformed, np.uint8)
    for slab, members in slabs:
        with timed(timings_s, decode):
            if stage.ensemble == "vote":
                labels[slab] = vote([labels_of(select(member, stage.decode), stage.decode) for member in members])
            else:
                labels[slab] = labels_of(combine(members, stage.decode, stage.ensemble), stage.decode)
    if what == "nothing":
        return labels
    with timed(timings_s, restore):
        if fit.same:
            return np.ascontiguousarray(labels[fit.inner])
        parts = fit.restored(labels[None].astype(np.float32), interpolation, threads=threads)
        return np.concatenate([part[0] for _, part in parts]).astype(np.uint8)

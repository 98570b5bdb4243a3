"""One stage at work: from the volumes of a scan to the stage's labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.scores import channels_used
from lowres_seg.bundle.stage import Above, BoxOf, Classes, NonZero, Stage, WholeVolume
from lowres_seg.errors import InputError
from lowres_seg.runtime.cleanup import clean
from lowres_seg.runtime.decode import combine, labels_of, mean, select, vote
from lowres_seg.runtime.engine import Engine, run_in_turn
from lowres_seg.runtime.kept_scores import KeptScores
from lowres_seg.runtime.label_values import rounded
from lowres_seg.runtime.ordering import fortran
from lowres_seg.runtime.placement import Placement, orient
from lowres_seg.runtime.region import box_around, box_of_values
from lowres_seg.runtime.scan_state import ScanState, StageResult, timed
from lowres_seg.runtime.stage_input import prepared
from lowres_seg.runtime.staple import staple
from lowres_seg.runtime.watch import Watch
from lowres_seg.runtime.window_scores import Runs, Tiling
from lowres_seg.runtime.windows import Accumulator, rows
from lowres_seg.volumes.grid import Box

Array = NDArray[np.float32]
Labels = NDArray[np.uint8]


def run(
    stage: Stage,
    engines: Sequence[Engine],
    scan: ScanState,
    *,
    threads: int,
    watch: Watch | None = None,
    following: Engine | None = None,
) -> StageResult:
    """Run a stage on a scan whose earlier stages have run.

    Parameters
    ----------
    stage : Stage
    engines : sequence of Engine
        One for each of its networks.
    scan : ScanState
    threads : int
        For resampling.
    watch : Watch, optional
        Told of each window, and asked between windows whether to go on.
    following : Engine, optional
        First network of the next stage, which is prepared when those of this stage have run.

    Raises
    ------
    InputError
        If intensities cannot be normalised.
    EngineError
        If a network fails, or its scores cannot be decoded.
    CancelledError, DeadlineError
        If the watch ends it.
    """
    watch = Watch() if watch is None else watch
    base = None if stage.onto is None else scan.results[stage.onto].on_scan
    placement = place(stage, scan)
    if placement is None:
        nothing = np.zeros(scan.grid.shape, np.uint8) if base is None else base
        return StageResult(None, None, None if stage.restore.quantity == "nothing" else nothing)
    try:
        placement, x = prepared(placement, scan, threads)
    except InputError as error:
        raise InputError(f"{scan.volumes[0].name}: {error}") from error
    if isinstance(stage.decode, Classes):
        slabs = _slabs(placement, engines, x, scan, watch, following)
        return StageResult(placement, None, None, _classes(placement, stage.decode, slabs))
    slabs = _slabs(placement, engines, x, scan, watch, following)
    del x
    kept = KeptScores(placement) if stage.name in scan.kept else None
    labels = _labels(placement, slabs if kept is None else kept.watched(slabs), scan, threads)
    if kept is not None and scan.score_type is not None:
        with timed(scan.timings_s, f"{stage.name}.scores"):
            others = [_turned(placement, scan.scores[name]) for name in stage.mean_with]
            scan.kept[stage.name] = kept.on_scan(scan.score_type, others, scan.grid.shape, threads)
    with timed(scan.timings_s, f"{stage.name}.cleanup"):
        labels = clean(labels, stage.cleanup, scan.grid.voxel_ml * 1000)
        if stage.restore.quantity == "nothing":
            return StageResult(placement, labels, None)
        # The files of scan and mask have the first axis first.
        on_scan = np.zeros(scan.grid.shape, np.uint8, order="F") if base is None else base.copy(order="K")
        here = on_scan[placement.oriented.undo_box(placement.box).slices]
        mine = fortran(placement.oriented.undo(labels))
        np.copyto(here, mine, where=mine != 0)
    return StageResult(placement, labels, on_scan)


def place(stage: Stage, scan: ScanState) -> Placement | None:
    """Place a stage on a scan whose earlier stages have run; None if there is nothing to work on.

    Raises
    ------
    InputError
        If the conformed grid would be larger than any network takes.
    """
    oriented = orient(stage, scan.grid)
    box: Box | None
    match stage.region:
        case WholeVolume():
            box = Box.whole(oriented.result.shape)
        case NonZero():
            box = oriented.apply_box(box_of_values([volume.data for volume in scan.volumes], stage.region))
        case Above(channels=named):
            volumes = [
                v.data for v, name in zip(scan.volumes, scan.channels, strict=True) if name in (named or scan.channels)
            ]
            box = oriented.apply_box(box_of_values(volumes, stage.region))
        case BoxOf():
            other = scan.results[stage.region.stage]
            if other.placement is None or other.labels is None:
                return None
            around = box_around(other.labels, other.placement.fit, other.placement.box, stage.region)
            if around is None:
                return None
            box = oriented.apply_box(other.placement.oriented.undo_box(around))
        case _:
            assert_never(stage.region)
    return Placement.of(stage, scan.grid, box)


def _slabs(
    placement: Placement,
    engines: Sequence[Engine],
    x: Array,
    scan: ScanState,
    watch: Watch,
    following: Engine | None,
) -> Iterator[tuple[slice, list[Array]]]:
    """Yield slabs of planes: where each lies in x, and its scores (C, planes, H, W) of each member or of their mean."""
    stage, timings_s = placement.stage, scan.timings_s
    step = f"{stage.name}.network"
    channels = {name: stage.channels_of(name, scan.channels) for name in stage.networks}
    averaged = stage.ensemble == "mean-scores"
    members = list(enumerate(zip(stage.networks, engines, strict=True)))
    if stage.windows is None:
        runs = Runs(stage, watch, len(members))
        with timed(timings_s, step):
            found = []
            for count, (_, (name, engine)) in enumerate(members, 1):
                # Engines own the memory of their scores, and one network may be a member twice.
                scores = runs.scores(count - 1, name, engine, x, channels[name])
                found.append(scores if len(members) == 1 else scores.copy())
                engine.release()
        if following is not None:
            following.prepare()
        whole = slice(0, x.shape[1])
        del x  # one of the largest arrays, and no longer needed
        yield whole, [mean(found)] if averaged else found
        return
    # Members that run one after the other, or whose windows lie elsewhere, go over the whole grid by themselves.
    in_turn = run_in_turn(list(engines)) or not stage.windows_alike
    groups = [[member] for member in members] if in_turn else [members]
    shape = (x.shape[1], x.shape[2], x.shape[3])
    arrays = placement.sums(in_turn=in_turn)
    tilings = [Tiling.of(stage, name, x) for name in stage.networks]
    sums = [Accumulator(shape, tiling.windows, planes=arrays.planes) for tiling in tilings[: arrays.count]]
    windows = [list(rows(shape, tilings[group[0][0]].windows)) for group in groups]
    total = sum(len(group) * len(row) for group, its in zip(groups, windows, strict=True) for row, _ in its)
    runs = Runs(stage, watch, total)
    for group, its in zip(groups, windows, strict=True):
        for row, stop in its:
            with timed(timings_s, step):
                for at in row:
                    for member, (name, engine) in group:
                        seen = tilings[member].window(x, at)
                        scores = runs.scores(member, name, engine, seen, channels[name], at)
                        sums[member if arrays.count > 1 else 0].add(scores, at)
                        del scores  # an engine then has its memory back for the next window
            if not in_turn:
                taken = [one.take(stop) for one in sums]
                found = [scores for _, scores in taken]
                yield taken[0][0], [mean(found)] if averaged else found
        for _, (_, engine) in group:
            engine.release()
    if following is not None:
        following.prepare()
    del x
    if in_turn:
        found = [one.take(shape[0])[1] for one in sums]
        yield slice(0, shape[0]), [mean(found)] if averaged else found


def _classes(placement: Placement, decode: Classes, slabs: Iterator[tuple[slice, list[Array]]]) -> dict[str, float]:
    ((_, members),) = slabs
    sampled = placement.stage.samples is not None  # then scores are activated already, and the last is their spread
    values = mean(members)[:-1] if sampled else combine(members, decode, placement.stage.ensemble)
    return dict(zip(decode.names, (float(value) for value in values.ravel()), strict=True))


def _labels(placement: Placement, slabs: Iterator[tuple[slice, list[Array]]], scan: ScanState, threads: int) -> Labels:
    """Labels on the region, or on the conformed grid for a stage that restores nothing."""
    stage, fit, timings_s = placement.stage, placement.fit, scan.timings_s
    if placement.scores_stay_whole or stage.name in scan.scores:
        return _labels_of_restored(placement, slabs, scan, threads)
    labels = np.empty(fit.conformed, np.uint8)
    maps: list[Labels] = []  # of each member, where they are fused as a whole
    for slab, members in slabs:
        with timed(timings_s, f"{stage.name}.decode"):
            if not stage.fuses_labels:
                labels[slab] = labels_of(combine(members, stage.decode, stage.ensemble), stage.decode)
                continue
            found = [labels_of(select(member, stage.decode), stage.decode) for member in members]
            if stage.ensemble == "vote":
                labels[slab] = vote(found)
                continue
            maps = maps or [np.empty(fit.conformed, np.uint8) for _ in members]
            for whole, part in zip(maps, found, strict=True):
                whole[slab] = part
    if maps:
        with timed(timings_s, f"{stage.name}.decode"):
            labels[:] = 0  # what pads the grid would count as background that all members know
            labels[fit.inner] = staple([one[fit.inner] for one in maps])
    if stage.cleanup_before_restore:
        with timed(timings_s, f"{stage.name}.cleanup"):
            own = np.s_[:, :, :] if fit.unpadded is None else fit.unpadded.slices
            labels[own] = clean(labels[own], stage.cleanup_before_restore, placement.conformed_voxel_mm3)
    if stage.restore.quantity == "nothing":
        return labels
    with timed(timings_s, f"{stage.name}.restore"):
        if fit.same:
            return np.ascontiguousarray(labels[fit.inner])
        restored = _restored_labels(placement, labels[None].astype(np.float32), threads)
        if stage.restore.outside == "edge":
            placement.clear_unseen(restored)
        return restored


def _restored_labels(placement: Placement, y: Array, threads: int) -> Labels:
    """Resample labels (1, *conformed) to the region."""
    stage, fit = placement.stage, placement.fit
    restore, parts = stage.restore, placement.restored(y, threads)
    if restore.rounding is None or restore.interpolation != "linear" or fit.separate_back is not None:
        whole_numbers = np.floor if restore.rounding == "down" else np.rint
        return np.concatenate([whole_numbers(part[0]) for _, part in parts]).astype(np.uint8)
    whole, axes, border = fit.unplaced(y, restore.outside)[0], fit.axes_back, stage.conform.border
    return np.concatenate(
        [rounded(part[0], whole, axes, planes, border=border, rounding=restore.rounding) for planes, part in parts]
    )


def _zero_is_background(stage: Stage) -> bool:
    """Tell whether restored scores of zero are decoded as background."""
    used = channels_used(stage.decode)
    zeros = np.zeros((used[-1] + 1, 1, 1, 1), np.float32)
    late = stage.restore.activated == "after"
    return not labels_of(select(zeros, stage.decode) if late else zeros[used], stage.decode).any()


def _labels_of_restored(
    placement: Placement, slabs: Iterator[tuple[slice, list[Array]]], scan: ScanState, threads: int
) -> Labels:
    """Labels on the region, from scores that are resampled to it first."""
    stage, fit, timings_s = placement.stage, placement.fit, scan.timings_s
    kept_for_later = stage.name in scan.scores
    others = [_turned(placement, scan.scores[name]) for name in stage.mean_with]
    activated: Array | None = None
    decode, restore = f"{stage.name}.decode", f"{stage.name}.restore"
    late = stage.restore.activated == "after"
    whole: Array | None = None
    for slab, members in slabs:
        with timed(timings_s, decode):
            if stage.samples is not None:  # they are activated already
                part = mean([member.astype(np.float32, copy=False) for member in members])
            else:
                part = members[0] if late else combine(members, stage.decode, stage.ensemble, probabilities=True)
            if whole is None and part.shape[1] == fit.conformed[0]:
                whole = part
                continue
            if whole is None:
                whole = np.empty((len(part), *fit.conformed), part.dtype)
            whole[:, slab] = part
    assert whole is not None  # noqa: S101 - there is at least one slab
    labels = np.empty(fit.region, np.uint8)
    spread = None if stage.samples is None else np.empty(fit.region, np.float32)
    kept = whole.dtype if stage.restore.precision == "windows" else np.float32
    restored = placement.restored(whole, threads)
    while True:
        with timed(timings_s, restore):
            piece = next(restored, None)
        if piece is None:
            break
        with timed(timings_s, decode):
            slab, part = piece[0], piece[1].astype(kept, copy=False)
            if spread is not None:
                spread[slab], part = part[-1], part[:-1]
            if kept_for_later or others:
                sure = select(part, stage.decode, probabilities=True)
            if kept_for_later:
                activated = np.empty((len(sure), *fit.region), np.float32) if activated is None else activated
                activated[:, slab] = sure
            if others:
                part = mean([*(np.stack([channel[slab] for channel in one]) for one in others), sure])
            labels[slab] = labels_of(select(part, stage.decode) if late and not others else part, stage.decode)
    if stage.restore.outside == "edge" or not _zero_is_background(stage):
        placement.clear_unseen(labels)
        if activated is not None:
            placement.clear_unseen(activated)
    if spread is not None:
        placement.clear_unseen(spread)
        on_scan = scan.spreads[stage.name] = np.zeros(scan.grid.shape, np.float32, order="F")
        on_scan[placement.oriented.undo_box(placement.box).slices] = placement.oriented.undo(spread)
    if activated is not None:
        scan.scores[stage.name] = [placement.oriented.undo(channel) for channel in activated]
    return labels


def _turned(placement: Placement, scores: list[Array] | None) -> list[Array]:
    """Scores of another stage in the orientation of this one, channel by channel."""
    assert scores is not None  # noqa: S101 - the pipeline was checked, and that stage has run
    return [placement.oriented.apply(channel) for channel in scores]

"""The scores of labels beside them: kept while a stage decodes them, and put on the scan's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.scores import channels_used
from lowres_seg.bundle.stage import Argmax, Regions, Stage
from lowres_seg.errors import InputError, shown
from lowres_seg.runtime.decode import combine, mean, select
from lowres_seg.runtime.placement import Placement

Array = NDArray[np.float32]
#: Types in which scores are kept: as they are, or 255 times a probability.
ScoreType = Literal["float16", "uint8"]
Slab = tuple[slice, list[Array]]
#: How far a probability may lie outside of 0 and 1 by rounding.
_ROUNDED = 1e-3
_MOST = float(np.finfo(np.float16).max)


def as_score_type(value: object, pipeline: Pipeline) -> ScoreType | None:
    """Type of scores that a caller asks for, of a pipeline that has some.

    Raises
    ------
    InputError
        If it is no type of scores, or the pipeline gives labels without scores.
    """
    if value is None:
        return None
    if value not in get_args(ScoreType):
        raise InputError(f"scores: found {shown(value)}, expected float16 or uint8")
    if not pipeline.labels or not scored_stages(pipeline.stages):
        raise InputError("scores: the bundle gives no mask, and so no label has a score")
    for stage in scored_stages(pipeline.stages):
        if stage.fuses_labels:
            raise InputError(
                f"scores: stage {stage.name} joins the labels of its networks ({stage.ensemble}), and has no score of "
                "the result; leave them out"
            )
    return "float16" if value == "float16" else "uint8"


def scored_stages(stages: Sequence[Stage]) -> list[Stage]:
    """The last stage, and those whose result it is written over, the first of them first."""
    by_name = {stage.name: stage for stage in stages}
    found = [stages[-1]]
    while (under := found[0].onto) is not None:
        found.insert(0, by_name[under])
    return [stage for stage in found if isinstance(stage.decode, Argmax | Regions)]


def add_up(pipeline: Pipeline) -> bool:
    """True if the scores of labels exclude each other, so that those of merged labels add up."""
    decode = pipeline.stages[-1].decode
    return isinstance(decode, Argmax) and decode.activation == "softmax"


def bytes_of(
    stages: Sequence[Stage], placements: Mapping[str, Placement], heads: Mapping[str, int], voxels: int
) -> int:
    """Estimate the bytes of the scores of all labels: in float32 on the grid of each stage, and on the scan's."""
    total = 0
    for stage in scored_stages(stages):
        conformed = placements[stage.name].fit.conformed
        total += 4 * max(heads[name] for name in stage.networks) * int(np.prod(conformed))
        total += 2 * len(_channels(stage)) * voxels
    return total


class KeptScores:
    """Keeps the scores of a stage while they are decoded.

    Parameters
    ----------
    placement : Placement
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._late = placement.stage.restore.activated == "after"
        self._whole: Array | None = None

    def watched(self, slabs: Iterator[Slab]) -> Iterator[Slab]:
        """The same slabs of scores; what they hold is kept on the way."""
        stage, conformed = self._placement.stage, self._placement.fit.conformed
        for slab, members in slabs:
            if stage.samples is not None:  # they are activated already, and the last is their spread
                part = mean([member.astype(np.float32, copy=False) for member in members])[:-1]
            elif self._late:
                part = members[0]
            else:
                part = combine(members, stage.decode, stage.ensemble, probabilities=True)
            if self._whole is None:
                self._whole = np.empty((len(part), *conformed), np.float32)
            self._whole[:, slab] = part
            yield slab, members

    def on_scan(
        self, kind: ScoreType, others: Sequence[Sequence[Array]], shape: tuple[int, int, int], threads: int
    ) -> dict[int, NDArray[Any]]:
        """Score of each label on the scan's own grid, by its value; what no network has seen has none.

        Parameters
        ----------
        kind : ScoreType
        others : sequence of sequence of (I, J, K) ndarray
            Activated scores of other stages that are averaged with these, in the orientation of the stage.
        shape : tuple of 3 int
            Of the scan.
        threads : int

        Raises
        ------
        InputError
            If `kind` does not hold the scores.
        """
        placement, whole = self._placement, self._whole
        stage = placement.stage
        assert whole is not None  # noqa: S101 - there is at least one slab
        low = 0.0
        if stage.decode.activation == "none":
            low = self._check(kind, float(whole.min()), float(whole.max()))
        channels = _channels(stage)
        found = {value: np.full(placement.fit.region, low, kind) for value in channels}
        for slab, restored in placement.restored(whole, threads):
            part = select(restored, stage.decode, probabilities=True) if self._late else restored
            if others:
                part = mean([*(np.stack([channel[slab] for channel in one]) for one in others), part])
            for value, places in channels.items():
                score = part[places].max(axis=0)
                found[value][slab] = np.rint(255 * np.clip(score, 0, 1)) if kind == "uint8" else score
        self._whole = None
        on_scan = {}
        box = placement.oriented.undo_box(placement.box).slices
        for value, scores in found.items():
            placement.clear_unseen(scores, low)
            on_scan[value] = np.full(shape, low, kind, order="F")
            on_scan[value][box] = placement.oriented.undo(scores)
        return on_scan

    def _check(self, kind: ScoreType, least: float, largest: float) -> float:
        """Score of what no network has seen, of scores without an activation; refuse what the type does not hold."""
        is_probability = least >= -_ROUNDED and largest <= 1 + _ROUNDED
        where = f"stage {self._placement.stage.name}: its scores lie between {least:.4g} and {largest:.4g}"
        if kind == "uint8" and not is_probability:
            raise InputError(f"{where}, and are no probabilities; keep them as float16")
        if max(-least, largest) > _MOST:
            raise InputError(f"{where}, and float16 holds none over {_MOST:g}; leave scores out")
        return 0.0 if is_probability else least


def _channels(stage: Stage) -> dict[int, list[int]]:
    """Places of the channels of each label among those that are decoded; the background has none."""
    decode = stage.decode
    if isinstance(decode, Argmax):
        pairs = list(enumerate(decode.labels))
    else:
        assert isinstance(decode, Regions)  # noqa: S101 - of a scored stage
        places = {channel: place for place, channel in enumerate(channels_used(decode))}
        pairs = [(places[region.channel], region.label) for region in decode.regions]
    found: dict[int, list[int]] = {}
    for place, value in pairs:
        if value and place not in found.setdefault(value, []):
            found[value].append(place)
    return found

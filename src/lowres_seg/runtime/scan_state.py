"""A scan on its way through the stages: its volumes, the results so far, and the seconds of each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.pipeline import averaged_stages, statistics_sources
from lowres_seg.bundle.stage import Stage
from lowres_seg.runtime.kept_scores import ScoreType, scored_stages
from lowres_seg.runtime.placement import Placement
from lowres_seg.runtime.segmentation import beside
from lowres_seg.volumes.grid import Grid
from lowres_seg.volumes.volume import Volume

Array = NDArray[np.float32]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class StageResult:
    """The result of a stage.

    Attributes
    ----------
    placement : Placement or None
        None if the stage had nothing to work on.
    labels : (I, J, K) ndarray of uint8 or None
        In the orientation of the stage: on the region, or on the conformed grid for a stage that restores nothing.
        None if there is no placement, or the stage classifies.
    on_scan : (I, J, K) ndarray of uint8 or None
        Label map on the scan's own grid. None for a stage that restores nothing.
    numbers : dict of str to float
        Value of each class, of a stage that classifies.
    """

    placement: Placement | None
    labels: Labels | None
    on_scan: Labels | None
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScanState:
    """A scan on its way through the stages.

    Attributes
    ----------
    volumes : sequence of Volume
        One for each channel, all on one grid.
    channels : sequence of str
        Names of the channels.
    results : dict of str to StageResult
        Results of the stages that have run.
    inputs : dict of str to (C, ...) ndarray or None
        Conformed input of each stage that another stage takes statistics of; None until that stage has run.
    scores : dict of str to list of (I, J, K) ndarray, or None
        Activated scores, channel by channel on the region in the scan's storage order, of each stage that a later one
        averages with its own; None until that stage has run.
    spreads : dict of str to (I, J, K) ndarray
        Spread of the scores on the scan's own grid, of each stage that has run with samples.
    timings_s : dict of str to float
        Seconds of each step.
    score_type : ScoreType or None
        Type in which the scores of labels are kept; None if they are not.
    kept : dict of str to dict of int to (I, J, K) ndarray
        Scores of labels on the scan's own grid, of each stage whose scores are kept; empty until that stage has run.
    """

    volumes: Sequence[Volume]
    channels: Sequence[str]
    results: dict[str, StageResult] = field(default_factory=dict)
    inputs: dict[str, Array | None] = field(default_factory=dict)
    scores: dict[str, list[Array] | None] = field(default_factory=dict)
    spreads: dict[str, Array] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    score_type: ScoreType | None = None
    kept: dict[str, dict[int, NDArray[Any]]] = field(default_factory=dict)

    @classmethod
    def before(
        cls,
        stages: Sequence[Stage],
        volumes: Sequence[Volume],
        channels: Sequence[str],
        score_type: ScoreType | None = None,
    ) -> ScanState:
        """State of a scan before the first of its stages."""
        kept: dict[str, dict[int, NDArray[Any]]] = (
            {} if score_type is None else {stage.name: {} for stage in scored_stages(stages)}
        )
        wanted = [name for stage in stages for name in statistics_sources(stage)]
        averaged = averaged_stages(stages)
        inputs, scores = dict.fromkeys(wanted), dict.fromkeys(averaged)
        return cls(volumes, channels, inputs=inputs, scores=scores, score_type=score_type, kept=kept)

    def label_scores(self, names: Mapping[int, str]) -> dict[str, Volume]:
        """Score of each label, of the last stage that writes it; zero of a label that none has."""
        if self.score_type is None:
            return {}
        found = {value: scores for stage in self.kept.values() for value, scores in stage.items()}
        nothing = np.broadcast_to(np.zeros((), self.score_type), self.grid.shape)
        return {name: beside(self.volumes[0], found.get(value, nothing)) for value, name in names.items()}

    def spread(self, stages: Sequence[Stage]) -> Volume | None:
        """Spread of the last stage that restores one, None without any; zero if that stage had nothing to work on."""
        names = [one.name for one in stages if one.samples is not None and one.restore.quantity == "scores"]
        nothing = np.zeros(self.grid.shape, np.float32)
        return beside(self.volumes[0], self.spreads.get(names[-1], nothing)) if names else None

    @property
    def grid(self) -> Grid:
        """Grid of the scan."""
        return self.volumes[0].grid

    @property
    def on_scan(self) -> dict[str, Labels]:
        """Labels on the scan's own grid, of each stage that has restored them."""
        return {name: result.on_scan for name, result in self.results.items() if result.on_scan is not None}


@contextmanager
def timed(timings_s: dict[str, float], step: str) -> Iterator[None]:
    """Add the seconds that a block takes to those of a step."""
    start = perf_counter()
    yield
    timings_s[step] = timings_s.get(step, 0.0) + perf_counter() - start

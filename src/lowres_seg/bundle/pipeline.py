"""A pipeline: channels, stages and labels, as one checked part.

A manifest is a pipeline with files and digests. A recipe is a pipeline with sources and bounds of parity. The runtime
needs the pipeline only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import assert_never

from lowres_seg.bundle.bounds import CHANNELS, NETWORKS, STAGES
from lowres_seg.bundle.part import LabelValue, Name, Part, check_once
from lowres_seg.bundle.rules import (
    FillHoles,
    LargestComponent,
    SmallComponents,
    SmallLabel,
    TakesStatistics,
    ZScore,
)
from lowres_seg.bundle.stage import Above, Argmax, BoxOf, Classes, Regions, Stage
from lowres_seg.bundle.versions import Since

_Volume = Annotated[float, Field(ge=0)]


class Code(Part):
    """A code of a terminology, such as 12738006 of the scheme SCT, which means Brain."""

    since = 3
    value: str = Field(min_length=1, max_length=64)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class SegmentCodes(Part):
    """What a label is to DICOM: a category, a type within it, and the region of the body where it lies."""

    since = 3
    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None


class Label(Part):
    """A value of the label map and its name.

    `volume_ml` is the smallest and the largest plausible volume; a result beyond it is a doubt. `codes` are those of a
    DICOM segmentation.
    """

    value: LabelValue
    name: Name
    volume_ml: Annotated[tuple[_Volume, _Volume] | None, Since(3)] = None
    codes: Annotated[SegmentCodes | None, Since(3)] = None

    @model_validator(mode="after")
    def _ordered(self) -> Label:
        if self.volume_ml is not None and self.volume_ml[0] > self.volume_ml[1]:
            msg = f"volume_ml is {list(self.volume_ml)}; expected the smallest volume first"
            raise ValueError(msg)
        return self


class EvaluatedRegion(Part):
    """Labels that Dice and HD95 take together, such as whole tumor.

    Some may be values that only the label maps of others hold.
    """

    name: Name
    labels: tuple[LabelValue, ...] = Field(min_length=1, max_length=255)


class Pipeline(Part):
    """What is done to a scan.

    Attributes
    ----------
    channels
        Names of the scan's channels, in the order of a network's input, unless a stage says otherwise.
    labels
        Values of the label map.
    regions
        Regions that Dice and HD95 are taken of. Without any they are taken of each label.
    stages
        Run in their order. The result of the last stage is the result of the pipeline.
    threads
        Number of threads that is recommended; null for as many as there are.
    """

    channels: tuple[Name, ...] = Field(min_length=1, max_length=CHANNELS)
    labels: tuple[Label, ...] = Field(max_length=255)
    regions: tuple[EvaluatedRegion, ...] = Field(
        default=(), max_length=255, description="Regions that Dice and HD95 are taken of; each label, if there are none"
    )
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=STAGES)
    threads: Annotated[int | None, Field(ge=1, le=1024), Since(3)] = None

    @model_validator(mode="after")
    def _named_once(self) -> Pipeline:
        check_once("channel", self.channels)
        check_once("label value", (label.value for label in self.labels))
        check_once("label", (label.name for label in self.labels))
        check_once("region", (region.name for region in self.regions))
        for stage in self.stages:
            for named in _lists_of_channels(stage):
                check_once(f"stage {stage.name}: channel", named)
        return self

    @model_validator(mode="after")
    def _stages_fit_together(self) -> Pipeline:
        runs = sum(len(stage.networks) for stage in self.stages)
        if runs > NETWORKS:
            msg = f"the stages run {runs} networks; expected at most {NETWORKS}"
            raise ValueError(msg)
        earlier: dict[str, Stage] = {}
        for stage in self.stages:
            self._check(stage, earlier)
            earlier[stage.name] = stage
        last = self.stages[-1]
        if last.restore.quantity == "nothing" and not isinstance(last.decode, Classes):
            msg = f"stage {last.name} is the last one and must restore its result to the scan's grid"
            raise ValueError(msg)
        return self

    def _check(self, stage: Stage, earlier: dict[str, Stage]) -> None:
        where = f"stage {stage.name}"
        if stage.name in earlier:
            msg = f"{where} is there twice"
            raise ValueError(msg)
        strange = [name for name in _named_channels(stage) if name not in self.channels]
        if strange:
            msg = f"{where} names channel {strange[0]}, the channels are {', '.join(self.channels)}"
            raise ValueError(msg)
        for other in _needed_stages(stage):
            if other not in earlier:
                msg = f"{where} refers to stage {other}, which does not come before it"
                raise ValueError(msg)
        if isinstance(stage.region, BoxOf) and isinstance(earlier[stage.region.stage].decode, Classes):
            msg = f"{where} takes the box of stage {stage.region.stage}, which decodes classes and no mask"
            raise ValueError(msg)  # noqa: TRY004 - pydantic turns it into a problem of the file
        if isinstance(stage.region, BoxOf):
            located = earlier[stage.region.stage]
            plain = located.conform.convention == "edges" and located.conform.crop is None
            if not plain and located.restore.quantity == "nothing":
                msg = f"{where} takes the box of stage {located.name}, whose grid is MONAI's; restore its labels"
                raise ValueError(msg)
        for other in stage.mean_with:
            if not _averages(stage, earlier[other]):
                msg = (
                    f"{where} averages its scores with those of stage {other}; expected both to restore scores that "
                    "are activated after, on one region that is no box-of, and to decode alike"
                )
                raise ValueError(msg)
        for other in _needed_on_scan(stage):
            if earlier[other].restore.quantity == "nothing":
                msg = f"{where} needs labels of stage {other}, which does not restore its result to the scan's grid"
                raise ValueError(msg)
        unnamed = sorted(_written_labels(stage) - {label.value for label in self.labels})
        if stage.restore.quantity != "nothing" and unnamed:
            msg = f"{where} writes labels {unnamed}, which are not among the named labels"
            raise ValueError(msg)

    def check_networks(self, networks: Collection[str]) -> None:
        """Check that every network of a stage is one of `networks`.

        Raises
        ------
        ValueError
            With the first one that is not.
        """
        for stage in self.stages:
            missing = [name for name in stage.networks if name not in networks]
            if missing:
                msg = f"stage {stage.name} names network {missing[0]}, the networks are {', '.join(networks)}"
                raise ValueError(msg)

    @property
    def label_names(self) -> dict[int, str]:
        """Name of each label value."""
        return {label.value: label.name for label in self.labels}

    @property
    def evaluated(self) -> dict[str, tuple[int, ...]]:
        """Label values of each region that Dice and HD95 are taken of, by name."""
        if self.regions:
            return {region.name: region.labels for region in self.regions}
        return {label.name: (label.value,) for label in self.labels}

    @property
    def known_labels(self) -> list[int]:
        """Label values that a label map to compare with may hold."""
        return sorted({value for values in self.evaluated.values() for value in values} | set(self.label_names))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Every class that a stage gives a number for, in the order of the stages."""
        decodes = [stage.decode for stage in self.stages]
        return tuple(dict.fromkeys(name for one in decodes if isinstance(one, Classes) for name in one.names))

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes among which the last stage decides; none if it does not classify."""
        last = self.stages[-1].decode
        return last.names if isinstance(last, Classes) else ()

    def stage_of(self, network: str) -> Stage:
        """First stage that runs a network."""
        return next(stage for stage in self.stages if network in stage.networks)

    def input_shape(self, network: str) -> tuple[int, int, int, int, int]:
        """Input shape (1, C, D, H, W) of a network.

        Raises
        ------
        ValueError
            If two stages run it on different shapes.
        """
        shapes = {stage.input_shape(network, len(self.channels)) for stage in self.stages if network in stage.networks}
        if len(shapes) != 1:
            msg = f"network {network} runs on several shapes: {sorted(shapes)}"
            raise ValueError(msg)
        return shapes.pop()


def statistics_sources(stage: Stage) -> list[str]:
    """Stages whose conformed input a stage's intensity rules take statistics of."""
    rules = [rule for rule in stage.normalise.rules if isinstance(rule, TakesStatistics)]
    return [rule.statistics_of for rule in rules if rule.statistics_of is not None]


def _named_channels(stage: Stage) -> list[str]:
    """Channels of the scan that a stage names."""
    return [name for named in _lists_of_channels(stage) for name in named]


def _lists_of_channels(stage: Stage) -> list[tuple[str, ...]]:
    """Channels of each rule, network, of the crop and of the region of a stage."""
    named = [*(rule.channels for rule in stage.normalise.rules), *stage.inputs.values()]
    if stage.conform.crop is not None:
        named.append(stage.conform.crop.channels)
    return [*named, stage.region.channels] if isinstance(stage.region, Above) else named


def _needed_stages(stage: Stage) -> list[str]:
    """Stages that a stage refers to."""
    region = [stage.region.stage] if isinstance(stage.region, BoxOf) else []
    return statistics_sources(stage) + region + _needed_on_scan(stage) + list(stage.mean_with)


def averaged_stages(stages: Iterable[Stage]) -> list[str]:
    """Stages whose scores a later one averages with its own."""
    return [name for stage in stages for name in stage.mean_with]


def _averages(stage: Stage, other: Stage) -> bool:
    """Tell whether the scores of a stage can be averaged with those of another one."""
    alike = stage.region == other.region and not isinstance(stage.region, BoxOf) and stage.decode == other.decode
    return alike and all(
        one.restore.quantity == "scores" and one.restore.activated == "after" for one in (stage, other)
    )


def _needed_on_scan(stage: Stage) -> list[str]:
    """Stages whose labels a stage needs on the scan's own grid."""
    onto = [] if stage.onto is None else [stage.onto]
    inside = [rule.inside_also for rule in stage.normalise.rules if isinstance(rule, ZScore)]
    return [mask.stage for mask in stage.mask_channels] + onto + [name for name in inside if name is not None]


def _written_labels(stage: Stage) -> set[int]:
    """Label values that a stage may write."""
    match stage.decode:
        case Regions(regions=regions):
            written = {region.label for region in regions}
        case Argmax(labels=labels):
            written = set(labels)
        case Classes():
            written = set()
        case _:
            assert_never(stage.decode)
    for rule in (*stage.cleanup_before_restore, *stage.cleanup):
        match rule:
            case SmallComponents() | SmallLabel():
                written.add(rule.becomes)
            case LargestComponent() | FillHoles():
                pass
            case _:
                assert_never(rule)
    return written - {0}

"""One pass from scan to labels: the fields of a stage.

A stage takes a **region** of the scan, **conforms** it to the grid of its networks, **normalises** intensities, runs
the networks on the whole grid or in **windows**, **decodes** scores to labels, **restores** the labels to the scan's
own grid, and **cleans** them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from lowres_seg.bundle.bounds import CHANNELS, NETWORKS, RULES, SCORES, STAGES, VOXELS
from lowres_seg.bundle.dropout import Samples
from lowres_seg.bundle.grids import Axis, Clipped, Conform, Restore
from lowres_seg.bundle.part import LabelValue, Name, Part, check_once
from lowres_seg.bundle.rules import CleanupRule, IntensityRule, Phase, ZScore
from lowres_seg.bundle.versions import Since
from lowres_seg.bundle.windows import Windows
from lowres_seg.volumes.orientations import STORED

View = Literal["axial", "coronal", "sagittal"]
Activation = Literal["none", "sigmoid", "softmax"]


class WholeVolume(Part):
    """The whole scan."""

    kind: Literal["volume"] = "volume"


class NonZero(Part):
    """The box around all voxels that are nonzero in any channel, with a margin, cut to the scan."""

    kind: Literal["nonzero"] = "nonzero"
    margin_voxels: int = Field(default=0, ge=0, le=256)


class BoxOf(Part):
    """The box around another stage's result, with a margin, cut to the scan.

    A slice of that result counts as part of the box if more than `min_occupancy` of it is foreground. The margin on
    each side is ``margin_fraction`` of the box plus ``margin_voxels`` of the scan. `rounding` ``outward`` keeps every
    voxel that the box touches. ``centre`` rounds centre and size of the box to whole voxels first, as deepbet does.
    With `largest` the box is that of the largest connected component.
    """

    kind: Literal["box-of"] = "box-of"
    stage: Name
    margin_fraction: float = Field(default=0.0, ge=0, le=1)
    margin_voxels: int = Field(default=0, ge=0, le=256)
    min_occupancy: float = Field(default=0.0, ge=0, lt=1)
    largest: bool = False
    rounding: Literal["outward", "centre"] = "outward"


class Above(Part):
    """The box around all voxels above `above` in any of `channels`, with a margin, cut to the scan."""

    since = 3
    kind: Literal["above"] = "above"
    above: float = 0.0
    channels: tuple[Name, ...] = Field(default=(), max_length=CHANNELS)
    margin_voxels: int = Field(default=0, ge=0, le=1024)


Region = Annotated[WholeVolume | NonZero | BoxOf | Above, Field(discriminator="kind")]


class Normalise(Part):
    """Intensity rules, applied in their order, before or after the region is conformed, or after its crop.

    A rule may name another step than `when`, but none before that of the rule before it.
    """

    when: Literal["before-conform", "after-conform"] = "after-conform"
    rules: tuple[IntensityRule, ...] = Field(default=(), max_length=RULES)

    @model_validator(mode="after")
    def _in_order(self) -> Normalise:
        order = list(get_args(Phase))
        steps = [order.index(rule.when or self.when) for rule in self.rules]
        if steps != sorted(steps):
            msg = "a rule applies before the conform or the crop, and the rule before it after"
            raise ValueError(msg)
        late = [rule for rule in self.rules if (rule.when or self.when) != "before-conform"]
        if any(isinstance(rule, ZScore) and rule.inside_also is not None for rule in late):
            msg = "inside_also is known on the scan's own grid only; expected when = before-conform"
            raise ValueError(msg)
        return self

    def at(self, phase: Phase) -> tuple[IntensityRule, ...]:
        """Rules of one step, in their order."""
        return tuple(rule for rule in self.rules if (rule.when or self.when) == phase)


class PaintedRegion(Part):
    """Where the score of `channel` exceeds `threshold`, `label` is written.

    With `within` it is written only where the score of one of those channels exceeds its own threshold as well.
    """

    channel: int = Field(ge=0, lt=SCORES)
    threshold: float = 0.5
    label: LabelValue
    within: tuple[int, ...] = Field(default=(), max_length=SCORES)


class Regions(Part):
    """Each region is thresholded and painted in the order given. Later regions overwrite earlier ones.

    nnU-Net writes its regions so. BraTS's table of WT, TC and ET is WT, then TC, then ET ``within`` both.
    """

    kind: Literal["regions"] = "regions"
    activation: Activation = "none"
    regions: tuple[PaintedRegion, ...] = Field(min_length=1, max_length=SCORES)

    @model_validator(mode="after")
    def _within_regions(self) -> Regions:
        channels = {region.channel for region in self.regions}
        lost = sorted({other for region in self.regions for other in region.within} - channels)
        if lost:
            msg = f"a region lies within channel {lost[0]}, which is no region"
            raise ValueError(msg)
        return self


class Argmax(Part):
    """Each voxel gets the label of its highest score. ``labels[c]`` is the label of channel c; 0 is background.

    The activation changes no label of a single network whose scores are not resampled. Scores that are restored are
    activated first, and an ensemble averages activated scores.
    """

    kind: Literal["argmax"] = "argmax"
    activation: Activation = "none"
    labels: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(min_length=2, max_length=SCORES)


class Classes(Part):
    """One number for each class of the whole region, and no mask. The network gives scores (1, classes, 1, 1, 1)."""

    kind: Literal["classes"] = "classes"
    activation: Activation = "softmax"
    names: tuple[Name, ...] = Field(min_length=1, max_length=SCORES)

    @model_validator(mode="after")
    def _named_once(self) -> Classes:
        check_once("class", self.names)
        return self


Decode = Annotated[Regions | Argmax | Classes, Field(discriminator="kind")]


class MaskOf(Part):
    """Another stage's result as a channel: 1 where it has one of `labels`, or any label if none is named, else 0.

    With another `interpolation` than nearest each label of that result is resampled by itself, the background too, and
    each voxel gets the label of the highest score: nnU-Net's rule. Of equal scores the label of the `ties` ``nearest``
    voxel wins, or the ``lowest`` label, of scores in thousandths and half precision. With `outside_apart` background
    outside of the scan (see ``inside`` of `ZScore`) is a label of its own. An axis that the stage resamples apart is
    sampled by nearest.
    """

    stage: Name
    labels: tuple[LabelValue, ...] = Field(default=(), max_length=255)
    interpolation: Annotated[Literal[Clipped, "nearest", "linear"], Since(3)] = "nearest"
    ties: Annotated[Literal["nearest", "lowest"], Since(3)] = "nearest"
    outside_apart: Annotated[bool, Since(3)] = False

    def resampled_alike(self, other: MaskOf) -> bool:
        """Tell whether another channel shows other labels of the same resampled result."""
        return self.model_copy(update={"labels": ()}) == other.model_copy(update={"labels": ()})


_ChannelNames = Annotated[tuple[Name, ...], Field(min_length=1, max_length=CHANNELS)]


class Stage(Part):
    """One pass from scan to labels.

    Attributes
    ----------
    networks
        One network, or the members of an ensemble.
    inputs
        Channels of the scan that a network takes, in its order; all of them for a network that is not named.
    views
        Members that see slices along another axis. That axis becomes the first of their array; the other two keep their
        order.
    ensemble
        ``mean-scores`` averages scores, ``mean-probabilities`` averages activated scores. With ``vote`` each member
        votes for each voxel's label, and the lowest label wins a tie. ``staple`` fuses the members' labels by the
        sensitivity and specificity that each of them seems to have for each label (Warfield 2004).
    mirror_axes
        Each network also runs on the windows mirrored along each combination of these axes of the conformed grid. Its
        score is the mean of all runs, mirrored back.
    mask_channels
        Results of earlier stages, as further channels of every network, behind those of the scan.
    cleanup_before_restore
        Clean-up of labels on the conformed grid, before they are restored.
    mean_with
        Earlier stages of the same region and decoding. Their restored scores are activated and averaged with those of
        this stage, and the mean is decoded, as nnU-Net's ensembles of configurations are.
    onto
        An earlier stage. The labels of this stage are written over its result.
    samples
        Dropout of the networks is kept on, and each window runs several times. Activated scores are averaged; their
        standard deviation is the spread of the result.
    inference_precision
        Precision that the CPU computes in, apart from what is quantized.
    """

    name: Name
    networks: tuple[Name, ...] = Field(min_length=1, max_length=NETWORKS)
    inputs: Annotated[dict[Name, _ChannelNames], Since(3)] = Field(default={}, max_length=NETWORKS)
    views: dict[Name, View] = Field(default={}, max_length=NETWORKS)
    ensemble: Annotated[
        Literal["mean-scores", "mean-probabilities", "vote", "staple"], Since(3, lambda how: how == "staple")
    ] = "mean-scores"
    mirror_axes: tuple[Axis, ...] = Field(default=(), max_length=3)
    region: Region = WholeVolume()
    conform: Conform
    normalise: Normalise = Normalise()
    mask_channels: tuple[MaskOf, ...] = Field(default=(), max_length=RULES)
    windows: Windows | None = None
    decode: Decode
    restore: Restore = Restore()
    cleanup: tuple[CleanupRule, ...] = Field(default=(), max_length=RULES)
    cleanup_before_restore: Annotated[tuple[CleanupRule, ...], Field(max_length=RULES), Since(3)] = ()
    mean_with: Annotated[tuple[Name, ...], Field(max_length=STAGES), Since(3)] = ()
    onto: Name | None = None
    samples: Annotated[Samples | None, Since(3)] = None
    inference_precision: Literal["f32", "bf16"] = "f32"

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        where = f"stage {self.name}"
        if self.windows is None and self.conform.shape is None:
            msg = f"{where}: expected a shape to conform to, or windows"
            raise ValueError(msg)
        for shape in (self.conform.shape, *(self.shape_of(name) for name in self.networks)):
            if shape is not None and prod(shape) > VOXELS:
                msg = f"{where}: has a grid of {list(shape)} voxels; expected at most {VOXELS} voxels"
                raise ValueError(msg)
        if self.cleanup_before_restore and self.restore.quantity != "labels":
            msg = f"{where}: labels are cleaned up before they are restored, and {self.restore.quantity} are restored"
            raise ValueError(msg)
        if not self.conform.crops and self.normalise.at("after-crop"):
            msg = f"{where}: has a rule after the crop, and no crop"
            raise ValueError(msg)
        for what, named in (("inputs", self.inputs), ("a view", self.views)):
            strange = [name for name in named if name not in self.networks]
            if strange:
                msg = f"{where}: has {what} for network {strange[0]}, which it does not run"
                raise ValueError(msg)
        if self.views and self.conform.orientation == STORED:
            msg = f"{where}: views need an orientation such as RAS; {STORED} does not say which axis is which"
            raise ValueError(msg)
        if self.windows is not None and self.windows.neighbours:
            thick = [name for name in self.networks if self.shape_of(name)[self.axis_order(name)[0]] != 1]
            if thick:
                msg = (
                    f"{where}: neighbours are of slices, and the windows of network {thick[0]} are thicker; expected 1 "
                    "voxel along the first axis of its array"
                )
                raise ValueError(msg)
        if len(set(self.mirror_axes)) != len(self.mirror_axes):
            msg = f"{where}: names a mirror axis twice"
            raise ValueError(msg)
        if self.samples is not None:
            self._check_samples(where)
        if self.fuses_labels and self.restore.quantity == "scores":
            msg = f"{where}: votes give labels and no scores; expected labels in restore.what"
            raise ValueError(msg)
        if self.fuses_labels and isinstance(self.decode, Classes):
            msg = f"{where}: votes are for labels of voxels, and it decodes classes; expected mean-probabilities"
            raise ValueError(msg)
        if self.restore.activated == "after" and self.ensemble != "mean-scores":
            msg = f"{where}: {self.ensemble} activates scores before they are restored; expected activated = before"
            raise ValueError(msg)
        if isinstance(self.decode, Classes) and (self.windows is not None or self.restore.quantity != "nothing"):
            msg = f"{where}: classes are of the whole region; expected no windows and nothing to restore"
            raise ValueError(msg)
        return self

    def _check_samples(self, where: str) -> None:
        is_mean = self.ensemble == "mean-probabilities" or len(self.networks) == 1
        if not is_mean or self.fuses_labels or self.restore.activated == "after":
            msg = f"{where}: samples are activated and averaged; expected mean-probabilities, and activated = before"
            raise ValueError(msg)
        if self.restore.quantity != "scores" and not isinstance(self.decode, Classes):
            msg = f"{where}: samples have a spread, which is restored as scores are; expected scores in restore.what"
            raise ValueError(msg)

    def brought_by(self) -> int:
        """Schema version: windows over a grid of one shape are of version 3."""
        return 3 if self.windows is not None and self.conform.shape is not None else self.since

    @property
    def fuses_labels(self) -> bool:
        """True if the labels of members are joined, and not their scores."""
        return self.ensemble in ("vote", "staple")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Least shape of the conformed grid: that of the largest window along each axis, or of the whole grid."""
        i, j, k = (max(along) for along in zip(*(self.shape_of(name) for name in self.networks), strict=True))
        return i, j, k

    def shape_of(self, network: str) -> tuple[int, int, int]:
        """Shape of a network's input on the conformed grid: one window, or the whole grid."""
        windows = self.windows_of(network)
        shape = self.conform.shape if windows is None else windows.roi_size
        assert shape is not None  # noqa: S101 - the validator has checked it
        return shape

    def windows_of(self, network: str) -> Windows | None:
        """Windows of a network, in the order of the conformed grid; None if it sees the whole grid."""
        return None if self.windows is None else self.windows.on_grid(self.axis_order(network))

    @property
    def windows_alike(self) -> bool:
        """True if all networks see the same windows."""
        first, *others = (self.windows_of(name) for name in self.networks)
        return all(other == first for other in others)

    def axis_order(self, network: str) -> tuple[int, int, int]:
        """Axes of the conformed grid in the order of a network's array."""
        if network not in self.views:
            return (0, 1, 2)
        ends = {"axial": "IS", "coronal": "PA", "sagittal": "LR"}[self.views[network]]
        first = next(axis for axis, letter in enumerate(self.conform.orientation) if letter in ends)
        rest = [axis for axis in range(3) if axis != first]
        return first, rest[0], rest[1]

    def channels_of(self, network: str, channels: Sequence[str]) -> list[int]:
        """Places of a network's channels, in its order, among those of a scan and the mask channels behind them."""
        named = [channels.index(name) for name in self.inputs.get(network, channels)]
        return named + [len(channels) + place for place in range(len(self.mask_channels))]

    def names_of(self, network: str, channels: Sequence[str]) -> list[tuple[int, str]]:
        """For each channel of a network's input, in its order, the place of its slice and its name.

        The place is 0 without neighbouring slices. A mask channel has the name of the stage that it shows.
        """
        names = [*self.inputs.get(network, channels), *(mask.stage for mask in self.mask_channels)]
        if self.windows is not None and self.windows.neighbours_by == "channel":
            return [(place, name) for name in names for place in range(self.slices)]
        return [(place, name) for place in range(self.slices) for name in names]

    def input_shape(self, network: str, channels: int) -> tuple[int, int, int, int, int]:
        """Input shape (1, C, D, H, W) of one of its networks, for a scan of `channels` channels."""
        shape = self.shape_of(network)
        d, h, w = (shape[axis] for axis in self.axis_order(network))
        taken = len(self.inputs[network]) if network in self.inputs else channels
        return 1, (taken + len(self.mask_channels)) * self.slices, d, h, w

    @property
    def slices(self) -> int:
        """Number of slices that lie behind each other in the channels of a network."""
        return 1 if self.windows is None else self.windows.slices

"""A stage in words, for people who look at a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from typing_extensions import assert_never

from lowres_seg.bundle.grids import Conform, Restore
from lowres_seg.bundle.stage import (
    Above,
    Argmax,
    BoxOf,
    Classes,
    Decode,
    NonZero,
    Region,
    Regions,
    Stage,
    WholeVolume,
)
from lowres_seg.bundle.windows import Windows
from lowres_seg.volumes.orientations import STORED

_ENSEMBLES = {
    "mean-scores": "the mean of the scores",
    "mean-probabilities": "the mean of the probabilities",
    "vote": "a vote",
    "staple": "STAPLE",
}


def by(numbers: Iterable[object]) -> str:
    """Sizes of the axes, such as ``128×128×64``."""
    return "×".join(str(number) for number in numbers)


def sentences(stage: Stage) -> list[str]:
    """Describe a stage in the order in which it runs: region, grid, intensities, networks, labels.

    Examples
    --------
    >>> from lowres_seg.bundle.stage import Stage
    >>> plain = {"name": "only", "networks": ["net"], "conform": {"shape": [64, 64, 64]},
    ...          "decode": {"kind": "argmax", "labels": [0, 1]}}
    >>> sentences(Stage.model_validate(plain))[1]
    'grid RAS of 64×64×64 voxels, stretched to it, linear'
    """
    rules = [rule.rule for rule in stage.normalise.rules]
    found = [
        f"takes {_region(stage.region)}",
        _grid(stage.conform),
        f"intensities: {', '.join(rules)}" if rules else "intensities as they are",
    ]
    found += [f"a further channel: {_mask(one.stage, one.labels)}" for one in stage.mask_channels]
    found += [_networks(stage), _windows(stage.windows), _mirroring(stage.mirror_axes)]
    if stage.samples is not None:
        found.append(f"dropout kept on: the mean of {stage.samples.count} samples, and their spread")
    found.append(_decoding(stage.decode))
    if stage.mean_with:
        found.append(f"its probabilities are averaged with those of {_listed(stage.mean_with)}")
    found.append(_restored(stage.restore))
    cleaned = [rule.rule for rule in (*stage.cleanup_before_restore, *stage.cleanup)]
    if cleaned:
        found.append(f"clean-up: {', '.join(cleaned)}")
    if stage.onto is not None:
        found.append(f"its labels are written over those of stage {stage.onto}")
    return found


def _region(region: Region) -> str:
    match region:
        case WholeVolume():
            return "the whole scan"
        case NonZero(margin_voxels=margin):
            return f"the box of the voxels that are not zero{_margin(margin)}"
        case BoxOf(stage=stage, margin_fraction=share, margin_voxels=margin):
            wider = [f"{100 * share:g}% of it"] if share else []
            wider += [_voxels(margin)] if margin else []
            return f"the box of stage {stage}" + (f", wider by {' and '.join(wider)} on each side" if wider else "")
        case Above(above=above, channels=channels, margin_voxels=margin):
            where = f" in {_listed(channels, 'or')}" if channels else ""
            return f"the box of the voxels above {above:g}{where}{_margin(margin)}"
        case _:
            assert_never(region)


def _margin(voxels: int) -> str:
    return f", wider by {_voxels(voxels)} on each side" if voxels else ""


def _voxels(number: int) -> str:
    return "1 voxel" if number == 1 else f"{number} voxels"


def _grid(conform: Conform) -> str:
    axes = f"of the file's own axes {by(conform.axes)}" if conform.orientation == STORED else conform.orientation
    parts = [f"grid {axes}" + (f" of {by(conform.shape)} voxels" if conform.shape is not None else "")]
    if conform.spacing_mm is None:
        parts.append("stretched to it" if conform.shape is not None else "in the scan's own spacing")
    else:
        parts.append(f"at {by('its own' if mm is None else f'{mm:g}' for mm in conform.spacing_mm)} mm")
    if conform.crop is not None:
        parts.append(f"cropped to the voxels above {conform.crop.above:g}")
    parts += [f"at most {by(conform.at_most)} voxels"] if conform.at_most is not None else []
    parts += [f"at least {by(conform.at_least)} voxels"] if conform.at_least is not None else []
    parts += [f"a multiple of {by(conform.multiple_of)} voxels"] if conform.multiple_of is not None else []
    return ", ".join([*parts, conform.interpolation])


def _mask(stage: str, labels: Sequence[int]) -> str:
    return f"where stage {stage} has {'label ' + _listed(labels, 'or') if labels else 'any label'}"


def _networks(stage: Stage) -> str:
    named = [name + _seen(stage, name) for name in stage.networks]
    if len(named) == 1:
        return f"network {named[0]}"
    return f"{_ENSEMBLES[stage.ensemble]} of {len(named)} networks: {', '.join(named)}"


def _seen(stage: Stage, network: str) -> str:
    """What one network sees of the stage's input, where it is not all of it along the first axis."""
    seen = [f"{stage.views[network]} slices"] if network in stage.views else []
    seen += [f"of {_listed(stage.inputs[network])}"] if network in stage.inputs else []
    return f" ({' '.join(seen)})" if seen else ""


def _windows(windows: Windows | None) -> str:
    if windows is None:
        return "the whole grid at once"
    overlap = by(dict.fromkeys(f"{100 * share:g}%" for share in windows.overlaps))
    rules = "nnU-Net" if windows.convention == "nnunet" else "MONAI"
    size = f"{by(windows.roi_size)} voxels{' of each view' if windows.axes == 'view' else ''}"
    sides = {0: "", 1: ", each with the slice on either side"}
    beside = sides.get(windows.neighbours, f", each with {windows.neighbours} slices on either side")
    return f"in windows of {size} as {rules} places them, which overlap by {overlap}, {windows.weights} weights{beside}"


def _mirroring(axes: Sequence[int]) -> str:
    if not axes:
        return "no mirroring"
    return f"mirrored along the axes {_listed([axis + 1 for axis in axes])}: {2 ** len(axes)} runs of each network"


def _decoding(decode: Decode) -> str:
    match decode:
        case Argmax(labels=labels):
            return f"the label of the highest of {len(labels)} scores"
        case Regions(regions=regions):
            bounds = [
                f"{region.label} where channel {region.channel} of the scores > {region.threshold:g}"
                for region in regions
            ]
            return f"label {_listed(bounds, 'then')}"
        case Classes(names=names):
            return f"one number for each class: {_listed(names)}"
        case _:
            assert_never(decode)


def _restored(restore: Restore) -> str:
    if restore.quantity == "nothing":
        return "its result stays on that grid"
    return f"{restore.quantity} are brought to the scan's own grid, {restore.interpolation}"


def _listed(items: Iterable[object], word: str = "and") -> str:
    """Items with commas, and `word` before the last one."""
    *first, last = [str(item) for item in items]
    return f"{', '.join(first)} {word} {last}" if first else last

"""The input of a stage's networks: a scan's volumes on the conformed grid, normalised, with masks of earlier stages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.rules import ZScore
from lowres_seg.bundle.stage import Stage
from lowres_seg.errors import InputError
from lowres_seg.runtime.conform import Fit, box_to_keep
from lowres_seg.runtime.finite import count_not_finite
from lowres_seg.runtime.mask_channels import mask_channels
from lowres_seg.runtime.normalise import inside, normalise
from lowres_seg.runtime.ordering import stacked
from lowres_seg.runtime.placement import Placement
from lowres_seg.runtime.scale import far_exponent
from lowres_seg.runtime.scan_state import ScanState, timed

Array = NDArray[np.float32]


def prepared(placement: Placement, scan: ScanState, threads: int) -> tuple[Placement, Array]:
    """Input of the networks, (C, *conformed), and the placement with the crop that was found in it.

    Raises
    ------
    InputError
        If intensities cannot be normalised.
    """
    stage, fit, oriented, box = placement.stage, placement.fit, placement.oriented, placement.box
    rules, conform = stage.normalise, stage.conform
    others = {name: x for name, x in scan.inputs.items() if x is not None}
    # Each step drops the array of the step before: these arrays make up the peak of memory.
    with timed(scan.timings_s, f"{stage.name}.conform"):
        views = [oriented.apply(volume.data)[box.slices] for volume in scan.volumes]
        # A single channel that nothing changes before it is resampled need not be copied before.
        is_view = len(views) == 1 and views[0].dtype == np.float32 and not rules.at("before-conform")
        x = views[0][None] if is_view else stacked(views)
        body = inside(x) if _looks_inside(stage) else None
        normalise(x, rules.at("before-conform"), others, scan.channels, _insides(placement, scan, body))
        x = _resampled(x, placement, threads)
        if is_view and np.may_share_memory(x, views[0]):
            x = x.copy()
        if conform.pad == "minimum":
            x = fit.place(x, None)
    with timed(scan.timings_s, f"{stage.name}.normalise"):
        if stage.name in scan.inputs:
            scan.inputs[stage.name] = x.copy()
        normalise(x, rules.at("after-conform"), others, scan.channels)
        if conform.crop is not None:
            placement = placement.cropped(box_to_keep(x, conform.crop, tuple(scan.channels)))
            fit = placement.fit
        x = fit.cut(x)
        normalise(x, rules.at("after-crop"), others, scan.channels)
        match conform.pad:
            case "minimum":
                pass
            case "zero" | "noise":
                x = fit.place(x, 0.0)
            case "value":
                x = fit.place(x, conform.pad_value)
            case "edge" | "reflect" | "wrap":
                x = fit.place(x, conform.pad)
            case _:
                assert_never(conform.pad)
        if conform.pad == "noise":
            x = _in_noise(x, fit)
        if stage.mask_channels:
            masks = mask_channels(placement, scan.on_scan, body, threads=threads)
            x = np.concatenate([x, masks])
        bad = count_not_finite(x)
        if bad:
            raise InputError(
                f"normalising its intensities gives {bad} of {x.size} values that are NaN or infinite; "
                "are they of the unit that the bundle expects?"
            )
    return placement, x


def _resampled(x: Array, placement: Placement, threads: int) -> Array:
    """Resample (C, *region) to (C, *resampled), at a scale that float32 computes in."""
    fit, conform = placement.fit, placement.stage.conform
    same = all(axis.changes_nothing for axis in fit.axes)
    far = [0 if same else far_exponent(channel) for channel in x]
    if any(far):
        x = np.stack([np.ldexp(channel, -by) for channel, by in zip(x, far, strict=True)])
    across = conform.separate_interpolation
    x = fit.resample(x, conform.interpolation, across=across, border=conform.border, threads=threads)
    for channel, by in zip(x, far, strict=True):
        if by:
            np.ldexp(channel, by, out=channel)
    return x


def _looks_inside(stage: Stage) -> bool:
    """Tell whether a stage asks which voxels of its region are inside the scan."""
    rules = stage.normalise.at("before-conform")
    return any(mask.outside_apart for mask in stage.mask_channels) or any(
        isinstance(rule, ZScore) and rule.voxels == "inside" for rule in rules
    )


def _insides(
    placement: Placement, scan: ScanState, body: NDArray[np.bool_] | None
) -> dict[str | None, NDArray[np.bool_]]:
    """Voxels of the region inside the scan; and by the name of a stage, those and its foreground."""
    if body is None:
        return {}
    rules = placement.stage.normalise.rules
    named = {rule.inside_also for rule in rules if isinstance(rule, ZScore) and rule.inside_also is not None}
    found = {name: placement.oriented.apply(scan.on_scan[name])[placement.box.slices] for name in named}
    return {None: body} | {name: body | (labels != 0) for name, labels in found.items()}


def _in_noise(x: Array, fit: Fit) -> Array:
    """Fill the padding around the region with noise."""
    noise = np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32)
    i, j, k = fit.inner
    noise[:, i, j, k] = x[:, i, j, k]
    return noise

"""Grids, crops, paddings, intensities and clean-up as MONAI has them: MONAI's own transforms are the oracle.

Each case is a chain of MONAI's transforms, and what a stage says instead of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lowres_seg import Volume
from lowres_seg.bundle.rules import CleanupRule
from lowres_seg.bundle.stage import Stage
from lowres_seg.runtime import stage_input, stage_run
from lowres_seg.runtime.cleanup import clean
from lowres_seg.runtime.placement import Placement
from lowres_seg.runtime.scan_state import ScanState

pytest.importorskip("monai")
torch = pytest.importorskip("torch")

from monai import transforms as mt  # noqa: E402
from monai.data import MetaTensor  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402

KEEP = [None, None, None]


def spacing(pixdim: Sequence[float | None], **more: Any) -> dict[str, Any]:
    return {"orientation": "RAS", "spacing_mm": list(pixdim), "convention": "monai", "pad": "zero", **more}


def grid(case: str) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Transforms of MONAI, what the stage says of the grid, and how scores are restored."""
    ras = mt.Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    crop = {"above": 30.0, "margin_voxels": [2, 0, 1]}
    box = mt.CropForegroundd("image", "image", select_fn=lambda x: x > 30, margin=(2, 0, 1))
    zero = {"outside": "zero"}
    cases: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
        "coarser": ([ras, mt.Spacingd("image", (1.5, 1.5, 2))], spacing((1.5, 1.5, 2)), {}),
        "finer": ([ras, mt.Spacingd("image", (0.5, 0.6, 0.7))], spacing((0.5, 0.6, 0.7)), {}),
        "nearly the same": ([ras, mt.Spacingd("image", (1.2008, 0.8004, 3))], spacing((1.2008, 0.8004, 3)), {}),
        "one axis kept": ([ras, mt.Spacingd("image", (1, 1, -1))], spacing((1, 1, None)), {}),
        "corners aligned": ([ras, mt.Spacingd("image", (1.5, 1, 2), align_corners=True)], spacing((1.5, 1, 2)), {}),
        "zero beyond": (
            [ras, mt.Spacingd("image", (0.55, 0.7, 2.1), padding_mode="zeros")],
            spacing((0.55, 0.7, 2.1), border="zero"),
            {},
        ),
        "nearest": (
            [ras, mt.Spacingd("image", (0.7, 1.1, 2), mode="nearest")],
            spacing((0.7, 1.1, 2), interpolation="nearest"),
            {"interpolation": "nearest"},
        ),
        "stored axes": (
            [mt.Spacingd("image", (1.5, 1.1, 2.3)), ras],
            spacing((1.5, 1.1, 2.3), spacing_axes="stored"),
            {},
        ),
        "crop": ([ras, mt.Spacingd("image", (1, 1, 2)), box], spacing((1, 1, 2), crop=crop), zero),
        "crop without resampling": ([ras, box], spacing(KEEP, crop=crop), zero),
        "crop beyond the scan": (
            [ras, mt.CropForegroundd("image", "image", margin=3)],
            spacing(KEEP, crop={"margin_voxels": [3, 3, 3]}),
            zero,
        ),
        "crop cut and divisible": (
            [ras, mt.CropForegroundd("image", "image", margin=3, allow_smaller=True, k_divisible=8)],
            spacing(KEEP, crop={"margin_voxels": [3, 3, 3], "cut": True, "multiple_of": [8, 8, 8]}),
            zero,
        ),
        "crop of one channel": (
            [ras, mt.CropForegroundd("image", "image", select_fn=lambda x: x > 30, channel_indices=[1])],
            spacing(KEEP, crop={"above": 30.0, "channels": ["t2"]}),
            zero,
        ),
        "padded on both sides": (
            [ras, mt.SpatialPadd("image", (29, 34, 20))],
            spacing(KEEP, at_least=[29, 34, 20]),
            zero,
        ),
        "padded at the end": (
            [ras, mt.SpatialPadd("image", (29, 34, 20), method="end", value=7)],
            spacing(KEEP, at_least=[29, 34, 20], pad="value", pad_value=7, pad_side="end"),
            zero,
        ),
        "padded with the edge": (
            [ras, mt.SpatialPadd("image", (29, 34, 20), mode="replicate")],
            spacing(KEEP, at_least=[29, 34, 20], pad="edge"),
            zero,
        ),
        "padded by reflection": (
            [ras, mt.SpatialPadd("image", (29, 34, 20), mode="reflect")],
            spacing(KEEP, at_least=[29, 34, 20], pad="reflect"),
            zero,
        ),
        "padded by wrapping": (
            [ras, mt.SpatialPadd("image", (29, 34, 20), mode="circular")],
            spacing(KEEP, at_least=[29, 34, 20], pad="wrap"),
            zero,
        ),
        "divisible": ([ras, mt.DivisiblePadd("image", (16, 8, 5))], spacing(KEEP, multiple_of=[16, 8, 5]), zero),
        "divisible at the end": (
            [ras, mt.DivisiblePadd("image", 16, method="end")],
            spacing(KEEP, multiple_of=[16, 16, 16], pad_side="end"),
            zero,
        ),
        "cropped at the centre": (
            [ras, mt.CenterSpatialCropd("image", (12, 15, 7))],
            spacing(KEEP, shape=[12, 15, 7]),
            zero,
        ),
        "stretched": (
            [ras, mt.Resized("image", (20, 40, 10), mode="trilinear")],
            {"orientation": "RAS", "shape": [20, 40, 10]},
            {},
        ),
        "stretched by area": (
            [ras, mt.Resized("image", (20, 16, 10))],
            {"orientation": "RAS", "shape": [20, 16, 10], "interpolation": "area"},
            {"interpolation": "area"},
        ),
        "stretched by torch's nearest": (
            [ras, mt.Resized("image", (20, 40, 7), mode="nearest")],
            {"orientation": "RAS", "shape": [20, 40, 7], "interpolation": "floor"},
            {"interpolation": "floor"},
        ),
        "everything": (
            [
                ras,
                mt.Spacingd("image", (1.1, 1.2, 2.5)),
                box,
                mt.SpatialPadd("image", (20, 30, 21), method="end"),
            ],
            spacing((1.1, 1.2, 2.5), crop=crop, at_least=[20, 30, 21], pad_side="end"),
            zero,
        ),
    }
    for order in (2, 3, 4, 5):
        cases[f"spline {order}"] = (
            [ras, mt.Spacingd("image", (1.5, 0.9, 2), mode=order, padding_mode="nearest")],
            spacing((1.5, 0.9, 2), interpolation=f"spline-{order}"),
            {"interpolation": f"spline-{order}"},
        )
    return cases if case == "all" else cases[case]  # type: ignore[return-value]


CASES = list(grid("all"))
SHAPE = (17, 23, 12)
AFFINES = {
    "LPS": np.array([[-1.2, 0, 0, 9], [0, -0.8, 0, 8], [0, 0, 3.0, -7], [0, 0, 0, 1.0]]),
    "turned": np.array([[0, 0, 1.2, 9], [0.8, 0, 0, 8], [0, -3.0, 0, -7], [0, 0, 0, 1.0]]),
    "sheared by rounding": np.array([[1.2, 1e-7, 0, 9], [0, 0.8, 2e-7, 8], [0, 0, 3.0, -7], [0, 0, 0, 1.0]]),
    "oblique": np.array([[1.19, -0.05, 0.2, 9], [0.08, 0.79, -0.3, 8], [-0.12, 0.07, 2.97, -7], [0, 0, 0, 1.0]]),
}


def orthogonal(affine: np.ndarray) -> np.ndarray:
    """The nearest affine of the same spacing whose axes stand upright on each other."""
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    u, _, v = np.linalg.svd(affine[:3, :3] / lengths)
    result = affine.copy()
    result[:3, :3] = (u @ v) * lengths
    return result


def scan() -> np.ndarray:
    x = np.zeros((2, *SHAPE), np.float32)
    inner = np.random.default_rng(0).random((2, 11, 15, 8)) * 60
    x[:, 4:15, 5:20, 2:10] = inner
    return x


def placed(conform: dict[str, Any], restore: dict[str, Any], affine: np.ndarray) -> tuple[Placement, np.ndarray]:
    """Placement of a stage on the scan, and the input of its networks."""
    windows = None if "shape" in conform else {"roi_size": [1, 1, 1], "rules": "monai"}
    stage = Stage.model_validate(
        {
            "name": "only",
            "networks": ["net"],
            "conform": conform,
            "windows": windows,
            "restore": restore,
            "decode": {"kind": "argmax", "labels": [0, 1]},
        }
    )
    volumes = [Volume.from_array(channel, affine) for channel in scan()]
    state = ScanState.before([stage], volumes, ("t1", "t2"))
    place = stage_run.place(stage, state)
    assert place is not None
    return stage_input.prepared(place, state, threads=1)


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("case", CASES)
def test_a_scan_comes_to_monais_grid_and_scores_come_back(case: str, affine: str) -> None:
    if (case, affine) == ("nearest", "sheared by rounding"):
        pytest.skip("voxels lie halfway between two others there, and the last bit of MONAI's affines decides")
    transforms, conform, restore = grid(case)
    there = AFFINES[affine] if affine.startswith("sheared") else orthogonal(AFFINES[affine])
    chain = mt.Compose(transforms)
    given = {"image": MetaTensor(torch.from_numpy(scan()), affine=torch.from_numpy(there))}
    expected = chain(given)
    place, found = placed(conform, restore, there)
    assert found.shape == tuple(expected["image"].shape)
    assert np.abs(found - expected["image"].numpy()).max() < 1e-5 * np.ptp(scan())

    scores = np.random.default_rng(1).random(found.shape, dtype=np.float32)
    expected["pred"] = MetaTensor(torch.from_numpy(scores))
    back = mt.Invertd("pred", chain, "image", nearest_interp=False)(expected)["pred"].numpy()
    slabs = [part for _, part in place.restored(scores, 1)]
    assert np.abs(place.oriented.undo(np.concatenate(slabs, axis=1)[0]) - back[0]).max() < 1e-5


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("case", ["coarser", "finer", "crop", "everything", "stretched"])
def test_labels_come_back_by_nearest(case: str, affine: str) -> None:
    transforms, conform, restore = grid(case)
    there = AFFINES[affine] if affine.startswith("sheared") else orthogonal(AFFINES[affine])
    chain = mt.Compose(transforms)
    expected = chain({"image": MetaTensor(torch.from_numpy(scan()), affine=torch.from_numpy(there))})
    nearest = "floor" if case == "stretched" else "nearest"
    place, found = placed(conform, {**restore, "what": "labels", "interpolation": nearest}, there)
    labels = np.random.default_rng(1).integers(0, 9, found.shape[1:]).astype(np.float32)
    expected["pred"] = MetaTensor(torch.from_numpy(labels)[None])
    back = mt.Invertd("pred", chain, "image", nearest_interp=True)(expected)["pred"].numpy()[0]
    slabs = [part for _, part in place.restored(labels[None], 1)]
    mine = place.oriented.undo(np.concatenate(slabs, axis=1)[0])
    assert np.mean(mine != back) < 1e-3  # where a position is halfway between two voxels, MONAI's own rounding decides
    assert len(np.unique(mine)) == 9


@pytest.mark.parametrize("rounding", ["nearest", "down"])
@pytest.mark.parametrize("affine", AFFINES)
def test_label_values_between_two_labels_are_rounded_as_monai_has_them(affine: str, rounding: str) -> None:
    there = (AFFINES[affine] if affine.startswith("sheared") else orthogonal(AFFINES[affine])).astype(np.float32)
    there = there.astype(np.float64)  # a header's precision: the axes lean by what it leaves
    spacing = 2 * np.sqrt((there[:3, :3] ** 2).sum(axis=0))
    chain = mt.Compose([mt.Spacingd("image", spacing.tolist())])
    expected = chain({"image": MetaTensor(torch.from_numpy(scan()), affine=torch.from_numpy(there))})
    restore = {"what": "labels", "interpolation": "linear", "rounding": rounding, "outside": "zero"}
    conform = {"orientation": "stored", "spacing_mm": spacing.tolist(), "convention": "monai", "pad": "zero"}
    place, found = placed(conform, restore, there)
    labels = np.random.default_rng(1).integers(0, 4, found.shape[1:]).astype(np.float32)
    expected["pred"] = MetaTensor(torch.from_numpy(labels)[None])
    values = mt.Invertd("pred", chain, "image", nearest_interp=False)(expected)["pred"].numpy()[0]
    assert np.mean(np.abs(values % 1 - 0.5) < 1e-5) > 0.01  # many lie halfway
    mine = place.oriented.undo(stage_run._restored_labels(place, labels[None], 1))
    np.testing.assert_array_equal(mine, np.rint(values) if rounding == "nearest" else np.floor(values))


def rules(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return list(content)


INTENSITIES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "clip to percentiles": (
        mt.ClipIntensityPercentiles(lower=5, upper=90, channel_wise=True),
        rules({"rule": "percentile-clip", "lower": 5, "upper": 90}),
    ),
    "clip to one percentile, all channels together": (
        mt.ClipIntensityPercentiles(lower=None, upper=95),
        rules({"rule": "percentile-clip", "upper": 95, "together": True}),
    ),
    "threshold above": (
        mt.ThresholdIntensity(20, above=True, cval=-3),
        rules({"rule": "threshold", "above": 20, "becomes": -3}),
    ),
    "threshold below": (
        mt.ThresholdIntensity(20, above=False, cval=5),
        rules({"rule": "threshold", "below": 20, "becomes": 5}),
    ),
    "channels normalised together": (
        mt.NormalizeIntensity(),
        rules({"rule": "z-score", "together": True}),
    ),
    "nonzero voxels of the channels normalised together": (
        mt.NormalizeIntensity(nonzero=True),
        rules({"rule": "z-score", "together": True, "voxels": "nonzero"}),
    ),
    "channels scaled together": (
        mt.ScaleIntensity(minv=-1, maxv=1),
        rules(
            {"rule": "percentile-scale", "lower": 0, "upper": 100, "clip": "none", "together": True},
            {"rule": "affine", "scale": 2, "shift": -1},
        ),
    ),
    "constants for nonzero voxels": (
        mt.NormalizeIntensity(subtrahend=10, divisor=4, nonzero=True),
        rules({"rule": "affine", "scale": 0.25, "shift": -2.5, "voxels": "nonzero"}),
    ),
}


@pytest.mark.parametrize("case", INTENSITIES)
def test_intensities_are_monais(case: str) -> None:
    from lowres_seg.bundle.stage import Normalise
    from lowres_seg.runtime.normalise import normalise

    transform, wanted = INTENSITIES[case]
    x = scan()
    x[1] = x[1] * 3 + 8 * (x[1] > 0)
    expected = np.asarray(transform(torch.from_numpy(x.copy())))
    normalise(x, Normalise.model_validate({"rules": wanted}).rules, {}, ("t1", "t2"))
    assert np.abs(x - expected).max() < 1e-5 * np.ptp(expected)


CLEANUPS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "largest of each label": (mt.KeepLargestConnectedComponent(), rules({"rule": "largest-component", "each": True})),
    "largest of some labels, through faces": (
        mt.KeepLargestConnectedComponent([1, 3], connectivity=1),
        rules({"rule": "largest-component", "each": True, "labels": [1, 3], "connectivity": 6}),
    ),
    "largest of labels taken together": (
        mt.KeepLargestConnectedComponent([1, 2], independent=False, connectivity=1),
        rules({"rule": "largest-component", "labels": [1, 2], "connectivity": 6}),
    ),
    "the two largest of each": (
        mt.KeepLargestConnectedComponent(num_components=2),
        rules({"rule": "largest-component", "each": True, "count": 2}),
    ),
    "holes of one label": (
        mt.FillHoles([2]),
        rules({"rule": "fill-holes", "label": 2, "connectivity": 26, "over": "all"}),
    ),
    "holes of all labels, closed by faces": (
        mt.FillHoles(connectivity=1),
        rules(*({"rule": "fill-holes", "label": label, "connectivity": 6, "over": "all"} for label in (1, 2, 3))),
    ),
}


@pytest.mark.parametrize("case", CLEANUPS)
@pytest.mark.parametrize("seed", range(3))
def test_clean_up_is_monais(case: str, seed: int) -> None:
    transform, wanted = CLEANUPS[case]
    labels = blobs(seed)
    expected = np.asarray(transform(torch.from_numpy(labels.copy())[None]))[0]
    parsed = TypeAdapter(tuple[CleanupRule, ...]).validate_python(wanted)
    found = clean(labels, parsed, 1.0)
    assert not np.array_equal(expected, labels)
    assert np.array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:Parameter `min_size` is deprecated:FutureWarning")
@pytest.mark.parametrize("seed", range(3))
def test_small_components_of_a_mask_are_monais(seed: int) -> None:
    mask = (np.random.default_rng(seed).random((15, 18, 15)) < 0.15).astype(np.uint8)
    # Half a voxel less: scikit-image 0.26 also removes what has exactly `min_size` voxels, earlier versions do not.
    for connectivity, ours in ((1, 6), (2, 18), (3, 26)):
        expected = np.asarray(mt.RemoveSmallObjects(4.5, connectivity)(torch.from_numpy(mask.copy())[None]))[0]
        rule = {"rule": "small-components", "label": 1, "fewer_than": 5, "connectivity": ours}
        assert not np.array_equal(expected, mask)
        assert np.array_equal(clean(mask, [TypeAdapter(CleanupRule).validate_python(rule)], 1.0), expected)


def blobs(seed: int) -> np.ndarray:
    """Labels 0 to 3 in pieces, with holes in them, also at the borders."""
    coarse = np.random.default_rng(seed).integers(0, 4, (5, 6, 5))
    labels = np.kron(coarse, np.ones((3, 3, 3))).astype(np.uint8)
    labels[np.random.default_rng(seed + 9).random(labels.shape) < 0.1] = 0
    labels[1:8, 2:9, 3:10] = 2
    labels[3:6, 4:7, 5:8] = [[[0, 1, 3]]]
    return labels

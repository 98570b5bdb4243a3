"""Chains of MONAI's transforms, inferers and post-processing, read from a bundle: MONAI's own run is the oracle.

The network is the same torch network on both sides, so what differs is what the importer made of the chains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from lowres_seg import Segmenter, host
from lowres_seg.errors import ExportError, InputError
from lowres_seg.export.importers import monai_bundle
from lowres_seg.export.loading import load_network

from .conftest import beside

pytest.importorskip("monai")
bundles = beside("monai_bundles")

Chain = list[dict[str, Any]]
RAS = {"_target_": "Orientationd", "axcodes": "RAS"}
SPACING = {"_target_": "Spacingd", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"}
SOFTMAX = {"_target_": "Activationsd", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "argmax": True}
ZSCORE = {"_target_": "NormalizeIntensityd", "nonzero": True}
CROP = {"_target_": "CropForegroundd", "source_key": "image"}
ROI: dict[str, Any] = {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "overlap": 0.5}
SIMPLE: dict[str, Any] = {"_target_": "SimpleInferer"}


def invert(*, nearest: bool) -> dict[str, Any]:
    return {
        "_target_": "Invertd", "transform": "@preprocessing", "orig_keys": "image", "nearest_interp": nearest,
        "to_tensor": True,
    }  # fmt: skip


def keep(**options: Any) -> dict[str, Any]:
    return {"_target_": "KeepLargestConnectedComponentd", **options}


SCORES_BACK = [SOFTMAX, invert(nearest=False), ARGMAX]
#: Transforms of the image, the inferer, transforms of the result; and changes of the network's definition.
CASES: dict[str, tuple[Chain, dict[str, Any], Chain, dict[str, Any]]] = {
    "scores back by linear": ([RAS, SPACING, ZSCORE], ROI, SCORES_BACK, {}),
    "scores back by nearest": ([RAS, SPACING, ZSCORE], ROI, [SOFTMAX, invert(nearest=True), ARGMAX], {}),
    "logits back": ([RAS, SPACING, ZSCORE], ROI, [invert(nearest=False), ARGMAX], {}),
    "activated when back": ([RAS, SPACING, ZSCORE], ROI, [invert(nearest=False), SOFTMAX, ARGMAX], {}),
    "labels back by nearest": (
        [RAS, {**SPACING, "pixdim": [1.1, 1.3, 2.1]}, ZSCORE, {"_target_": "ScaleIntensityd", "minv": -1.0, "maxv": 1.0}],
        {**ROI, "padding_mode": "replicate", "mode": "gaussian", "overlap": [0.25, 0.5, 0.1]},
        [SOFTMAX, ARGMAX, invert(nearest=True)],
        {},
    ),
    "label values interpolated": (
        [RAS, {**SPACING, "pixdim": 1.7}, {"_target_": "ScaleIntensityd"}, {"_target_": "NormalizeIntensityd"}],
        ROI,
        [ARGMAX, keep(applied_labels=[1, 2]), invert(nearest=False)],
        {},
    ),
    "no way back": ([RAS, SPACING, ZSCORE], ROI, [SOFTMAX, ARGMAX], {}),
    "resampled before it is turned": ([SPACING, RAS, ZSCORE], ROI, SCORES_BACK, {}),
    "intensities before the grid": (
        [{"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": 0, "b_max": 1}, RAS, SPACING],
        ROI, SCORES_BACK, {},
    ),
    "spline": ([RAS, {**SPACING, "mode": 3, "padding_mode": "nearest"}, ZSCORE], ROI, SCORES_BACK, {}),
    "crop of the resampled scan": ([RAS, SPACING, CROP, ZSCORE], ROI, SCORES_BACK, {}),
    "crop of the scaled scan": (
        [RAS, SPACING, {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 90, "b_min": -1, "b_max": 1}, CROP],
        ROI, SCORES_BACK, {},
    ),
    "crop before the grid": (
        [{**CROP, "margin": 2, "allow_smaller": True, "select_fn": "$lambda x: x > 20"}, RAS, SPACING, ZSCORE],
        ROI, SCORES_BACK, {},
    ),
    "crop without a grid": ([RAS, {**CROP, "margin": 3, "k_divisible": 8}, ZSCORE], ROI, SCORES_BACK, {}),
    "padded": (
        [RAS, ZSCORE, {"_target_": "SpatialPadd", "spatial_size": [64, 72, 40], "method": "end"}], ROI, SCORES_BACK, {},
    ),
    "divisible": (
        [RAS, {"_target_": "DivisiblePadd", "k": 32}, {**ZSCORE, "subtrahend": 30, "divisor": 20, "nonzero": False}],
        ROI, SCORES_BACK, {},
    ),
    "padded, then divisible": (
        [
            RAS, ZSCORE, {"_target_": "SpatialPadd", "spatial_size": [64, 70, 40], "method": "end"},
            {"_target_": "DivisiblePadd", "k": 16, "method": "end"},
        ],
        ROI, SCORES_BACK, {},
    ),
    "divisible, then padded": (
        [
            RAS, ZSCORE, {"_target_": "DivisiblePadd", "k": 16, "method": "end", "value": 1.5},
            {"_target_": "SpatialPadd", "spatial_size": [48, 80, 48], "method": "end", "value": 1.5},
        ],
        {**ROI, "cval": 1.5}, SCORES_BACK, {},
    ),
    "crop to what is at least a value": (
        [RAS, {**CROP, "select_fn": "$lambda v: v >= 31"}, {**ZSCORE, "nonzero": False}], ROI, SCORES_BACK, {},
    ),
    "crop to what a value is below": (
        [RAS, {**CROP, "select_fn": "$lambda v: 31.5 < v"}, {**ZSCORE, "nonzero": False}], ROI, SCORES_BACK, {},
    ),
    "centre": ([RAS, {"_target_": "CenterSpatialCropd", "roi_size": [40, 45, 30]}, ZSCORE], ROI, SCORES_BACK, {}),
    "one shape": (
        [RAS, {"_target_": "ResizeWithPadOrCropd", "spatial_size": [48, 64, 48]}, ZSCORE], SIMPLE, SCORES_BACK, {},
    ),
    "stretched": (
        [RAS, {"_target_": "Resized", "spatial_size": [48, 48, 32], "mode": "trilinear"}, ZSCORE],
        SIMPLE, SCORES_BACK, {},
    ),
    "stretched, in windows": (
        [RAS, {"_target_": "Resized", "spatial_size": [64, 48, 48], "mode": "area"}, ZSCORE],
        ROI, [ARGMAX, invert(nearest=True)], {},
    ),
    "clean-up on both grids": (
        [RAS, SPACING, ZSCORE],
        ROI,
        [
            SOFTMAX, ARGMAX, {"_target_": "FillHolesd", "applied_labels": [1]}, invert(nearest=True),
            keep(independent=False, connectivity=1), {"_target_": "FillHolesd", "connectivity": 1},
        ],
        {},
    ),
    "clean-up on a grid that is smaller than a window": (
        [RAS, SPACING, ZSCORE],
        {**ROI, "roi_size": [48, 64, 48]},
        [SOFTMAX, ARGMAX, keep(applied_labels=[1, 2]), invert(nearest=True)],
        {},
    ),
    "clipped and thresholded": (
        [
            RAS, {"_target_": "ClipIntensityPercentilesd", "lower": 2, "upper": 97}, SPACING,
            {"_target_": "ThresholdIntensityd", "threshold": 12, "cval": 0}, {**ZSCORE, "nonzero": "True"},
        ],
        ROI, SCORES_BACK, {},
    ),
    "slices": (
        [RAS, SPACING, ZSCORE],
        {"_target_": "SliceInferer", "roi_size": [32, 32], "spatial_dim": 2, "overlap": 0.25},
        SCORES_BACK,
        {"spatial_dims": 2},
    ),
    "slices along the first axis": (
        [RAS, ZSCORE],
        {"_target_": "SliceInferer", "roi_size": [32, 32], "spatial_dim": 0, "mode": "gaussian"},
        SCORES_BACK,
        {"spatial_dims": 2},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of smooth bright blobs in air, stored as PLS, a little oblique."""
    return bundles.blobs(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


def written(folder: Path, case: str, images: Sequence[Path], change: Callable[..., None] = lambda m, i: None) -> Path:
    before, inferer, after, network = CASES[case]

    def edit(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        load = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
        inference["preprocessing"]["transforms"] = load + [{"keys": "image", **one} for one in before]
        inference["inferer"] = inferer
        inference["postprocessing"]["transforms"] = [{"keys": "pred", **one} for one in after]
        change(metadata, inference)

    metadata, inference = bundles.unet(filters=2)
    inference["network_def"] |= {"out_channels": 3, "num_res_units": 1, **network}
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    outputs |= {"num_channels": 3, "channel_def": {"0": "background", "1": "a", "2": "b"}}
    return bundles.write(folder, (metadata, inference), images, edit)


def predicted(folder: Path, images: Sequence[Path]) -> tuple[np.ndarray, Any]:
    recipe = monai_bundle.recipe(folder, monai_bundle.Options())
    source = recipe.networks["net"]
    network = load_network(source, folder / source.file, folder)
    segmenter = Segmenter(recipe, {"segment": [network]}, threads=host.inspect().threads)
    scan: Any = dict(zip(recipe.channels, images, strict=True)) if len(images) > 1 else images[0]
    return segmenter.predict(scan).labels.data, recipe


@pytest.mark.parametrize("case", CASES)
def test_the_label_map_is_monais(case: str, image: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "b", case, [image])
    found, recipe = predicted(folder, [image])
    expected = bundles.predict(folder, [image])[0]
    if case == "no way back":
        assert any("without Invertd MONAI leaves the label map" in note for note in recipe.notes)
        inverted = written(tmp_path / "c", "labels back by nearest", [image], lambda m, i: i.update(same_chains(case)))
        expected = bundles.predict(inverted, [image])[0]
    assert set(np.unique(found)) == {0, 1, 2}
    assert np.mean(found == np.rint(expected)) >= 0.9999
    if case == "label values interpolated":
        assert np.any(expected != np.rint(expected))
        assert any("rounds them to the nearest label" in note for note in recipe.notes)


def test_a_scan_whose_axes_lean_is_refused_where_it_is_resampled(image: Path, tmp_path: Path) -> None:
    stored = nibabel.load(image)
    affine = stored.affine.copy()
    affine[:3, 1] += 0.001 * affine[:3, 0]
    leaning = tmp_path / "leaning.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored.get_fdata(dtype=np.float32), affine), leaning)
    folder = written(tmp_path / "b", "scores back by linear", [image])
    with pytest.raises(InputError, match=r"axes are not at right angles \(they lean by 0\.\d+ voxels\)"):
        predicted(folder, [leaning])


def same_chains(case: str) -> dict[str, Any]:
    """Keys of an inference file that do the same and then invert by nearest."""
    before, inferer, after, _ = CASES[case]
    load = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    return {
        "preprocessing": {"_target_": "Compose", "transforms": load + [{"keys": "image", **one} for one in before]},
        "inferer": inferer,
        "postprocessing": {
            "_target_": "Compose", "transforms": [{"keys": "pred", **one} for one in [*after, invert(nearest=True)]],
        },
    }  # fmt: skip


def test_values_that_are_saved_as_whole_numbers_are_cut_off(image: Path, tmp_path: Path) -> None:
    def save(m: dict[str, Any], i: dict[str, Any]) -> None:
        i["postprocessing"]["transforms"].append(
            {"_target_": "SaveImaged", "keys": "pred", "output_dtype": "$np.uint8"}
        )

    case = "label values interpolated"
    folder = written(tmp_path / "b", case, [image], save)
    found, recipe = predicted(folder, [image])
    expected = bundles.predict(folder, [image])[0]
    assert np.mean(found == np.floor(expected + 1e-4)) >= 0.9999
    assert any("cuts them off to the lower label" in note for note in recipe.notes)


def test_several_image_keys_become_channels(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.nii.gz"
    stored = nibabel.load(image)
    nibabel.save(nibabel.Nifti1Image(np.sqrt(stored.get_fdata(dtype=np.float32)), stored.affine), other)
    keys = ["t1", "t2"]

    def join(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        inference["preprocessing"]["transforms"] = [
            {"_target_": "LoadImaged", "keys": keys, "ensure_channel_first": True},
            {**RAS, "keys": keys},
            {**SPACING, "keys": keys, "mode": ["bilinear", "bilinear"]},
            {**ZSCORE, "keys": "t1"},
            {"_target_": "ScaleIntensityd", "keys": "t2"},
            {"_target_": "ConcatItemsd", "keys": keys, "name": "image", "dim": 0},
            {"_target_": "DeleteItemsd", "keys": keys},
        ]
        inference["network_def"]["in_channels"] = 2
        inference["postprocessing"]["transforms"][1]["orig_keys"] = "image"
        metadata["network_data_format"]["inputs"]["image"] |= {"num_channels": 2, "channel_def": {"0": "T1", "1": "T2"}}

    folder = written(tmp_path / "b", "scores back by linear", [], join)
    recipe = monai_bundle.recipe(folder, monai_bundle.Options())
    assert recipe.channels == ("t1", "t2")
    assert [(rule.rule, rule.channels) for rule in recipe.stages[0].normalise.rules] == [
        ("z-score", ("t1",)),
        ("percentile-scale", ("t2",)),
    ]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([RAS, SPACING, {**SPACING, "pixdim": 2}], SCORES_BACK, "Spacingd: resamples a scan that was resampled"),
        ([RAS, {**SPACING, "scale_extent": True}], SCORES_BACK, "Spacingd: scale_extent is True"),
        ([RAS, {**SPACING, "padding_mode": "reflection"}], SCORES_BACK, "padding_mode is 'reflection': expected border"),
        ([RAS, {**SPACING, "mode": "bicubic"}], SCORES_BACK, "mode is 'bicubic': expected bilinear, nearest or the order"),
        ([RAS, {**CROP, "select_fn": "$lambda x: x.sum() > 0"}], SCORES_BACK, "select_fn"),
        ([RAS, {**CROP, "select_fn": "$lambda x: x < 3"}], SCORES_BACK, "expected $lambda x: x > VALUE, or x >= VALUE"),
        ([RAS, {**CROP, "select_fn": "$lambda x: y >= 3"}], SCORES_BACK, "expected $lambda x: x > VALUE, or x >= VALUE"),
        ([RAS, SPACING, {"_target_": "Resized", "spatial_size": 64, "mode": "trilinear"}], SCORES_BACK, "Resized: stretches a scan that was resampled, cropped or padded before, and a bundle resamples once"),
        ([RAS, {"_target_": "DivisiblePadd", "k": 16}, {"_target_": "SpatialPadd", "spatial_size": 64}], SCORES_BACK, "SpatialPadd: pads a scan that was padded or resized before, where both round their halves"),
        ([RAS, {"_target_": "DivisiblePadd", "k": 16, "method": "end"}, {"_target_": "SpatialPadd", "spatial_size": 70, "method": "end"}], SCORES_BACK, "pads to [70, 70, 70] what was padded to multiples of [16, 16, 16]"),
        ([RAS, {"_target_": "SpatialPadd", "spatial_size": 64, "method": "end"}, {"_target_": "DivisiblePadd", "k": 16, "method": "end", "value": 2}], SCORES_BACK, "DivisiblePadd: pads a scan that was padded or resized before"),
        ([RAS, {"_target_": "SpatialPadd", "spatial_size": 64}, {"_target_": "NormalizeIntensityd"}], SCORES_BACK, "takes statistics of a scan that was padded before"),
        ([RAS, {"_target_": "SpatialPadd", "spatial_size": 16, "mode": "reflect"}], SCORES_BACK, "pads with constant to windows of [32, 32, 32] a scan that was padded otherwise"),
        ([RAS, {"_target_": "Resized", "spatial_size": 64, "mode": "trilinear", "align_corners": True}], SCORES_BACK, "align_corners is True"),
        ([RAS, {"_target_": "GaussianSmoothd", "sigma": 1}], SCORES_BACK, "GaussianSmoothd has no exact counterpart"),
        ([RAS, SPACING], [SOFTMAX, {"_target_": "AsDiscreted", "threshold": 0.5}, invert(nearest=False)], "interpolates several thresholded channels"),
        ([RAS, SPACING], [SOFTMAX, keep(), ARGMAX], "KeepLargestConnectedComponentd: expected behind AsDiscreted"),
        ([RAS, SPACING], [ARGMAX, keep(applied_labels=[7])], "applied_labels names 7, the labels are [1, 2]"),
        ([RAS, SPACING], [ARGMAX, {"_target_": "RemoveSmallObjectsd"}], "RemoveSmallObjectsd: removes components of a map of several labels"),
        ([RAS, SPACING], [SOFTMAX, invert(nearest=True), invert(nearest=True), ARGMAX], "inverts once more"),
        ([RAS, SPACING], [{"_target_": "ProbNMSd"}, ARGMAX], "ProbNMSd has no exact counterpart"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_a_stage_cannot_say_is_refused_by_name(before: Chain, after: Chain, message: str, tmp_path: Path) -> None:
    def change(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        inference["preprocessing"]["transforms"] = [{"keys": "image", **one} for one in before]
        inference["postprocessing"]["transforms"] = [{"keys": "pred", **one} for one in after]

    folder = written(tmp_path / "b", "scores back by linear", [], change)
    with pytest.raises(ExportError) as caught:
        monai_bundle.recipe(folder, monai_bundle.Options())
    assert message in str(caught.value)
    assert "inference.json: " in str(caught.value)
    assert "\n" not in str(caught.value)

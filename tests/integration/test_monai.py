"""MONAI bundles, exported and run, against MONAI's own transforms, inferer and network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lowres_seg import Segmenter
from lowres_seg.bundle.stage import Argmax, Regions
from lowres_seg.bundle.windows import Windows
from lowres_seg.errors import ExportError
from lowres_seg.export import export, importers
from lowres_seg.export.importers import monai_bundle
from lowres_seg.export.recipe import Recipe
from lowres_seg.runtime.normalise import normalise
from lowres_seg.runtime.windows import rows, weights

from .conftest import beside

pytest.importorskip("monai")
bundles = beside("monai_bundles")

Edit = Callable[[dict[str, Any], dict[str, Any]], None]
#: Files of the case, in the order of the published BraTS bundle's channels.
FILES = {"t1c": "t1c", "t1": "t1n", "t2": "t2w", "flair": "t2f"}


@pytest.fixture(scope="session")
def scan(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A box around the tumor of a real case, in four channels, as stored: LPS."""
    folder = tmp_path_factory.mktemp("scan")
    for file in FILES.values():
        image = nibabel.load(realdata / "tumor" / "TCGA-FG-6692" / f"{file}.nii.gz").slicer[48:112, 56:112, 70:110]
        nibabel.save(image, folder / f"{file}.nii.gz")
    return {channel: folder / f"{file}.nii.gz" for channel, file in FILES.items()}


def _recipe(folder: Path) -> Recipe:
    return monai_bundle.recipe(folder, monai_bundle.Options())


def _agrees(folder: Path, images: dict[str, Path], target: Path, at_least: float = 0.9999) -> np.ndarray:
    """Label map of the exported bundle, which must be MONAI's own."""
    expected = bundles.predict(folder, list(images.values()))
    export(folder, target)
    given: Any = images if len(images) > 1 else next(iter(images.values()))
    found = Segmenter.load(target).predict(given).labels.data
    assert len(expected) == 1
    agreement = (found == expected[0]).mean()
    assert agreement >= at_least, f"{agreement:.6%} of {found.size} voxels"
    return found


def test_the_published_brats_bundle_is_read(tmp_path: Path) -> None:
    recipe = _recipe(bundles.write(tmp_path / "brats", bundles.brats()))
    assert recipe.channels == ("t1c", "t1", "t2", "flair")
    assert recipe.bundle.name == "brats-mri-segmentation"
    assert recipe.bundle.version == "0.5.3"
    stage = recipe.stages[0]
    assert stage.windows == Windows(roi_size=(240, 240, 160), overlap=0.5, weights="constant", rules="monai")
    assert (stage.conform.orientation, stage.conform.pad) == ("stored", "zero")
    assert [rule.model_dump(exclude_defaults=True) for rule in stage.normalise.rules] == [{"voxels": "nonzero"}]
    assert isinstance(stage.decode, Regions)
    assert [(region.channel, region.label) for region in stage.decode.regions] == [(1, 2), (0, 1), (2, 4)]
    assert {region.name: region.labels for region in recipe.regions} == {
        "wt": (1, 2, 3, 4), "tc": (1, 3, 4), "et": (3, 4),
    }  # fmt: skip
    source = recipe.networks["net"]
    assert (source.checkpoint, source.factory, source.checkpoint_key) == ("models/model.pt", "monai:SegResNet", None)
    assert source.arguments["blocks_down"] == [1, 2, 2, 4]


def test_segresnet_and_sigmoid_regions(tmp_path: Path, scan: dict[str, Path]) -> None:
    # The last axis of the scan is shorter than a window, so it is padded.
    folder = bundles.write(tmp_path / "brats", bundles.brats((48, 40, 48), 8), list(scan.values()))
    labels = _agrees(folder, scan, tmp_path / "out")
    assert set(np.unique(labels)) == {0, 1, 2, 4}


def test_unet_and_argmax(tmp_path: Path, scan: dict[str, Path]) -> None:
    images = {"image": scan["flair"]}
    folder = bundles.write(tmp_path / "unet", bundles.unet((48, 48, 32), 4), list(images.values()))
    labels = _agrees(folder, images, tmp_path / "out")
    assert 0.05 < labels.mean() < 0.95
    assert labels.max() == 1


def test_swin_unetr_without_its_img_size(tmp_path: Path, scan: dict[str, Path]) -> None:
    images = {"image": scan["t1"]}
    # Two blocks at first: the second shifts its windows of 7³, on 32 x 32 x 16 features.
    folder = bundles.write(tmp_path / "swin", bundles.swin_unetr((64, 64, 32), 12, (2, 1, 1, 1)), list(images.values()))
    # Instance norms over its deepest 2 x 2 x 1 features magnify what rounding does; voxels near a tie may flip.
    labels = _agrees(folder, images, tmp_path / "out", at_least=0.9998)
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_channels_of_brats_are_painted_as_its_lambda_does(tmp_path: Path) -> None:
    plain = _recipe(bundles.write(tmp_path / "a", bundles.brats(filters=8, paint=False)))
    painted = _recipe(bundles.write(tmp_path / "b", bundles.brats(filters=8)))
    assert plain == painted


def test_torchscript_alone_is_taken(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "b", bundles.brats(filters=8))
    (folder / "models" / "model.pt").unlink()
    (folder / "models" / "model.ts").touch()
    assert _recipe(folder).networks["net"].torchscript == "models/model.ts"


def test_a_checkpoint_that_holds_more_is_looked_into(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "b", bundles.brats(filters=8))
    path = folder / "models" / "model.pt"
    torch.save({"model": torch.load(path, weights_only=True), "epoch": 3}, path)
    assert _recipe(folder).networks["net"].checkpoint_key == "model"


#: What a bundle may do to intensities, in one channel.
INTENSITIES: list[dict[str, Any]] = [
    {"_target_": "NormalizeIntensityd"},
    {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True},
    {"_target_": "NormalizeIntensityD", "subtrahend": 120, "divisor": 55.5},
    {"_target_": "monai.transforms.NormalizeIntensityd", "subtrahend": [100], "channel_wise": True, "divisor": [7]},
    {"_target_": "ScaleIntensityd"},
    {"_target_": "ScaleIntensityd", "minv": -1.0, "maxv": 2.0, "channel_wise": True},
    {"_target_": "ScaleIntensityd", "minv": None, "maxv": None, "factor": 0.25},
    {"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 300},
    {"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 300, "b_min": -1, "b_max": 1},
    {"_target_": "ScaleIntensityRanged", "a_min": 10, "a_max": 300, "b_min": 0.0, "b_max": 2.0, "clip": True},
    {"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": None, "b_max": None},
    {"_target_": "ScaleIntensityRangePercentilesd", "lower": 5, "upper": 90, "b_min": -1, "b_max": 1, "clip": True},
    {"_target_": "ScaleIntensityRangePercentilesd", "lower": 5, "upper": 90, "b_min": 0, "b_max": 1, "relative": True},
    {
        "_target_": "ScaleIntensityRangePercentilesd", "lower": 5, "upper": 90, "b_min": 0, "b_max": 1, "clip": True,
        "relative": True, "channel_wise": True,
    },
]  # fmt: skip


@pytest.mark.parametrize("transform", INTENSITIES, ids=lambda t: " ".join(map(str, t.values())))
def test_intensities_are_monais(tmp_path: Path, transform: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.transforms

    def edit(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        inference["preprocessing"]["transforms"][3] = {"keys": "image", **transform}

    (stage,) = _recipe(bundles.write(tmp_path / "b", bundles.unet(filters=2), edit=edit)).stages
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, 80.0, (1, 20, 21, 22)).astype(np.float32).round() * (rng.random((1, 20, 21, 22)) > 0.4)
    kind = getattr(monai.transforms, transform["_target_"].rpartition(".")[2])
    made = kind(keys="image", **{key: value for key, value in transform.items() if key != "_target_"})
    expected = np.asarray(made({"image": torch.from_numpy(x.astype(np.float32))})["image"])
    found = x.astype(np.float32)
    normalise(found, stage.normalise.rules, {}, ["image"])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_windows_are_monais(mode: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.data.utils import compute_importance_map, dense_patch_slices
        from monai.inferers.utils import _get_scan_interval
    rng = np.random.default_rng(0)
    for _ in range(60):
        roi = tuple(map(int, rng.integers(1, 40, 3)))
        size = tuple(map(int, np.maximum(rng.integers(1, 100, 3), roi)))
        overlap, sigma = float(rng.choice([0, 0.1, 0.25, 0.5, 0.625, 0.7, 0.8])), float(rng.choice([0.125, 0.25]))
        windows = Windows(roi_size=roi, overlap=overlap, weights=mode, sigma_scale=sigma, rules="monai")
        slices = dense_patch_slices(size, roi, _get_scan_interval(size, roi, 3, (overlap,) * 3))
        expected = sorted(tuple(s.start for s in window) for window in slices)
        assert sorted(at for row, _ in rows(size, windows) for at in row) == expected
        importance = compute_importance_map(roi, mode=mode, sigma_scale=sigma).numpy()
        np.testing.assert_allclose(weights(windows), importance, rtol=1e-5)


def _before(*transforms: dict[str, Any], at: int = 1) -> Edit:
    """Put transforms of the image in."""
    return lambda m, i: i["preprocessing"]["transforms"].__setitem__(
        slice(at, at), [{"keys": "image", **one} for one in transforms]
    )


def _after(place: int, **changes: Any) -> Edit:
    return lambda m, i: i["postprocessing"]["transforms"][place].update(changes)


def _normalize(**changes: Any) -> Edit:
    return lambda m, i: i["preprocessing"]["transforms"][1].update(changes)


def _inferer(**changes: Any) -> Edit:
    return lambda m, i: i["inferer"].update(changes)


def _simple(m: dict[str, Any], i: dict[str, Any]) -> None:
    i["inferer"] = {"_target_": "SimpleInferer"}


def _pred(m: dict[str, Any], names: dict[str, str]) -> None:
    m["network_data_format"]["outputs"]["pred"]["channel_def"] = names


#: Configs that cannot be expressed: an edit of the published BraTS bundle, and what the one line must say.
BAD: dict[str, tuple[Edit, str]] = {
    "code of the bundle": (_before({"_target_": "scripts.transforms.Mine"}), "preprocessing#transforms#1 scripts.transforms.Mine is code of the bundle, and no code of a bundle is run"),
    "unknown argument": (_before({"_target_": "LoadImaged", "as_closest_canonical": True}), "LoadImaged: its argument as_closest_canonical = True has no exact counterpart"),
    "another reader": (_before({"_target_": "LoadImaged", "reader": "PydicomReader"}), "LoadImaged: reader is 'PydicomReader', which has no exact counterpart"),
    "expression": (_normalize(nonzero="$open('x')"), "preprocessing#transforms#1#nonzero is the expression \"$open('x')\", which calls open; no code of a bundle is run"),
    "reference to nothing": (_normalize(nonzero="@missing"), "nonzero refers to @missing, which leads to no value"),
    "reference to itself": (lambda m, i: (i.update(loop="@loop"), _normalize(nonzero="@loop")(m, i)), "loop refers to @loop, which refers to itself"),
    "one constant alone": (_normalize(nonzero=False, divisor=2), "one constant alone"),
    "a constant too few": (_normalize(nonzero=False, subtrahend=[1, 2, 3], divisor=[1, 2, 3]), "with channel_wise 4 each"),
    "one end clipped": (_before({"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 1, "b_min": 0, "clip": True}), "clips to one end"),
    "no range": (_before({"_target_": "ScaleIntensityRanged", "a_min": 1, "a_max": 1}), "a_min and a_max are both 1"),
    "percentiles the wrong way": (_before({"_target_": "ScaleIntensityRangePercentilesd", "lower": 9, "upper": 2, "b_min": 0, "b_max": 1, "channel_wise": True}), "lower percentile 9.0 is not below upper 2.0"),
    "letters that are none": (_before({"_target_": "Orientationd", "axcodes": "RRS"}), "axcodes 'RRS'"),
    "letters with other meanings": (_before({"_target_": "Orientationd", "axcodes": "RAS", "labels": [["R", "L"], ["A", "P"], ["S", "I"]]}), "expected letters such as RAS, and no labels"),
    "another item deleted": (_before({"_target_": "DeleteItemsd"}), "DeleteItemsd: deletes image"),
    "disabled by an expression": (_normalize(_disabled_="$f()"), "_disabled_ is the expression '$f()', which calls f"),
    "an expression for a chain": (lambda m, i: i.update(preprocessing="$@a + @b"), "preprocessing refers to @a, which leads to no value"),
    "a chain in random order": (lambda m, i: i["preprocessing"].update(_target_="RandomOrder"), "expected a Compose of transforms"),
    "another chain in use": (lambda m, i: i["dataset"].update(transform="@other"), "dataset#transform refers to @other, which leads to no value"),
    "no target": (_normalize(_target_=None), "preprocessing#transforms#1: expected an object with a _target_"),
    "another activation": (_after(0, other="$torch.tanh"), "#other is the expression '$torch.tanh', which uses torch.tanh"),
    "two activations": (_after(0, softmax=True), "expected one activation"),
    "inverted from elsewhere": (_after(1, transform="@other"), "transforms#1#transform refers to @other, which leads to no value"),
    "inverted from another chain": (_after(1, transform="@postprocessing#transforms#0"), "Invertd: inverts something other than the preprocessing"),
    "argmax and threshold": (_after(2, argmax=True), "expected either argmax or a threshold"),
    "one-hot of a threshold": (_after(2, to_onehot=3), "to_onehot is 3: expected 3, with argmax"),
    "no decision": (lambda m, i: i["postprocessing"]["transforms"].__delitem__(slice(2, 4)), "has no AsDiscreted, so the result would be scores"),
    "code": (_after(3, func="$__import__('os').system('touch evil')"), "transforms#3#func is the expression \"$__import__('os').system('touch evil')\", which calls the method system; no code"),
    "code in a choice": (_after(3, func="$lambda x: torch.where(x[[0]] > 0, evil(), 0)"), "no code of a bundle is run"),
    "channel that is none": (_after(3, func="$lambda x: torch.where(x[[3]] > 0, 1, 0)"), "Lambdad: takes channel 3, the network gives 3"),
    "label out of range": (_after(3, func="$lambda x: torch.where(x[[0]] > 0, 900, 0)"), "only a choice of labels such as"),
    "component of one of several": (_after(3, _target_="KeepLargestConnectedComponentd", func="$0"), "KeepLargestConnectedComponentd: its argument func"),
    "scaled result": (_after(4, scale=255), "SaveImaged: scale is 255"),
    "overlapping channels": (lambda m, i: (i["postprocessing"]["transforms"].pop(3), _pred(m, {"0": "a", "1": "b", "2": "c"})), "thresholds 3 channels, which may overlap"),
    "window of any size": (_inferer(roi_size=[96, 96, -1]), "roi_size is [96, 96, -1]: expected three sizes"),
    "window of two axes": (_inferer(roi_size=[96, 96]), "roi_size is [96, 96]: expected three sizes"),
    "another inferer": (_inferer(_target_="SaliencyInferer"), "inferer SaliencyInferer: has no exact counterpart"),
    "an unknown padding": (_inferer(padding_mode="linear_ramp"), "mode is 'linear_ramp': expected constant, replicate, reflect or circular"),
    "whole scans where patches were trained": (lambda m, i: (_simple(m, i), m["network_data_format"]["inputs"]["image"].update(spatial_shape=[8, 8, 8])), "takes the whole scan, whatever its shape, and metadata.json says is_patch_data"),
    "an evaluator in training": (lambda m, i: i["evaluator"].update(mode="train"), "evaluator#mode is train, and a bundle evaluates"),
    "a reader with arguments": (_before({"_target_": "LoadImaged", "reader": {"_target_": "NibabelReader", "as_closest_canonical": True}}), "expected NibabelReader or ITKReader without arguments"),
    "a lazy chain": (lambda m, i: i["preprocessing"].update(lazy=True), "preprocessing: lazy is True; expected false"),
    "copies that are joined": (lambda m, i: i["preprocessing"]["transforms"].extend([{"_target_": "CopyItemsd", "keys": "image", "names": "z"}, {"_target_": "ConcatItemsd", "keys": ["image", "z"], "name": "image"}]), "ConcatItemsd: joins z, which is no image as it was read"),
    "weights loaded by an expression": (lambda m, i: (i.pop("handlers"), i["evaluator"].pop("val_handlers"), i.update(initialize=["$@network_def.load_state_dict(torch.load('models/best.pt'))"])), "loads weights by the expression"),
    "whole scans of any shape": (_simple, "takes scans of any shape, a bundle one shape or windows"),
    "another inferer in use": (lambda m, i: i["evaluator"].update(inferer="@other"), "evaluator#inferer refers to @other, which leads to no value"),
    "network of the bundle": (lambda m, i: i["network_def"].update(_target_="scripts.networks.Mine"), "network_def is scripts.networks.Mine, which is not of monai.networks.nets"),
    "no network": (lambda m, i: [i.pop(key) for key in ("network_def", "network", "evaluator")], "has no network_def; put the network as TorchScript into models/model.ts"),
    "network by expression": (lambda m, i: i["network_def"].update(init_filters="$int(input())"), "network_def#init_filters is the expression '$int(input())', which calls input; no code"),
    "another count of channels": (lambda m, i: i["network_def"].update(in_channels=1), "channel_def names T1 beyond the 1 channels that the network takes"),
    "network of slices": (lambda m, i: i["network_def"].update(spatial_dims=2), "network_def: the network takes slices, and windows are (240, 240, 160)"),
    "a channel too many": (lambda m, i: _pred(m, {"0": "TC", "1": "WT", "2": "ET", "3": "x"}), "metadata.json: network_data_format.outputs.pred: channel_def names x beyond the 3 channels that the network gives"),
    "an evaluator of its own": (lambda m, i: i["evaluator"].update(_target_="scripts.Evaluator"), "evaluator: the evaluator is scripts.Evaluator, expected MONAI's SupervisedEvaluator"),
    "batches of its own": (lambda m, i: i["evaluator"].update(prepare_batch="$scripts.batch"), "evaluator#prepare_batch is '$scripts.batch', which changes what the network is given"),
    "a function for a transform": (_normalize(_mode_="callable"), "_mode_ is 'callable', expected default"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path: Path, case: str) -> None:
    edit, message = BAD[case]
    folder = bundles.write(tmp_path / "b", bundles.brats(filters=8), edit=edit)
    with pytest.raises(ExportError) as caught:
        _recipe(folder)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "given", [{"folds": ("0",)}, {"mirror": False}, {"orientation": "RAS"}, {"plans_network": True}]
)
def test_options_of_nnunet_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    folder = bundles.write(tmp_path / "b", bundles.brats(filters=8))
    with pytest.raises(
        ExportError,
        match=f"is a MONAI bundle.*{next(iter(given))} is no option of it but of a results folder of nnU-Net",
    ):
        importers.read(folder, given)


def test_files_that_are_missing_or_no_json(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path / "b", bundles.brats(filters=8))
    config = folder / "configs" / "inference.json"
    for name in ("model.pt", "none"):
        (folder / "models" / name).unlink(missing_ok=True)
    with pytest.raises(
        ExportError, match=r"models/model\.pt: is missing, and so is models/model\.ts; models has nothing"
    ):
        _recipe(folder)
    config.write_text("[1]")
    with pytest.raises(ExportError, match=r"inference\.json: is list, expected a JSON object"):
        _recipe(folder)
    config.write_text("{")
    with pytest.raises(ExportError, match=r"inference\.json: cannot be read as JSON"):
        _recipe(folder)
    config.unlink()
    with pytest.raises(ExportError, match=r"inference\.json: is missing; expected the folder of a MONAI bundle"):
        _recipe(tmp_path)


def test_whole_scans_of_one_shape(tmp_path: Path) -> None:
    def edit(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        inference["inferer"] = {"_target_": "SimpleInferer"}
        metadata["network_data_format"]["inputs"]["image"] |= {"spatial_shape": [64, 48, 32], "is_patch_data": False}

    (stage,) = _recipe(bundles.write(tmp_path / "b", bundles.brats(filters=8), edit=edit)).stages
    assert stage.windows is None
    assert stage.conform.shape == (64, 48, 32)
    assert stage.conform.spacing_mm == (None, None, None)


def test_the_weights_are_those_of_the_last_loader_that_is_not_switched_off(tmp_path: Path) -> None:
    def edit(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        (loader, *others) = inference["handlers"]
        first = {**loader, "load_path": "$@bundle_root + '/models/pretrained.pt'"}
        inference["fresh"] = True
        off = {**loader, "load_path": "$@bundle_root + '/models/off.pt'", "_disabled_": "@fresh"}
        inference["handlers"] = [first, loader, off, *others]

    recipe = _recipe(bundles.write(tmp_path / "b", bundles.unet(filters=2), edit=edit))
    assert recipe.networks["net"].checkpoint == "models/model.pt"


def test_the_largest_component_of_one_label(tmp_path: Path) -> None:
    def edit(metadata: dict[str, Any], inference: dict[str, Any]) -> None:
        keep = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
        inference["postprocessing"]["transforms"].insert(3, keep)

    (stage,) = _recipe(bundles.write(tmp_path / "b", bundles.unet(filters=2), edit=edit)).stages
    assert [(rule.rule, rule.connectivity) for rule in stage.cleanup] == [("largest-component", 26)]
    assert isinstance(stage.decode, Argmax)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Nothing", {}, "Nothing is no network of monai.networks.nets"),
        ("torch", {}, "torch is no network of monai.networks.nets"),
        ("SegResNet", {"surprise": 1}, "SegResNet of the installed MONAI takes no surprise"),
        ("UNet", {"spatial_dims": 3}, "UNet cannot be built from its arguments"),
    ],
)
def test_networks_that_monai_does_not_build(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        monai_bundle.network(name, arguments)

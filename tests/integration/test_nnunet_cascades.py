"""nnU-Net's cascades and ensembles: several folders in one bundle, against nnU-Net's own predictor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.bundle.rules import ZScore
from lowres_seg.bundle.stage import Stage
from lowres_seg.errors import ExportError
from lowres_seg.export import Options, export, importers
from lowres_seg.export.importers import nnunet
from lowres_seg.runtime import stage_input, stage_run
from lowres_seg.runtime.scan_state import ScanState, StageResult

from .conftest import beside

pytest.importorskip("nnunetv2")
folders = beside("nnunet_folders")
pytestmark = pytest.mark.filterwarnings("ignore")

BEFORE, AFTER = "nnUNetTrainer__nnUNetPlans__3d_lowres", "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
PLAIN = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
CASES: dict[str, dict[str, Any]] = {
    "plain labels, one to ignore, and a mask": {
        "channels": ("T1", "T2"), "labels": PLAIN | {"ignore": 4}, "use_mask_for_norm": [True, True],
    },
    "regions, resampled in torch": {
        "channels": ("T1", "T2"), "labels": REGIONS, "regions_class_order": (2, 3, 1), "resampling": "all in torch",
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cascade:
    """Two folders, what nnU-Net predicts with the first, and the bundle of both."""

    files: list[Path]
    before: Path
    after: Path
    labels_before: np.ndarray
    bundle: Bundle


@pytest.fixture(scope="module")
def scan(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every fourth voxel of a case with a tumor, in two channels."""
    home = tmp_path_factory.mktemp("scan")
    files = []
    for name in ("t1n", "t2w"):
        image = nibabel.load(realdata / "tumor" / "TCGA-FG-6692" / f"{name}.nii.gz")
        files.append(home / f"{name}.nii.gz")
        nibabel.save(image.slicer[::4, ::4, ::4], files[-1])
    return files


@pytest.fixture(scope="module")
def cascade(scan: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Cascade]:
    done: dict[str, Cascade] = {}

    def make(name: str) -> Cascade:
        if name not in done:
            home = tmp_path_factory.mktemp("cascade")
            common = {**CASES[name], "features": (4, 8, 16), "example": scan, "mirroring": (2,)}
            low = folders.make_folder(
                home / BEFORE, configuration="3d_lowres", patch_size=(16, 16, 16), spacing=(9, 9, 9), **common
            )
            labels = folders.predict_with_nnunet(low, scan, mirroring=True, out=home / "before.nii.gz")
            full = folders.make_folder(
                home / AFTER, configuration="3d_cascade_fullres", refines="3d_lowres", seed=3,
                previous=home / "before.nii.gz", patch_size=(16, 24, 24), spacing=(5, 6, 5), **common,
            )  # fmt: skip
            done[name] = Cascade(scan, low, full, labels, export(full, home / "bundle"))
        return done[name]

    return make


def results(it: Cascade) -> dict[str, np.ndarray]:
    """Labels of each stage of the bundle on the scan's grid."""
    volumes = [Volume.load(file) for file in it.files]
    segmenter = Segmenter.load(it.bundle.path)
    state = ScanState.before(segmenter.pipeline.stages, volumes, segmenter.pipeline.channels)
    for stage in segmenter.pipeline.stages:
        state.results[stage.name] = stage_run.run(stage, segmenter._engines[stage.name], state, threads=2)
    return state.on_scan


@pytest.mark.parametrize("case", CASES)
def test_both_stages_give_nnunets_labels(cascade: Callable[[str], Cascade], tmp_path: Path, case: str) -> None:
    """nnU-Net's second stage refines the bundle's first: a voxel that differs there moves scores around it."""
    it = cascade(case)
    found = results(it)
    assert (found["lowres"] == it.labels_before).mean() >= 0.9999
    image = nibabel.load(it.files[0])
    expected = {}
    for name, labels in (("ours", found["lowres"]), ("nothing", np.zeros_like(it.labels_before))):
        nibabel.save(nibabel.Nifti1Image(labels, image.affine), tmp_path / f"{name}.nii.gz")
        expected[name] = folders.predict_with_nnunet(
            it.after, it.files, mirroring=True, previous=tmp_path / f"{name}.nii.gz"
        )
    assert np.unique(expected["ours"], return_counts=True)[1].min() > 100
    assert (found["fullres"] == expected["ours"]).mean() >= 0.9999
    assert (expected["nothing"] == expected["ours"]).mean() < 0.99, "the first stage makes a difference"
    scan = dict(zip(it.bundle.manifest.channels, it.files, strict=True))
    assert np.array_equal(Segmenter.load(it.bundle.path).predict(scan).labels.data, found["fullres"])


def test_the_manifest_has_both_stages(cascade: Callable[[str], Cascade]) -> None:
    manifest = cascade("plain labels, one to ignore, and a mask").bundle.manifest
    assert manifest.schema_version == 3
    assert list(manifest.networks) == ["lowres-fold-0", "fullres-fold-0"]
    low, full = manifest.stages
    assert (low.name, full.name) == ("lowres", "fullres")
    assert low.mirror_axes == full.mirror_axes == (2,)
    assert [mask.labels for mask in full.mask_channels] == [(1,), (2,), (3,)]
    assert {mask.stage for mask in full.mask_channels} == {"lowres"}
    assert {rule.inside_also for rule in full.normalise.rules if isinstance(rule, ZScore)} == {"lowres"}
    assert manifest.networks["fullres-fold-0"].input_shape[1] == 5


def test_a_cascade_is_read_again_with_the_folds_of_each_stage(cascade: Callable[[str], Cascade]) -> None:
    it = cascade("plain labels, one to ignore, and a mask")
    again = importers.read_again(it.after, list(it.bundle.manifest.networks))
    assert again.recipe.stages == it.bundle.manifest.stages
    options = nnunet.options_again(["lowres-fold-all", "fullres-fold-0", "fullres-fold-1"])
    assert (list(options.folds), list(options.previous_folds)) == (["0", "1"], ["all"])


@pytest.fixture
def copied(cascade: Callable[[str], Cascade], tmp_path: Path) -> Path:
    """Both folders, to change."""
    it = cascade("plain labels, one to ignore, and a mask")
    for folder in (it.before, it.after):
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_previous_folder_may_lie_elsewhere(copied: Path) -> None:
    expected = importers.read(copied / AFTER, {}).recipe
    (copied / BEFORE).rename(copied / "elsewhere")
    with pytest.raises(ExportError, match=f"{BEFORE} is not beside it; name its folder with --previous"):
        importers.read(copied / AFTER, {})
    named = importers.read(copied / AFTER, {"previous": str(copied / "elsewhere")})
    assert named.recipe.stages == expected.stages
    assert (named.home / named.recipe.networks["lowres-fold-0"].file).samefile(
        copied / "elsewhere" / "fold_0" / "checkpoint_final.pth"
    )
    with pytest.raises(ExportError, match=r"refines no other configuration; leave out --previous"):
        importers.read(copied / "elsewhere", {"previous": str(copied / AFTER)})
    with pytest.raises(ExportError, match="was trained in 3d_cascade_fullres, expected 3d_lowres"):
        shutil.copytree(copied / AFTER, copied / "again")
        edit(copied / "again" / "plans.json", lambda c: c["configurations"]["3d_cascade_fullres"].pop("previous_stage"))
        importers.read(copied / AFTER, {"previous": str(copied / "again")})


def test_folders_that_do_not_go_together_are_refused(copied: Path) -> None:
    plans = copied / AFTER / "plans.json"
    whole = plans.read_text()

    def plan(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda content: content["configurations"]["3d_cascade_fullres"].update({key: value})

    for change, message in (
        (plan("previous_stage", "3d_cascade_fullres"), "refines 3d_cascade_fullres, which refines"),
        (plan("resampling_fn_seg", "mine"), "seg is resampled by mine, expected resample_data_or_seg_to_shape"),
        (
            plan("resampling_fn_seg_kwargs", {"is_seg": True, "order": 1, "order_z": 1, "force_separate_z": None}),
            "with order_z 1, expected 0",
        ),
        (
            plan("resampling_fn_seg_kwargs", {"is_seg": True, "order": 1, "force_separate_z": False}),
            "data and seg are resampled by different rules",
        ),
    ):
        plans.write_text(whole)
        edit(plans, change)
        with pytest.raises(ExportError, match=message) as caught:
            importers.read(copied / AFTER, {})
        assert "\n" not in str(caught.value)
    plans.write_text(whole)
    edit(copied / BEFORE / "dataset.json", lambda content: content.update(channel_names={"0": "T1", "1": "CT"}))
    with pytest.raises(ExportError, match="its channels are t1, ct, those of .* are t1, t2; expected folders of one"):
        export(copied / AFTER, copied / "out", options=Options(mirror=False))
    assert not (copied / "out").exists()


#: How label maps are resampled, the spacing they are resampled to, and the scan's own.
GRIDS: dict[str, tuple[str, dict[str, Any], tuple[float, float, float]]] = {
    "twice as fine": ("default", {}, (1.0, 1.0, 1.0)),
    "halved": ("default", {}, (4.0, 4.0, 4.0)),
    "odd ratios": ("default", {}, (2.9, 1.7, 2.4)),
    "thick slices": ("default", {}, (9.0, 1.7, 1.3)),
    "nearest": ("default", {"order": 0}, (1.3, 3.1, 2.2)),
    "cubic": ("default", {"order": 3}, (2.9, 1.7, 2.4)),
    "in torch": ("all in torch", {}, (1.0, 1.3, 2.5)),
    "thick slices in torch": ("all in torch", {}, (9.0, 1.7, 1.0)),
}


@pytest.mark.parametrize("case", GRIDS)
def test_networks_see_the_labels_that_nnunets_preprocessing_makes(tmp_path: Path, case: str) -> None:
    """Voxel for voxel, of labels that meet at random, in a scan with background that nnU-Net takes for none."""
    resampling, keywords, spacing = GRIDS[case]
    folder, image, labels = preprocessed_case(tmp_path, resampling, keywords, spacing)
    recipe = nnunet.recipe(folder, nnunet.Options(previous=str(tmp_path / BEFORE)))
    volume = Volume.load(image)
    state = ScanState.before(recipe.stages, [volume], recipe.channels)
    state.results["lowres"] = StageResult(None, None, np.asarray(nibabel.load(labels).dataobj))
    stage: Stage = recipe.stages[-1]
    placed = stage_run.place(stage, state)
    assert placed is not None
    placed, x = stage_input.prepared(placed, state, 1)
    i, j, k = placed.fit.inner
    expected = folders.preprocessed(folder, "3d_cascade_fullres", [image], labels)
    assert expected[1:].any(axis=(1, 2, 3)).all()
    assert np.array_equal(x[1:, i, j, k], expected[1:])
    # a label beyond the head counts for the mean of what is inside it
    assert np.abs(x[0, i, j, k] - expected[0]).max() < (1e-4 if resampling == "default" else 1e-3)


def preprocessed_case(
    home: Path, resampling: str, keywords: dict[str, Any], spacing: tuple[float, float, float]
) -> tuple[Path, Path, Path]:
    """A cascade's folder without weights, a scan, and labels of its previous stage."""
    rng = np.random.default_rng(0)
    data = rng.uniform(1, 2, (18, 22, 20)).astype(np.float32)
    data[:4] = data[:, :, 15:] = 0
    blocks = rng.integers(0, 4, (9, 11, 10)).repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(np.uint8)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image, labels = home / "scan.nii.gz", home / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, affine), image)
    nibabel.save(nibabel.Nifti1Image(blocks, affine), labels)
    common: dict[str, Any] = {"channels": ("T1",), "labels": PLAIN, "use_mask_for_norm": [True], "folds": ()}
    for name, configuration, refines in ((BEFORE, "3d_lowres", None), (AFTER, "3d_cascade_fullres", "3d_lowres")):
        folders.make_folder(
            home / name, configuration=configuration, refines=refines, patch_size=(8, 8, 8), spacing=spacing,
            resampling=resampling, resampling_keywords={"seg": keywords}, features=(2, 4), **common,
        )  # fmt: skip
        known = {
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": configuration},
            "network_weights": {},
        }
        (home / name / "fold_0").mkdir()
        torch.save(known, home / name / "fold_0" / "checkpoint_final.pth")
    return home / AFTER, image, labels


# -- ensembles ---------------------------------------------------------------------------------------------------------

ENSEMBLES: dict[str, dict[str, Any]] = {
    "plain": {"channels": ("T1", "T2"), "labels": PLAIN},
    "regions": {"channels": ("T1", "T2"), "labels": REGIONS, "regions_class_order": (1, 2, 3)},
}


@pytest.fixture(scope="module")
def ensemble(scan: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a data set with two trained configurations and a third without a checkpoint."""
    done: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in done:
            home = tmp_path_factory.mktemp("ensemble") / "Dataset999_Seeded"
            common = {**ENSEMBLES[name], "features": (4, 8, 16), "example": scan}
            for configuration, patch, spacing, seed in (
                ("2d", (32, 32), (5, 6), 1),
                ("3d_fullres", (16, 24, 24), (5, 6, 5), 2),
            ):
                folders.make_folder(
                    home / f"nnUNetTrainer__nnUNetPlans__{configuration}", configuration=configuration,
                    patch_size=patch, spacing=spacing, seed=seed, **common,
                )  # fmt: skip
            done[name] = home
        return done[name]

    return make


@pytest.mark.parametrize("case", ENSEMBLES)
def test_configurations_are_averaged_as_nnunet_averages_them(
    ensemble: Callable[[str], Path], scan: list[Path], tmp_path: Path, case: str
) -> None:
    from nnunetv2.ensembling.ensemble import average_probabilities
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    home, files, single = ensemble(case), [], []
    for configuration in ("2d", "3d_fullres"):
        files.append(tmp_path / f"{configuration}.npz")
        folder = home / f"nnUNetTrainer__nnUNetPlans__{configuration}"
        single.append(folders.predict_with_nnunet(folder, scan, probabilities=files[-1]))
    dataset = json.loads((home / "nnUNetTrainer__nnUNetPlans__2d" / "dataset.json").read_text())
    manager = LabelManager(dataset["labels"], dataset.get("regions_class_order"))
    expected = manager.convert_probabilities_to_segmentation(average_probabilities([str(f) for f in files])).T
    bundle = export(home, tmp_path / "out", options=Options(configurations=("2d", "3d_fullres"), mirror=False))
    manifest = bundle.manifest
    assert [(stage.name, stage.mean_with) for stage in manifest.stages] == [("2d", ()), ("3d_fullres", ("2d",))]
    found = Segmenter.load(bundle.path).predict(dict(zip(manifest.channels, scan, strict=True))).labels.data
    assert np.unique(expected, return_counts=True)[1].min() > 100
    assert (found == expected).mean() >= 0.9999
    assert all((found == one).mean() < 0.99 for one in single), "it is neither of the two alone"
    again = importers.read_again(home, list(manifest.networks))
    assert [stage.networks for stage in again.recipe.stages] == [stage.networks for stage in manifest.stages]
    assert importers.digest(home) == manifest.lineage.recipe


def test_the_configurations_named_must_be_there(ensemble: Callable[[str], Path]) -> None:
    home = ensemble("plain")
    with pytest.raises(ExportError, match="holds 2 trained configurations; name one of them: .*--configurations"):
        importers.read(home, {})
    for names in (["2d", "3d_lowres"], ["2d", "2d"]):
        with pytest.raises(ExportError, match=f"--configurations names {names[1]}, expected different names"):
            importers.read(home, {"configurations": names})
    one = importers.read(home, {"configurations": ["2d"]}).recipe
    assert [stage.name for stage in one.stages] == ["segment"]
    assert one.stages == importers.read(home / "nnUNetTrainer__nnUNetPlans__2d", {}).recipe.stages
    with pytest.raises(ExportError, match="--configurations names 2d, .* there are none"):
        importers.read(home / "nnUNetTrainer__nnUNetPlans__2d", {"configurations": ["2d", "3d_fullres"]})


def test_the_postprocessing_of_an_ensemble_is_taken(ensemble: Callable[[str], Path]) -> None:
    home = ensemble("plain")
    trained = "nnUNetTrainer__nnUNetPlans__3d_fullres___nnUNetTrainer__nnUNetPlans__2d"
    found = home / "ensembles" / f"ensemble___{trained}___0"
    found.mkdir(parents=True)
    told = {
        "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
        "postprocessing_kwargs": [{"labels_or_regions": [1, 2, 3]}],
    }
    (found / "postprocessing.json").write_text(json.dumps(told))
    recipe = importers.read(home, {"configurations": ["2d", "3d_fullres"]}).recipe
    assert [len(stage.cleanup) for stage in recipe.stages] == [0, 1]
    assert importers.read(home / "nnUNetTrainer__nnUNetPlans__2d", {}).recipe.stages[0].cleanup == ()
    shutil.rmtree(home / "ensembles")

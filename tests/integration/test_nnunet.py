"""nnU-Net's folders, exported and run, against nnU-Net's own predictor; and folders that are refused."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lowres_seg import Bundle, InputError, Segmenter, Volume
from lowres_seg.bench.backends import Subject
from lowres_seg.bench.backends.torch_eager import BACKEND
from lowres_seg.bench.spec import Spec
from lowres_seg.bundle.stage import Argmax, Regions
from lowres_seg.errors import ExportError
from lowres_seg.export import Options, Recipe, export, importers
from lowres_seg.export.frameworks import torch_network
from lowres_seg.export.importers import nnunet, nnunet_folder, nnunet_labels, nnunet_postprocessing, nnunet_trainers
from lowres_seg.runtime.cleanup import clean
from lowres_seg.runtime.conform import Fit
from lowres_seg.runtime.decode import labels_of, select
from lowres_seg.runtime.normalise import normalise
from lowres_seg.runtime.openvino_engine import OpenVinoEngine
from lowres_seg.volumes.grid import Reorientation

from .conftest import Command, beside

pytest.importorskip("nnunetv2")
folders = beside("nnunet_folders")

# nnU-Net and what it imports warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

CHANNELS = ("T1", "T1c", "T2", "FLAIR")
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
PLAIN = {"background": 0, "a": 1, "b": 2, "c": 3}
BRATS: dict[str, Any] = {"channels": CHANNELS, "use_mask_for_norm": [True] * 4, "features": (8, 16, 32)}
HEAD: dict[str, Any] = {"channels": ("T1",), "labels": PLAIN, "features": (8, 16, 32)}
SCHEMES = ("ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization", "NoNormalization")

#: What a folder is made with, which files it is for, and how nnU-Net is to predict.
CASES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "regions": (
        BRATS | {"patch_size": (24, 24, 24), "spacing": (3, 3, 3), "labels": REGIONS, "regions_class_order": (1, 2, 3)},
        "tumor",
        {},
    ),
    "anisotropic": (HEAD | {"patch_size": (8, 32, 32), "spacing": (9.0, 3.2, 3.2), "seed": 1}, "head", {}),
    "residual": (
        HEAD | {"patch_size": (16, 24, 24), "spacing": (4, 4, 4), "seed": 5, "network": "ResidualEncoderUNet"},
        "head",
        {},
    ),
    "slices": (
        BRATS | {"configuration": "2d", "patch_size": (48, 48), "spacing": (3.5, 3.5), "labels": PLAIN, "seed": 2},
        "tumor",
        {},
    ),
    "folds": (
        {
            "channels": CHANNELS, "patch_size": (24, 24, 24), "spacing": (5, 5, 5), "labels": PLAIN,
            "features": (8, 16, 32), "folds": (0, 1), "normalization": SCHEMES, "seed": 3,
        },
        "tumor",
        {"folds": (0, 1), "mirroring": True},
    ),
    "before-2.4": (
        HEAD | {"patch_size": (16, 24, 24), "spacing": (5, 5, 5), "before_2_4": True, "seed": 6},
        "head",
        {},
    ),
    "residual-before-2.4": (
        HEAD | {
            "configuration": "2d", "patch_size": (32, 32), "spacing": (4, 4), "before_2_4": True, "seed": 7,
            "network": "ResidualEncoderUNet",
        },
        "head",
        {},
    ),
    "batch-norm": (
        HEAD | {"patch_size": (16, 24, 24), "spacing": (5, 5, 5), "trainer": "nnUNetTrainerBN", "seed": 8},
        "head",
        {},
    ),
    "latest": (
        HEAD | {
            "patch_size": (16, 24, 24), "spacing": (5, 5, 5), "checkpoint": "latest", "seed": 9,
            "resampling": "all in torch", "labels": PLAIN | {"ignore": 4},
        },
        "head",
        {"checkpoint": "checkpoint_latest.pth"},
    ),
    "no-resampling": (
        HEAD | {"patch_size": (16, 24, 24), "spacing": (5, 5, 5), "resampling": "no", "seed": 10},
        "head",
        {},
    ),
    "linear": (
        HEAD | {"patch_size": (16, 24, 24), "spacing": (5, 5, 5), "resampling": "linear", "seed": 11},
        "head",
        {},
    ),
    "splines apart": (
        HEAD | {
            "patch_size": (8, 24, 24), "spacing": (8, 4, 4.5), "seed": 12,
            "resampling_keywords": {
                "data": {"order": 5, "order_z": 3, "force_separate_z": True},
                "probabilities": {"order": 2, "order_z": 1, "force_separate_z": True},
            },
        },
        "head",
        {},
    ),
    "splines together": (
        HEAD | {
            "patch_size": (16, 24, 24), "spacing": (5, 5, 5), "seed": 13,
            "resampling_keywords": {
                "data": {"order": 4, "force_separate_z": False},
                "probabilities": {"order": 3, "force_separate_z": False},
            },
        },
        "head",
        {},
    ),
    "nearest, and a threshold": (
        HEAD | {
            "patch_size": (8, 32, 32), "spacing": (9.0, 3.2, 3.2), "seed": 14,
            "resampling_keywords": {
                "data": {"order": 0, "separate_z_anisotropy_threshold": 1.5},
                "probabilities": {"order": 0, "separate_z_anisotropy_threshold": 1.5},
            },
        },
        "head",
        {},
    ),
    "transposed": (
        BRATS | {
            "patch_size": (24, 24, 32), "spacing": (5, 4.5, 4), "labels": REGIONS, "regions_class_order": (1, 2, 3),
            "use_mask_for_norm": None, "transpose_forward": (2, 0, 1), "reader": "NibabelIOWithReorient",
            "checkpoint": "best", "seed": 4,
        },
        "tumor",
        {"checkpoint": "checkpoint_best.pth", "mirroring": True},
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def scans(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Every third voxel of a case with a tumor, in four channels, and of a whole head."""
    folder = tmp_path_factory.mktemp("scans")
    tumor = [f"tumor/TCGA-FG-6692/{name}" for name in ("t1n", "t1c", "t2w", "t2f")]
    found: dict[str, list[Path]] = {"tumor": [], "head": []}
    for kind, name in [*(("tumor", name) for name in tumor), ("head", "heads/TCGA-FG-6692_t1")]:
        image = nibabel.load(realdata / f"{name}.nii.gz")
        thick = 1 if min(image.shape) < 50 else 3
        found[kind].append(folder / f"{Path(name).name}.nii.gz")
        nibabel.save(image.slicer[::3, ::3, ::thick], found[kind][-1])
    return found


@dataclass(frozen=True, eq=False)
class Exported:
    """A folder, what nnU-Net itself predicts with it, and the bundle that it becomes."""

    folder: Path
    files: list[Path]
    expected: np.ndarray
    bundle: Bundle

    def scan(self) -> Any:
        if len(self.files) == 1:
            return self.files[0]
        return dict(zip(self.bundle.manifest.channels, self.files, strict=True))


@pytest.fixture(scope="session")
def exported(scans: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Function that gives a case by its name; it is made once."""
    done: dict[str, Exported] = {}

    def make(name: str) -> Exported:
        if name not in done:
            made, kind, how = CASES[name]
            home = tmp_path_factory.mktemp(name)
            folder = folders.make_folder(home / "results", example=scans[kind], **made)
            expected = folders.predict_with_nnunet(folder, scans[kind], **how)
            options = Options(mirror=bool(how.get("mirroring")))
            if made.get("checkpoint") == "latest":
                options["checkpoint"] = "latest"
            done[name] = Exported(folder, scans[kind], expected, export(folder, home / "bundle", options=options))
        return done[name]

    return make


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of voxels with the same label, of a label map in which no label is rare."""
    values, counts = np.unique(expected, return_counts=True)
    assert values.tolist() == [0, 1, 2, 3]
    assert counts.min() > 0.002 * expected.size
    return float((found == expected).mean())


@pytest.mark.parametrize("case", CASES)
def test_labels_are_nnunets_own(exported: Callable[[str], Exported], case: str) -> None:
    it = exported(case)
    result = Segmenter.load(it.bundle.path).predict(it.scan())
    assert result.labels.data.shape == nibabel.load(it.files[0]).shape
    assert agreement(result.labels.data, it.expected) >= 0.9999


def test_lean_labels_are_the_same(exported: Callable[[str], Exported]) -> None:
    it = exported("folds")
    lean = Segmenter.load(it.bundle.path, lean=True).predict(it.scan()).labels.data
    assert np.array_equal(lean, Segmenter.load(it.bundle.path).predict(it.scan()).labels.data)


def test_without_mirroring_nnunets_labels_are_others(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    """Mirroring is not for nothing in these networks, and neither is the second fold."""
    it = exported("folds")
    bundle = export(it.folder, tmp_path / "one", options=Options(mirror=False, folds=("1",)))
    assert list(bundle.manifest.networks) == ["fold-1"]
    assert bundle.manifest.stages[0].mirror_axes == ()
    found = Segmenter.load(bundle.path).predict(it.scan()).labels.data
    assert agreement(found, it.expected) < 0.999
    plain = folders.predict_with_nnunet(it.folder, it.files, folds=(1,))
    assert agreement(found, plain) >= 0.9999


def test_an_orientation_turns_scans_to_what_it_was_trained_on(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    it = exported("residual")
    stored = Volume.load(it.files[0])
    bundle = export(it.folder, tmp_path / "turned", options=Options(mirror=False, orientation=stored.grid.orientation))
    other = Reorientation(stored.grid, "PIL" if stored.grid.orientation != "PIL" else "RAS")
    turned = Volume(np.ascontiguousarray(other.apply(stored.data)), other.result)
    found = other.undo(Segmenter.load(bundle.path).predict(turned).labels.data)
    assert agreement(found, it.expected) >= 0.9999
    as_stored = other.undo(Segmenter.load(it.bundle.path).predict(turned).labels.data)
    assert agreement(as_stored, it.expected) < 0.999  # as nnU-Net would have it: no orientation is looked at


def test_the_manifest_says_what_the_folder_says(exported: Callable[[str], Exported]) -> None:
    regions = exported("regions").bundle.manifest
    assert regions.channels == ("t1", "t1c", "t2", "flair")
    assert regions.label_names == {1: "whole-tumor-rest", 2: "tumor-core-rest", 3: "enhancing-tumor"}
    assert regions.evaluated == {"whole-tumor": (1, 2, 3), "tumor-core": (2, 3), "enhancing-tumor": (3,)}
    assert isinstance(regions.stages[0].decode, Regions)
    folds = exported("folds").bundle.manifest
    assert list(folds.networks) == ["fold-0", "fold-1"]
    assert folds.stages[0].mirror_axes == (0, 1, 2)
    assert folds.label_names == {1: "a", 2: "b", 3: "c"}
    assert isinstance(folds.stages[0].decode, Argmax)
    slices = exported("slices").bundle.manifest.stages[0]
    assert slices.windows is not None
    assert slices.windows.roi_size == (1, 48, 48)
    assert slices.conform.spacing_mm == (None, 3.5, 3.5)
    assert exported("transposed").bundle.manifest.stages[0].conform.orientation == "RSA"


@pytest.mark.parametrize("names", [("t1",), ("t1", "t1c", "t2", "t2f"), ("t1", "t1c", "t2", "flair", "more")])
def test_other_channels_than_the_folders_are_refused(exported: Callable[[str], Exported], names: Sequence[str]) -> None:
    it = exported("regions")
    with pytest.raises(InputError, match=f"channels given: {', '.join(names)}; the bundle takes t1, t1c, t2, flair"):
        Segmenter.load(it.bundle.path).predict(dict.fromkeys(names, it.files[0]))


# -- folders, read -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is quickly copied."""
    return Path(
        folders.make_folder(
            tmp_path_factory.mktemp("small") / "results",
            channels=("T1", "T2"),
            patch_size=(16, 16, 16),
            spacing=(1, 1, 1),
            labels=PLAIN,
            features=(4, 8),
            normalization=("ZScoreNormalization", "CTNormalization"),
        )
    )


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(small, tmp_path / "results"))


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; a path of keys is joined by two underscores; None deletes."""
    content = json.loads(path.read_text())
    for keys, value in changes.items():
        at = content
        *way, last = keys.split("__")
        for key in way:
            at = at[key]
        if value is None:
            del at[last]
        else:
            at[last] = value
    path.write_text(json.dumps(content))


def plan(**changes: Any) -> Callable[[Path], None]:
    return lambda f: edit(f / "plans.json", **{f"configurations__3d_fullres__{k}": v for k, v in changes.items()})


def plans(**changes: Any) -> Callable[[Path], None]:
    return lambda f: edit(f / "plans.json", **changes)


def dataset(**changes: Any) -> Callable[[Path], None]:
    return lambda f: edit(f / "dataset.json", **changes)


def checkpoint(**changes: Any) -> Callable[[Path], None]:
    """Save the checkpoint again, with other entries."""

    def change(folder: Path) -> None:
        path = folder / "fold_0" / "checkpoint_final.pth"
        torch.save({**torch.load(path, weights_only=False), **changes}, path)

    return change


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda f: (f / name).write_text(text) and None


def both(first: Callable[[Path], None], second: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        first(folder)
        second(folder)

    return change


def removed(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return remove


def version_1(folder: Path) -> None:
    for path in folder.iterdir():
        removed(path.name)(folder)
    (folder / "fold_0").mkdir()
    (folder / "fold_0" / "model_final_checkpoint.model").write_bytes(b"1")
    (folder / "plans.pkl").write_bytes(b"1")


def second_fold(folder: Path) -> None:
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    path = folder / "fold_1" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), "trainer_name": "nnUNetTrainerDA5"}, path)


def read(path: Path, **options: Any) -> Recipe:
    """The recipe of a folder."""
    return nnunet.recipe(path, nnunet.Options(**options))


class Evil:
    """An object that, unpickled, writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"open({str(self.path)!r}, 'w')",))


Edit = Callable[[Path], None]
ISO = "resample_data_or_seg_to_shape"
#: Changes to a good folder, and what the one line must say.
BAD: dict[str, tuple[Edit, str]] = {
    "version 1": (version_1, "is a folder of nnU-Net v1"),
    "no plans": (removed("plans.json"), "plans.json: does not exist"),
    "no dataset": (removed("dataset.json"), "dataset.json: does not exist"),
    "broken JSON": (written("plans.json", '{"a": '), "plans.json: cannot be read as JSON"),
    "no object": (written("dataset.json", "[1]"), "dataset.json: is list, expected a JSON object"),
    "no architecture": (plan(architecture=None), "has no architecture, nor the UNet_class_name of plans from before 2.4"),
    "another network before 2.4": (
        both(plan(architecture=None), plan(UNet_class_name="neUNet")),
        "the network of 3d_fullres is neUNet, expected one of PlainConvUNet, ResidualEncoderUNet",
    ),
    "preprocessor": (plan(preprocessor_name="MyPreprocessor"), "scans are preprocessed by MyPreprocessor in 3d_fullres, expected"),
    "no preprocessor": (plan(preprocessor_name=None), "scans are preprocessed by None"),
    "label manager": (plans(label_manager="MyLabels"), "labels are managed by MyLabels in 3d_fullres, expected LabelManager"),
    "another module": (
        plan(architecture__network_class_name="neunet.PlainConvUNet"),
        "the network of 3d_fullres is neunet.PlainConvUNet, expected a U-Net of dynamic_network_architectures",
    ),
    "a module that begins alike": (
        plan(architecture__network_class_name="dynamic_network_architectures_x.PlainConvUNet"),
        "is dynamic_network_architectures_x.PlainConvUNet, expected",
    ),
    "order of axes": (plans(transpose_forward=[0, 1, 1]), "transpose_forward is [0, 1, 1], expected an order"),
    "a plan that is none": (plan(patch_size=3), "its plans.json is none that nnU-Net v2 writes"),
    "no fold": (removed("fold_0"), "has no fold, expected fold_0"),
    "no checkpoint": (removed("fold_0/checkpoint_final.pth"), "checkpoint_final.pth: does not exist, nor checkpoint_best"),
    "damaged checkpoint": (lambda f: (f / "fold_0/checkpoint_final.pth").write_bytes(b"x") and None, "or is no checkpoint"),
    "batch norm": (checkpoint(trainer_name="nnUNetTrainerBN"), "does not fit the network"),
    "transformer": (checkpoint(trainer_name="nnUNet_Primus_S_Trainer"), "was trained by nnUNet_Primus_S_Trainer, which may"),
    "own trainer": (checkpoint(trainer_name="MyTrainer"), "was trained by MyTrainer"),
    "own trainer of ours": (checkpoint(trainer_name="nnUNetTrainerMine"), "was trained by nnUNetTrainerMine"),
    "no trainer": (checkpoint(trainer_name=None), "was trained by None"),
    "two trainers": (second_fold, "its folds were trained differently (nnUNetTrainer in 3d_fullres; nnUNetTrainerDA5 in"),
    "no such configuration": (plans(configurations={}), "has no configuration 3d_fullres"),
    "no configurations": (plans(configurations=None), "has no configuration 3d_fullres"),
    "cascade": (plan(previous_stage="3d_lowres"), "refines the result of 3d_lowres, and its name does not say where that one"),
    "normalisation": (plan(normalization_schemes=["ZScoreNormalization", "MyNorm"]), "channel t2 is normalised by MyNorm"),
    "normalisation of one": (plan(normalization_schemes=["ZScoreNormalization"]), "normalises 1 channels, dataset.json has 2"),
    "no intensities": (plans(foreground_intensity_properties_per_channel={}), "plans.json"),
    "reader": (plans(image_reader_writer="Tiff3DIO"), "images are read by Tiff3DIO, a reader of pictures; expected SimpleITKIO"),
    "reader of slices": (plans(image_reader_writer="NaturalImage2DIO"), "images are read by NaturalImage2DIO, a reader of pictures"),
    "own reader": (plans(image_reader_writer="StenIO"), "images are read by StenIO, no reader of scans that nnU-Net has"),
    "resampling": (plan(resampling_fn_data="mine"), "data is resampled by mine"),
    "resampling of one alone": (
        plan(resampling_fn_data="no_resampling_hack", resampling_fn_data_kwargs={}),
        "are resampled by different rules",
    ),
    "resampling in torch by cubic": (
        plan(resampling_fn_data="resample_torch_fornnunet", resampling_fn_data_kwargs={"mode": "bicubic"}),
        "data is resampled by resample_torch_fornnunet with mode 'bicubic', expected linear",
    ),
    "resampling in torch across": (
        plan(resampling_fn_data="resample_torch_fornnunet", resampling_fn_data_kwargs={"aniso_axis_mode": "area"}),
        "with aniso_axis_mode 'area', expected nearest-exact, nearest, linear",
    ),
    "another argument": (plan(resampling_fn_data_kwargs__surprise=1), "with surprise 1, expected one of its arguments, is_seg,"),
    "scans as labels": (plan(resampling_fn_data_kwargs__is_seg=True), "data is resampled by resample_data_or_seg_to_shape with is_seg True"),
    "resampling of scores": (plan(resampling_fn_probabilities="mine"), "probabilities is resampled by mine"),
    "order": (plan(resampling_fn_data_kwargs__order=6), "with order 6, expected a whole number from 0 to 5"),
    "order across": (plan(resampling_fn_probabilities_kwargs__order_z=6), "with order_z 6, expected a whole number from 0 to 5"),
    "always apart": (plan(resampling_fn_data_kwargs__force_separate_z=True), "are resampled by different rules"),
    "apart one way": (plan(resampling_fn_data_kwargs__force_separate_z=False), "are resampled by different rules"),
    "no spacing": (plan(spacing=None), "configuration 3d_fullres has no 'spacing'"),
    "no patch": (plan(patch_size=[16, 0, 16]), "roi_size"),
    "no labels": (dataset(labels={"background": 0}), "names no labels beside the background"),
    "labels of version 1": (dataset(labels={"0": "background", "1": "a"}), "names no background among its labels"),
    "a label that is no number": (dataset(labels={"background": 0, "a": "x"}), "the label a is 'x', expected a whole number"),
    "another background": (dataset(labels={"background": 1, "a": 0}), "the background is 1, expected 0"),
    "ignored in between": (dataset(labels={"background": 0, "a": 1, "ignore": 2, "b": 3}), "the label to ignore is 2, expected 4"),
    "regions without order": (dataset(labels=REGIONS), "has 3 regions and the regions_class_order None"),
    "order of fewer": (lambda f: edit(f / "dataset.json", labels=REGIONS, regions_class_order=[1, 2]), "regions_class_order [1, 2]"),
    "no channels": (dataset(channel_names={}), "its channel_names are missing, expected names of 0, 1, 2"),
    "another channel": (dataset(channel_names={"0": "T1"}), "dataset.json has 1"),
    "another label": (dataset(labels={"background": 0, "a": 1}), "the network of nnunet:PlainConvUNet expects"),
    "another network": (
        plan(architecture__network_class_name="dynamic_network_architectures.architectures.resnet.ResNetD"),
        "the network is ResNetD, expected a U-Net",
    ),
    "code as a network": (plan(architecture__network_class_name="os.system"), "the network of 3d_fullres is os.system, expected"),
    "code as a layer": (plan(architecture__arch_kwargs__conv_op="os.system"), "names os.system, expected a class of torch.nn"),
    "no such layer": (plan(architecture__arch_kwargs__nonlin="torch.nn.functional"), "expected a class of torch.nn"),
    "strange argument": (plan(architecture__arch_kwargs__surprise=1), "cannot be built from its arch_kwargs"),
    "fewer stages": (plan(architecture__arch_kwargs__features_per_stage=[4, 16]), "the network of nnunet:PlainConvUNet expects"),
    "weights elsewhere": (checkpoint(network_weights={}), "does not fit the network"),
    "no init_args": (checkpoint(init_args={}), "does not say how it was trained ('configuration')"),
    "no dictionary of them": (checkpoint(init_args=None), "does not say how it was trained"),
    "channels by name": (dataset(channel_names={"T1": 0, "T2": 1}), "its channel_names are {'T1': 0, 'T2': 1}, expected names"),
    "a gap in the channels": (dataset(channel_names={"0": "T1", "2": "T2"}), "expected names of 0, 1, 2"),
    "inherits from nothing": (plan(inherits_from="base"), "3d_fullres inherits from base, which is not there"),
    "inherits from itself": (plan(inherits_from="3d_fullres"), "3d_fullres inherits from 3d_fullres, which inherits from it"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_give_one_line_and_no_bundle(folder: Path, tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    change(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=re.escape(message)) as caught:
        export(folder, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_holds_code_does_not_run_it(folder: Path, tmp_path: Path) -> None:
    checkpoint(logging=Evil(tmp_path / "evil"))(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match="holds more than weights"):
        export(folder, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert (tmp_path / "evil").exists()  # else there was nothing to run


def test_a_fold_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no fold 3, expected one of: 0"):
        export(folder, tmp_path / "out", options=Options(folds=("3",)))
    assert not (tmp_path / "out").exists()


def test_all_folds_but_the_one_of_all_cases_are_taken(folder: Path) -> None:
    for name in ("1", "all"):
        shutil.copytree(folder / "fold_0", folder / f"fold_{name}")
    assert list(read(folder).networks) == ["fold-0", "fold-1"]
    assert list(read(folder, folds=("all",)).networks) == ["fold-all"]
    removed("fold_0")(folder)
    removed("fold_1")(folder)
    assert list(read(folder).networks) == ["fold-all"]


def test_a_trainer_of_ones_own_is_taken_if_it_trains_the_plans_network(folder: Path) -> None:
    checkpoint(trainer_name="MyTrainer")(folder)
    with pytest.raises(ExportError, match="say --plans-network"):
        read(folder)
    assert list(read(folder, plans_network=True).networks) == ["fold-0"]


def test_only_numbered_folds_are_taken_unless_they_are_named(folder: Path) -> None:
    for name in ("0_old", "1"):
        shutil.copytree(folder / "fold_0", folder / f"fold_{name}")
    assert list(read(folder).networks) == ["fold-0", "fold-1"]
    assert list(read(folder, folds=("0_old",)).networks) == ["fold-0_old"]
    (folder / "fold_1" / "checkpoint_final.pth").unlink()
    with pytest.raises(ExportError, match="its training did not end, so leave the fold out with --folds"):
        read(folder)
    for name in ("0", "1"):
        removed(f"fold_{name}")(folder)
    with pytest.raises(ExportError, match="has the folds 0_old, none numbered or of all cases; name one with --folds"):
        read(folder)


def test_a_fold_of_version_1_is_named_so(folder: Path) -> None:
    version_1(folder)
    with pytest.raises(ExportError, match="is a folder of nnU-Net v1"):
        importers.read(folder / "fold_0", {})


def test_trainers_that_only_train_otherwise_are_known(folder: Path) -> None:
    checkpoint(trainer_name="nnUNetTrainer_250epochs_NoMirroring", inference_allowed_mirroring_axes=None)(folder)
    assert read(folder).stages[0].mirror_axes == ()


def test_the_trainers_named_are_nnunets_and_build_the_plans_network() -> None:
    """Read and not imported: some of nnU-Net's trainers want packages of their own."""
    import nnunetv2

    classes: dict[str, ast.ClassDef] = {}
    for file in (Path(nnunetv2.__file__).parent / "training" / "nnUNetTrainer").rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        classes |= {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def own(name: str, method: str) -> bool:
        """Whether a trainer has a method that is not nnUNetTrainer's."""
        if name == "nnUNetTrainer":
            return False
        bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes]
        mine = any(isinstance(part, ast.FunctionDef) and part.name == method for part in classes[name].body)
        return mine or any(own(base, method) for base in bases)

    def trains(name: str) -> bool:
        bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes]
        return name == "nnUNetTrainer" or any(map(trains, bases))

    plain = {name for name in classes if trains(name) and not own(name, "build_network_architecture")}
    assert plain == set(nnunet_trainers.PLANS_NETWORK)
    assert set(nnunet_trainers.BATCH_NORM) < set(classes) - plain


def test_options_are_for_folders_of_nnunet(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="mirror is no option of it but of a results folder of nnU-Net"):
        export(tmp_path / "recipe.toml", tmp_path / "out", options=Options(mirror=False))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="is a folder that no importer reads"):
        export(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ExportError, match="says all that is needed itself"):
        export(folder, tmp_path / "out", recipe=tmp_path / "recipe.toml")


def test_configurations_inherit(folder: Path) -> None:
    before = read(folder)
    content = json.loads((folder / "plans.json").read_text())
    every = content["configurations"]
    every["base"] = every.pop("3d_fullres")
    every["3d_fullres"] = {"inherits_from": "base", "patch_size": [16, 16, 32]}
    (folder / "plans.json").write_text(json.dumps(content))
    (stage,) = read(folder).stages
    assert stage.windows is not None
    assert stage.windows.roi_size == (16, 16, 32)
    assert stage.model_copy(update={"windows": None}) == before.stages[0].model_copy(update={"windows": None})


def test_scalars_that_numpy_1_wrote_are_read(folder: Path) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    with zipfile.ZipFile(path) as archive:
        parts = [(entry, archive.read(entry)) for entry in archive.infolist()]
    new, old = b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"
    assert sum(new in content for _, content in parts) == 1, "a checkpoint of numpy 2 names it so"
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in parts:
            archive.writestr(entry.filename, content.replace(new, old))
    found = torch_network.checkpoint(path)
    assert found["_best_ema"] == pytest.approx(0.8)
    assert found["logging"]["val_losses"][0] == pytest.approx(-0.4)
    assert list(read(folder).networks) == ["fold-0"]


@pytest.mark.parametrize("orientation", ["LP", "XYZ", "LLA"])
def test_an_orientation_that_is_none_is_refused(folder: Path, orientation: str) -> None:
    with pytest.raises(ExportError, match=f"orientation: '{orientation}' is none; expected three letters"):
        export(folder, folder.parent / "out", options=Options(orientation=orientation))


def test_torch_runs_the_folds_that_the_bundle_has_by_whatever_trainer(folder: Path, tmp_path: Path) -> None:
    """The benchmark's baseline reads the folder again, which has a fold more and a trainer of its own."""
    second_fold(folder)
    checkpoint(trainer_name="MyTrainer")(folder)
    found = export(folder, tmp_path / "out", options=Options(folds=("0",), plans_network=True))
    ((source, _),) = found.manifest.lineage.sources.items()
    assert source.endswith("fold_0/checkpoint_final.pth")
    networks = BACKEND.networks(Subject(found, recipe=folder))
    by_fold = BACKEND.networks(Subject(found, recipe=folder / "fold_0"))
    assert by_fold["fold-0"]["weights"] == networks["fold-0"]["weights"]
    networks = BACKEND.load(Spec(task="measure", bundle=str(found.path), backend="torch", networks=networks))
    assert list(networks) == ["fold-0"]
    x = np.random.default_rng(0).standard_normal(found.network("fold-0").input_shape, dtype=np.float32)
    engine = OpenVinoEngine(found.path / "networks" / "fold-0.xml", threads=1, inference_precision="f32")
    assert np.abs(networks["fold-0"].run(x) - engine.run(x)).max() < 1e-3


# -- what other people planned -----------------------------------------------------------------------------------------


def with_plans(folder: Path, plans: dict[str, Any], dataset: dict[str, Any], configuration: str, **head: Any) -> Path:
    """A results folder of these plans, whose only checkpoint has no weights."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    known = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": (0, 1),
        "network_weights": {},
    }
    torch.save(known | head, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def networks_alike(recipe: Recipe, plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> bool:
    """Whether a recipe's network is the one that nnU-Net builds, layer for layer."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(json.loads(json.dumps(plans)))
    config = manager.get_configuration(configuration)
    source = list(recipe.networks.values())[-1]
    with torch.device("meta"):
        ours = nnunet.network((source.factory or "").partition(":")[2], source.arguments)
        theirs = get_network_from_plans(
            config.network_arch_class_name,
            config.network_arch_init_kwargs,
            config.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, config, dataset),
            manager.get_label_manager(dataset).num_segmentation_heads,
            allow_init=False,
            deep_supervision=False,
        )
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (ours, theirs)]
    return repr(ours) == repr(theirs) and shapes[0] == shapes[1]


#: Configurations of the published plans that are refused, and why.
REFUSED = {
    "StenUNet 2d": "NaturalImage2DIO, a reader of pictures",
    "neUNet-BraTs 3d_fullres": "the network of 3d_fullres is neUNet, expected one of PlainConvUNet",
}
FOUR: dict[str, Any] = {
    "channel_names": {str(n): name for n, name in enumerate(CHANNELS)},
    "labels": PLAIN,
    "file_ending": ".nii.gz",
}


def test_published_plans_give_nnunets_networks_and_grids(realdata: Path, tmp_path: Path) -> None:
    found = sorted((realdata / "nnunet_plans").glob("*__plans.json"))
    assert len(found) >= 7
    refused = set()
    for path in found:
        name = path.name.removesuffix("__plans.json")
        described = path.with_name(f"{name}__dataset.json")
        plans = json.loads(path.read_text())
        dataset = json.loads(described.read_text()) if described.exists() else FOUR
        for configuration in plans["configurations"]:
            case = f"{name} {configuration}"
            folder = with_plans(tmp_path / name / f"nnUNetTrainer__P__{configuration}", plans, dataset, configuration)
            if case in REFUSED:
                with pytest.raises(ExportError, match=re.escape(REFUSED[case])) as caught:
                    read(folder)
                assert "\n" not in str(caught.value)
                refused.add(case)
                continue
            recipe = read(folder)
            stage = recipe.stages[-1]
            assert networks_alike(recipe, plans, dataset, configuration), case
            said = plans["configurations"][configuration]
            said = plans["configurations"][said.get("inherits_from", configuration)] | said
            assert len(recipe.stages) == (2 if "previous_stage" in said else 1)
            flat = 3 - len(said["patch_size"])
            assert stage.windows is not None
            assert stage.windows.roi_size == (*[1] * flat, *said["patch_size"])
            assert stage.conform.spacing_mm == (*[None] * flat, *said["spacing"])
            assert stage.mirror_axes == (flat, flat + 1)
    assert refused == set(REFUSED)


def test_a_residual_network_may_name_its_block(folder: Path) -> None:
    blocks = "dynamic_network_architectures.building_blocks.residual."
    content = json.loads((folder / "plans.json").read_text())
    architecture = content["configurations"]["3d_fullres"]["architecture"]
    given = architecture["arch_kwargs"]
    given["n_blocks_per_stage"] = given.pop("n_conv_per_stage")
    given |= {"block": blocks + "BottleneckD", "bottleneck_channels": 4, "deep_supervision": True}
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture["_kw_requires_import"].append("block")
    (folder / "plans.json").write_text(json.dumps(content))
    dataset = json.loads((folder / "dataset.json").read_text())
    assert networks_alike(read(folder), content, dataset, "3d_fullres")
    for strange in ("dynamic_network_architectures.building_blocks.residual_x.BottleneckD", blocks + "np", "os.system"):
        given["block"] = strange
        (folder / "plans.json").write_text(json.dumps(content))
        with pytest.raises(ExportError, match=f"names {re.escape(strange)}, expected a class of torch.nn or of"):
            (source,) = read(folder).networks.values()
            nnunet.network("ResidualEncoderUNet", source.arguments)


def test_a_network_that_moved_within_its_package_is_found(folder: Path) -> None:
    before = read(folder)
    moved = "dynamic_network_architectures.architectures.plain_unet.PlainConvUNet"
    plan(architecture__network_class_name=moved)(folder)
    assert read(folder) == before


#: Labels as dataset.json names them, and the order of regions.
LABELLINGS: dict[str, tuple[dict[str, Any], list[int] | None]] = {
    "plain": (PLAIN, None),
    "in another order": ({"b": 2, "background": 0, "a": 1}, None),
    "lists of one": ({"background": 0, "a": [1], "b": [2]}, None),
    "as text": ({"background": "0", "a": "1", "b": "2"}, None),
    "ignored": ({"background": 0, "a": 1, "b": 2, "ignore": 3}, None),
    "a gap": ({"background": 0, "a": 1, "b": 3, "c": 4}, None),
    "two names": ({"background": 0, "a": 1, "also a": 1, "b": 2}, None),
    "an order without regions": (PLAIN, [3, 2, 1]),
    "regions": (REGIONS, [1, 2, 3]),
    "regions and a label": ({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [2, 1]),
    "a region written as another value": ({"background": 0, "whole": [1, 2, 4], "core": [4]}, [2, 4]),
    "one region": ({"background": 0, "whole": [1, 2]}, [1]),
    "a region with the background": ({"background": 0, "a": [0, 1], "b": [2]}, [1, 2]),
}


@pytest.mark.parametrize("case", LABELLINGS)
def test_scores_become_the_labels_that_nnunets_label_manager_makes(folder: Path, case: str) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels, order = LABELLINGS[case]
    dataset(labels=labels, regions_class_order=order or [])(folder)
    recipe = read(folder)
    manager = LabelManager(labels, order)
    (source,) = recipe.networks.values()
    assert source.arguments["heads"] == manager.num_segmentation_heads
    scores = np.random.default_rng(0).standard_normal((manager.num_segmentation_heads, 4, 5, 6), dtype=np.float32)
    decode = recipe.stages[0].decode
    found = labels_of(select(scores, decode), decode)
    assert np.array_equal(found, manager.convert_logits_to_segmentation(scores))
    assert set(np.unique(found)) - {0} <= set(recipe.label_names)


#: Spacing of a scan, and of a plan, along axes that are resampled together or apart.
SPACINGS = [((1.0, 1.0, 1.0), (1.3, 0.8, 0.9)), ((5.0, 1.0, 0.9), (3.0, 1.5, 1.1)), ((1.0, 1.1, 0.9), (0.8, 4.0, 1.0))]


@pytest.mark.parametrize("spacings", SPACINGS)
@pytest.mark.parametrize("force", [None, True, False])
@pytest.mark.parametrize(("order", "across"), [(0, 0), (1, 1), (2, 0), (2, 3), (3, 1), (4, 4), (5, 5), (1, 2)])
def test_scans_and_scores_are_resampled_as_nnunet_does(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    spacings: tuple[tuple[float, ...], tuple[float, ...]],
    force: bool | None,
    order: int,
    across: int,
) -> None:
    """There, and back slab by slab."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

    own, wanted = spacings
    keywords = {"order": order, "order_z": across, "force_separate_z": force}
    plan(spacing=wanted, resampling_fn_data_kwargs=keywords, resampling_fn_probabilities_kwargs=keywords)(folder)
    (stage,) = read(folder).stages
    x = np.random.default_rng(0).standard_normal((2, 9, 12, 11)).astype(np.float32)
    shape = compute_new_shape(x.shape[1:], own, wanted)
    there = resample_data_or_seg_to_shape(x, shape, own, wanted, **keywords)
    back = resample_data_or_seg_to_shape(there, x.shape[1:], wanted, own, **keywords)
    conform, restore = stage.conform, stage.restore
    fit = Fit.of((9, 12, 11), np.diag([*own, 1.0]), conform, (1, 1, 1))
    assert fit.resampled == tuple(shape)
    across_axis = conform.separate_interpolation
    found = fit.resample(x, conform.interpolation, across=across_axis, border="edge", threads=1)
    assert np.allclose(found, there, atol=2e-4)
    monkeypatch.setattr("lowres_seg.runtime.conform.SLAB_BYTES", 3000)
    slabs = [
        part
        for _, part in fit.restored(
            there, restore.interpolation, across=restore.separate_interpolation, outside="edge", threads=1
        )
    ]
    assert len(slabs) > 2
    assert np.allclose(np.concatenate(slabs, axis=1), back, atol=2e-4)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("by", ["channel", "modality"])
def test_channels_are_normalised_as_nnunet_does(small: Path, tmp_path: Path, by: str, masked: bool) -> None:
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as nnunets

    schemes = (*SCHEMES, "RGBTo01Normalization")
    plans = json.loads((small / "plans.json").read_text())
    properties = plans.pop("foreground_intensity_properties_per_channel")["0"]
    plans[f"foreground_intensity_properties_{'by' if by == 'modality' else 'per'}_{by}"] = {
        str(n): properties for n in range(len(schemes))
    }
    said = plans["configurations"]["3d_fullres"]
    said |= {"normalization_schemes": schemes, "use_mask_for_norm": [masked] * len(schemes)}
    described = {**FOUR, "channel_names": {str(n): name for n, name in enumerate(schemes)}}
    recipe = read(with_plans(tmp_path / "five", plans, described, "3d_fullres"))
    x = np.random.default_rng(0).uniform(0, 255, (len(schemes), 6, 7, 8)).astype(np.float32)
    x[:, :2] = 0
    outside = np.where((x != 0).any(axis=0), 0, -1)
    expected = [
        getattr(nnunets, scheme)(use_mask_for_norm=masked, intensityproperties=properties).run(x[n].copy(), outside)
        for n, scheme in enumerate(schemes)
    ]
    normalise(x, recipe.stages[0].normalise.rules, {}, recipe.channels)
    assert np.allclose(x, expected, atol=1e-5)


def test_a_reader_that_turns_scans_goes_with_its_own_orientation_only(folder: Path) -> None:
    plans(image_reader_writer="NibabelIOWithReorient")(folder)
    assert read(folder, orientation="RAS") == read(folder)
    with pytest.raises(ExportError, match="turns every scan to RAS; leave out --orientation LPS"):
        read(folder, orientation="LPS")


# -- paths, and checkpoints --------------------------------------------------------------------------------------------


@pytest.fixture
def results(folder: Path) -> Path:
    """The folder of all results, with one trained configuration; nnU-Net leaves other folders beside it."""
    home = folder.parent / "nnUNet_results" / "Dataset999_Seeded"
    trained = home / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    home.mkdir(parents=True)
    shutil.copytree(folder, trained)
    shutil.copytree(trained, home / "nnUNetTrainer__nnUNetPlans__2d")
    (home / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0" / "checkpoint_final.pth").unlink()
    predicted = home / "predicted"
    predicted.mkdir()
    for name in ("plans.json", "dataset.json"):
        shutil.copy(trained / name, predicted)
    return home.parent


TRAINED = "Dataset999_Seeded/nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.mark.parametrize(
    "where", ["", "Dataset999_Seeded", TRAINED, f"{TRAINED}/fold_0", f"{TRAINED}/fold_0/checkpoint_final.pth"]
)
def test_paths_lead_to_their_results_folder(results: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results / where
    source = importers.read(path, {})
    assert source.importer == "nnunet"
    assert source.home == importers.home(path) == results / TRAINED
    assert source.recipe == read(results / TRAINED)
    assert (source.home / source.recipe.networks["fold-0"].file).is_file()
    assert importers.digest(path) == importers.digest(results / TRAINED)
    assert importers.read_again(path, ["fold-0"]).recipe == source.recipe
    monkeypatch.chdir(path if path.is_dir() else path.parent)
    relative = importers.read(Path() if path.is_dir() else Path(path.name), {})
    assert relative.recipe == source.recipe
    assert relative.home.samefile(source.home)


def test_a_path_with_several_configurations_names_them(results: Path) -> None:
    other = results / TRAINED.replace("3d_fullres", "2d")
    shutil.copy(results / TRAINED / "fold_0" / "checkpoint_final.pth", other / "fold_0")
    names = "nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d_fullres"
    with pytest.raises(ExportError, match=f"holds 2 trained configurations; name one of them: {names}"):
        importers.read(results / "Dataset999_Seeded", {})
    for folder in (other, results / TRAINED):
        (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(ExportError, match="holds no trained configuration; nnUNetTrainer__nnUNetPlans__2d has no"):
        importers.read(results / "Dataset999_Seeded", {})


@pytest.mark.parametrize("path", ["fold_0", "fold_0/checkpoint_final.pth"])
def test_a_path_in_no_results_folder_says_so(folder: Path, path: str) -> None:
    (folder / "plans.json").unlink()
    with pytest.raises(ExportError, match=r"which has no plans.json; expected a results folder of nnU-Net v2"):
        importers.read(folder / path, {})


def test_a_path_and_the_options_must_not_differ(folder: Path) -> None:
    fold = folder / "fold_0"
    assert read(fold, folds=("0",)) == read(folder)
    with pytest.raises(ExportError, match="is of fold 0, and the folds named are 1; name the folder"):
        read(fold, folds=("1",))
    with pytest.raises(ExportError, match="is the checkpoint final, and the one named is best; leave out one"):
        read(fold / "checkpoint_final.pth", checkpoint="best")


def test_a_checkpoint_with_a_recipe_is_the_recipes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"recipe.toml: "):
        export(folder / "fold_0" / "checkpoint_final.pth", tmp_path / "out", recipe=tmp_path / "recipe.toml")


@pytest.mark.parametrize("form", ["pkl", "json"])
def test_postprocessing_of_the_same_folds_is_taken_and_told(folder: Path, form: str) -> None:
    home = folder / "crossval_results_folds_0"
    write_postprocessing(home, form, [{"labels_or_regions": list(np.unique([1, 2, 3]))}, {"labels_or_regions": 2}])
    recipe = read(folder)
    assert [rule.labels for rule in recipe.stages[0].cleanup] == [(1, 2, 3), (2,)]
    (note,) = recipe.notes
    assert note.startswith(
        f"crossval_results_folds_0/postprocessing.{form}: postprocessing keeps the largest component"
    )
    assert note.endswith(" of labels 1, 2, 3; the largest component of labels 2")
    home.rename(folder / "crossval_results_folds_0_1")
    assert read(folder).stages[0].cleanup == ()  # of other folds
    named = folder / "crossval_results_folds_0_1" / f"postprocessing.{form}"
    assert read(folder, postprocessing=str(named)).stages == recipe.stages
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    assert len(read(folder).stages[0].cleanup) == 2
    assert read(folder, postprocessing="none").stages[0].cleanup == ()
    write_postprocessing(named.parent, form, [])
    assert read(folder).notes == (f"crossval_results_folds_0_1/{named.name}: postprocessing changes nothing",)


def write_postprocessing(home: Path, form: str, keywords: list[dict[str, Any]]) -> None:
    """Write the file as `determine_postprocessing` does."""
    from batchgenerators.utilities.file_and_folder_operations import save_json, save_pickle
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    home.mkdir(exist_ok=True)
    functions = [remove_all_but_largest_component_from_segmentation] * len(keywords)
    if form == "pkl":
        save_pickle((functions, keywords), str(home / "postprocessing.pkl"))
        return
    told = {"postprocessing_fns": [one.__name__ for one in functions], "postprocessing_kwargs": keywords}
    recursive_fix_for_json_export(told)
    save_json(told, str(home / "postprocessing.json"))


@pytest.mark.parametrize("labels", [1, (1, 2), [1, 2, 3], [(1, 3), 2], (3,)])
def test_postprocessing_removes_what_nnunet_removes(tmp_path: Path, labels: Any) -> None:
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

    write_postprocessing(tmp_path, "pkl", [{"labels_or_regions": labels, "background_label": 0}])
    rules = nnunet_postprocessing.read(tmp_path / "postprocessing.pkl")
    found = np.random.default_rng(0).choice(4, (12, 13, 14), p=[0.85, 0.05, 0.05, 0.05]).astype(np.uint8)
    found[0, 0, :2], found[6, 6, 6:8] = 3, 3
    expected = remove_all_but_largest_component_from_segmentation(found, labels)
    assert (expected != found).any()
    assert np.array_equal(clean(found, rules, 1.0), expected)
    twins = np.zeros((5, 5, 5), np.uint8)
    twins[0, 0, :2] = twins[4, 4, :2] = twins[2, 2, 2] = 3  # of one size: nnU-Net keeps both
    expected = remove_all_but_largest_component_from_segmentation(twins, labels)
    assert np.array_equal(clean(twins, rules, 1.0), expected)


def test_a_postprocessing_that_holds_code_does_not_run_it(folder: Path, tmp_path: Path) -> None:
    home = folder / "crossval_results_folds_0"
    home.mkdir()
    for content, message in (
        (([Evil(tmp_path / "evil")], [{}]), "calls builtins.exec, expected the functions of nnU-Net and numbers"),
        (([print], [{}]), "changes label maps by builtins.print, expected remove_all_but_largest_component_from"),
        (([], [{}]), "expected as many functions as keyword arguments"),
        ({"a": 1}, "holds dict, expected functions"),
        (({1, 2}, 1.5), "has the operation EMPTY_SET, which no postprocessing.pkl of nnU-Net has"),
    ):
        (home / "postprocessing.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ExportError, match=message) as caught:
            read(folder)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "evil")))
    assert (tmp_path / "evil").exists()  # else there was nothing to run
    (home / "postprocessing.pkl").write_bytes(b"x")
    with pytest.raises(ExportError, match="is no pickle that nnU-Net writes"):
        read(folder)
    for keywords, message in (
        ({"labels_or_regions": [0, 1]}, r"keeps the largest component of \[0, 1\], expected labels from 1 to 255"),
        ({"labels_or_regions": 1, "background_label": 2}, "gives what it removes the label 2, expected 0"),
        ({"surprise": 1}, "expected labels_or_regions and background_label"),
    ):
        write_postprocessing(home, "pkl", [keywords])
        with pytest.raises(ExportError, match=message):
            read(folder)
    with pytest.raises(ExportError, match=r"nowhere.pkl: does not exist, expected a postprocessing.pkl or"):
        read(folder, postprocessing="nowhere.pkl")


def test_the_command_takes_a_kind_of_checkpoint(folder: Path, tmp_path: Path, command: Command) -> None:
    done = command("export", folder, "-o", tmp_path / "out", "--checkpoint", "latest")
    assert done.returncode == 1
    assert "checkpoint_latest.pth: does not exist; to take what is there, say --checkpoint final" in done.stderr
    done = command("export", folder, "-o", tmp_path / "out", "--checkpoint", "last")
    assert done.returncode == 2
    assert "expected final or best or latest" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_names_that_are_there_twice_differ() -> None:
    names = nnunet_labels.unique(["x", "x-1", "x", "y", "x", "x-4"])
    assert names == ["x-0", "x-1", "x-2", "y", "x-5", "x-4"]
    assert nnunet_labels.unique(["a", "b"]) == ["a", "b"]


def test_checkpoints_are_chosen(folder: Path) -> None:
    def taken(**options: Any) -> str | None:
        return read(folder, **options).networks["fold-0"].checkpoint

    final = folder / "fold_0" / "checkpoint_final.pth"
    for kind in ("latest", "best", "epoch_7"):
        shutil.copy(final, final.with_name(f"checkpoint_{kind}.pth"))
    assert taken() == taken(checkpoint="any") == "fold_0/checkpoint_final.pth"
    for kind in nnunet_folder.KINDS:
        assert taken(checkpoint=kind) == f"fold_0/checkpoint_{kind}.pth"
    named = nnunet.recipe(final.with_name("checkpoint_epoch_7.pth"), nnunet.Options())
    assert named.networks["fold-0"].checkpoint == "fold_0/checkpoint_epoch_7.pth"
    final.unlink()
    assert taken() == "fold_0/checkpoint_best.pth"
    final.with_name("checkpoint_best.pth").unlink()
    assert importers.read_again(folder, ["fold-0"]).recipe.networks["fold-0"].file == "fold_0/checkpoint_latest.pth"
    with pytest.raises(ExportError, match=r"nor checkpoint_best.pth; to take what is there, say --checkpoint latest"):
        taken()
    with pytest.raises(ExportError, match="checkpoint: 'last' is none; expected final, best or latest"):
        taken(checkpoint="last")


def test_the_command_takes_the_options_of_cascades_ensembles_and_postprocessing(
    folder: Path, tmp_path: Path, command: Command
) -> None:
    for options, message in (
        (("--postprocessing", "nowhere.pkl"), "nowhere.pkl: does not exist, expected a postprocessing.pkl or"),
        (("--previous", "nowhere"), "3d_fullres refines no other configuration; leave out --previous nowhere"),
        (("--configurations", "2d,3d_fullres"), "--configurations names 2d, expected different names"),
    ):
        done = command("export", folder, "-o", tmp_path / "out", *options)
        assert done.returncode == 1
        assert message in " ".join(done.stderr.split())
    write_postprocessing(folder / "crossval_results_folds_0", "json", [{"labels_or_regions": 2}])
    done = command("export", folder, "-o", tmp_path / "out", "--no-mirror")
    assert done.returncode == 0
    told = "crossval_results_folds_0/postprocessing.json: postprocessing keeps the largest component of labels 2"
    assert told in " ".join(done.stdout.split())
    report = json.loads((tmp_path / "out" / "reports" / "export.json").read_text())
    assert report["importer"]["notes"] == [told]
    assert Bundle.open(tmp_path / "out").manifest.stages[0].cleanup[0].labels == (2,)

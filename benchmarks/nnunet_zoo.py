"""Every configuration of nnU-Net plans that other groups published, as a bundle, against nnU-Net's own predictor.

    .venv-dev/bin/python benchmarks/nnunet_zoo.py [NAME[:CONFIGURATION] ...] [--work FOLDER]

The plans keep their topology, spacing, normalisation and resampling. The width is an eighth, and patches are small.
Weights are seeded. The scan is a real head, or a real tumor in four channels, on a grid that is finer along one axis
and coarser along another than the plan's, with intensities of the plan's range. Of a cascade nnU-Net's second stage
refines the labels of the bundle's first stage, and the first stage is a row of its own.

A voxel is close if nnU-Net's own two best scores differ there by less than a thousandth of their range. Dice is of each
label with more than 100 voxels. Needs lowres-seg[all], nnunetv2, and the real data (LOWRES_SEG_REALDATA, or
../shared/realdata beside the checkout). About ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import torch

from lowres_seg import Volume, host
from lowres_seg.errors import ExportError
from lowres_seg.export import Options, export
from lowres_seg.runtime import stage_run
from lowres_seg.runtime.networks import compile_networks
from lowres_seg.runtime.scan_state import ScanState

HERE = Path(__file__).resolve().parent
REALDATA = Path(os.environ.get("LOWRES_SEG_REALDATA", HERE.parent.parent / "shared" / "realdata"))
TUMOR = [f"tumor/TCGA-FG-6692/{name}" for name in ("t1c", "t1n", "t2f", "t2w")]
HEAD = ["heads/rordenlab_T1_0.8mm"]
FOUR: dict[str, Any] = {
    "channel_names": {"0": "T1c", "1": "T1", "2": "FLAIR", "3": "T2"},
    "labels": {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3},
    "file_ending": ".nii.gz",
}
#: Share of the range of nnU-Net's scores below which a voxel is close.
CLOSE = 1e-3
THREADS = host.inspect().threads


def main() -> None:
    """Go through all plans, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME[:CONFIGURATION]")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(HERE.parent / "tests"))
    print(f"{'configuration':42}{'equal':>10}{'differ':>8}{'close':>7}  Dice of each label")
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted((REALDATA / "nnunet_plans").glob("*__plans.json")):
            name = path.name.removesuffix("__plans.json")
            described = path.with_name(f"{name}__dataset.json")
            plans = json.loads(path.read_text(encoding="utf-8"))
            dataset = json.loads(described.read_text(encoding="utf-8")) if described.exists() else FOUR
            for configuration in plans["configurations"]:
                if not given.names or {name, f"{name}:{configuration}"} & set(given.names):
                    home = (given.work or Path(scratch)) / name / configuration
                    one(f"{name} {configuration}", home, reduced(plans), dataset, configuration)


def reduced(plans: dict[str, Any]) -> dict[str, Any]:
    """Copy of plans with an eighth of the width and the smallest patches."""
    plans = json.loads(json.dumps(plans))
    for plan in plans["configurations"].values():
        if "architecture" in plan:
            given = plan["architecture"]["arch_kwargs"]
            given["features_per_stage"] = [max(4, features // 8) for features in given["features_per_stage"]]
            strides = given["strides"]
        elif "UNet_base_num_features" in plan:
            plan["UNet_base_num_features"] //= 8
            plan["unet_max_num_features"] //= 8
            strides = plan["pool_op_kernel_sizes"]
        else:
            continue
        # The planner leaves at least four values along an axis of the lowest stage; two in 3D save time.
        plan["patch_size"] = [int((4 if len(strides[0]) == 2 else 2) * n) for n in np.prod(strides, axis=0)]
    return plans


def whole(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration with what it inherits."""
    plan = plans["configurations"][configuration]
    return whole(plans, plan["inherits_from"]) | plan if "inherits_from" in plan else dict(plan)


def one(title: str, home: Path, plans: dict[str, Any], dataset: dict[str, Any], configuration: str) -> None:
    """Make the folder of a configuration, export it, compare; print a line for each stage."""
    import nnunet_folders

    plan = whole(plans, configuration)
    home.mkdir(parents=True, exist_ok=True)
    files = scan(home, plans, plan, len(dataset["channel_names"]))
    folder, previous = home / f"nnUNetTrainer__nnUNetPlans__{configuration}", None
    try:
        if before := plan.get("previous_stage"):
            lower = home / f"nnUNetTrainer__nnUNetPlans__{before}"
            nnunet_folders.seed_folder(lower, plans, dataset, before, example=files)
            previous = home / "before.nii.gz"
            expected_before, close_before = predicted(lower, files, out=previous)
        nnunet_folders.seed_folder(folder, plans, dataset, configuration, example=files, previous=previous, seed=3)
        bundle = export(folder, home / "bundle", options=Options(mirror=False), force=True)
    except (ExportError, AttributeError, RuntimeError, AssertionError, OSError) as error:
        refused(title, folder, plans, dataset, configuration, error)
        return
    compiled = compile_networks(bundle.manifest, bundle.network_files(), threads=THREADS)
    state = ScanState.before(bundle.manifest.stages, [Volume.load(f) for f in files], bundle.manifest.channels)
    for stage in bundle.manifest.stages:
        state.results[stage.name] = stage_run.run(stage, compiled[stage.name], state, threads=THREADS)
    found = state.on_scan
    if previous is not None:
        row(f"{title}, first stage", found["lowres"], expected_before, close_before)
        image = nibabel.load(files[0])
        nibabel.save(nibabel.Nifti1Image(found["lowres"], image.affine), previous)
    expected, close = predicted(folder, files, previous=previous)
    row(title, found[bundle.manifest.stages[-1].name], expected, close)


def refused(
    title: str, folder: Path, plans: dict[str, Any], dataset: dict[str, Any], configuration: str, error: Exception
) -> None:
    """Print why there is no bundle. A folder that nnU-Net itself cannot make here gets a checkpoint without weights."""
    if not isinstance(error, ExportError):
        (folder / "fold_0").mkdir(parents=True, exist_ok=True)
        for name, content in (("plans.json", plans), ("dataset.json", dataset)):
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        saved = {"trainer_name": "nnUNetTrainer", "init_args": {"configuration": configuration}, "network_weights": {}}
        torch.save(saved, folder / "fold_0" / "checkpoint_final.pth")
        try:
            export(folder, folder.parent / "bundle", options=Options(mirror=False), force=True)
        except ExportError as told:
            error = told
        else:
            raise error
    print(f"{title:42}refused: {str(error).removeprefix(str(folder)).lstrip('/')}", flush=True)


def scan(home: Path, plans: dict[str, Any], plan: dict[str, Any], channels: int) -> list[Path]:
    """Files of a scan that is somewhat larger than a patch of the plan."""
    spacing, patch = list(plan["spacing"]), list(plan["patch_size"])
    if len(spacing) == 2:
        spacing, patch = [3.0, *spacing], [6, *patch]
    own = np.array(spacing) * (1.25 if len(plan["spacing"]) == 3 else 1.0, 0.8, 0.9)
    shape = np.ceil(1.4 * np.array(patch) * spacing / own).astype(int)
    properties = plans.get("foreground_intensity_properties_per_channel", {})
    files = []
    for number, name in enumerate((TUMOR if channels == 4 else HEAD)[:channels]):
        data = np.asarray(nibabel.load(REALDATA / f"{name}.nii.gz").dataobj, np.float32)
        used = [np.flatnonzero((data > 0).any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        ends = [(int(one[0]), int(one[-1])) for one in used]
        at = [np.linspace(low, high, n).astype(int) for (low, high), n in zip(ends, shape[::-1], strict=True)]
        data = data[np.ix_(*at)]
        if plan["normalization_schemes"][number] == "CTNormalization":
            known = properties[str(number)]
            low, high = known["percentile_00_5"], known["percentile_99_5"]
            data = low + (high - low) * np.clip(data / np.percentile(data, 99.5), 0, 1.2)
        files.append(home / f"scan_{number:04}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.diag([*own[::-1], 1.0])), files[-1])
    return files


def predicted(folder: Path, files: list[Path], **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net's labels, and where its two best scores are close."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    import nnunet_folders

    decode = LabelManager.convert_logits_to_segmentation

    def both(manager: Any, logits: Any) -> Any:
        scores = torch.as_tensor(np.asarray(logits)).float()
        best = scores.topk(2, dim=0).values
        near = best[0] - best[1] < CLOSE * (scores.max() - scores.min())
        return 2 * torch.as_tensor(np.asarray(decode(manager, logits))).to(torch.int64) + near

    out = how.pop("out", None)
    with mock.patch.object(LabelManager, "convert_logits_to_segmentation", both):
        coded = nnunet_folders.predict_with_nnunet(folder, files, **how)
    labels = (coded // 2).astype(np.uint8)
    if out is not None:
        nibabel.save(nibabel.Nifti1Image(labels, nibabel.load(files[0]).affine), out)
    return labels, coded % 2 == 1


def row(title: str, found: np.ndarray, expected: np.ndarray, close: np.ndarray) -> None:
    """Print how far two label maps agree."""
    differ = found != expected
    dice = []
    for label, count in zip(*np.unique(expected, return_counts=True), strict=True):
        if label and count > 100:
            both = np.count_nonzero((found == label) & (expected == label))
            dice.append(f"{label}:{2 * both / (np.count_nonzero(found == label) + count):.4f}")
    counts = f"{np.count_nonzero(differ):>8}{np.count_nonzero(differ & close):>7}"
    print(f"{title:42}{1 - differ.mean():>10.6f}{counts}  {' '.join(dice)}", flush=True)


if __name__ == "__main__":
    main()

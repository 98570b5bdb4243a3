"""The main job on real heads, with deepbet's own package as the oracle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from lowres_seg import Bundle, Segmenter, Volume
from lowres_seg.cli.demo import _table
from lowres_seg.demo import Assets, Row
from lowres_seg.export import importers, phantom
from lowres_seg.metrics.agreement import dice

from .conftest import run


@dataclass(frozen=True)
class Demo:
    """What one run of the demo left."""

    folder: Path
    fp32: Path
    int8: Path
    result: dict[str, Any]
    steps: list[str]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, checkout: Path, assets: Assets) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    done = run("demo", "-o", folder, "--json")
    assert done.returncode == 0, done.stderr
    return Demo(
        folder,
        folder / "deepbet-1.0.2-fp32",
        folder / "deepbet-1.0.2-int8",
        json.loads(done.stdout),
        done.stderr.splitlines(),
    )


@pytest.fixture(scope="session")
def oracle(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], np.ndarray]:
    """deepbet's own mask of a head."""
    folder = tmp_path_factory.mktemp("deepbet")
    with zipfile.ZipFile(assets.deepbet_wheel) as wheel:
        wheel.extractall(folder)
    sys.path.insert(0, str(folder))
    try:
        from deepbet.bet import BrainExtraction
    finally:
        sys.path.remove(str(folder))
    package: Any = BrainExtraction(no_gpu=True)
    return lambda path: package.run(nib.load(path))[1].get_fdata() > 0


@pytest.fixture(scope="session")
def segmenter(demo: Demo) -> Segmenter:
    return Segmenter.load(demo.fp32)


def test_the_demo_says_each_step_through_a_pipe_and_its_table_fits_a_terminal(demo: Demo) -> None:
    assert demo.steps[0].startswith("weights and a head")
    assert {step.partition(":")[0] for step in demo.steps} >= {"export", "quantize"}
    assert "segmenting with deepbet-1.0.2-int8" in demo.steps
    lines = _table([Row(**row) for row in demo.result["rows"]])
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["deepbet-1.0.2-fp32", "deepbet-1.0.2-int8"]
    assert lines[2].split()[-2:] == [f"{row['dice']:.4f}" for row in demo.result["rows"]]


def test_the_demo_finds_the_templates_brain(demo: Demo) -> None:
    fp32, int8 = demo.result["rows"]
    assert fp32["dice"] >= 0.97
    assert int8["dice"] >= 0.97
    assert int8["dice_with_fp32"] >= 0.998
    assert fp32["hd95_mm"] < 5
    assert int8["bundle_bytes"] < 0.5 * fp32["bundle_bytes"]
    assert all(row["timings_s"]["brain.network"] > 0 and row["peak_rss_bytes"] > 1e8 for row in (fp32, int8))


def test_the_demos_bundles_verify_and_know_their_parent(demo: Demo) -> None:
    assert run("verify", demo.fp32).returncode == 0
    for threads in (1, 2):  # its own norms split their sums by threads
        assert run("verify", demo.int8, "--threads", threads).returncode == 0
    fp32, int8 = Bundle.open(demo.fp32), Bundle.open(demo.int8)
    assert int8.manifest.lineage.parent == fp32.digest
    assert {network.precision for network in int8.manifest.networks.values()} == {"int8"}
    assert int8.manifest.stages == fp32.manifest.stages


def test_the_demo_exports_the_recipe_as_it_is(demo: Demo, checkout: Path) -> None:
    source = importers.read(checkout / "export" / "deepbet" / "recipe.toml", {})
    assert Bundle.open(demo.fp32).manifest.lineage.recipe == source.digest


def test_it_gives_deepbets_own_mask_on_the_template(
    segmenter: Segmenter, assets: Assets, oracle: Callable[[Path], np.ndarray]
) -> None:
    assert dice(segmenter.predict(assets.head).labels.data > 0, oracle(assets.head)) >= 0.9995


@pytest.mark.parametrize("name", ["rordenlab_T1_0.8mm", "TCGA-FG-6692_t1"])
def test_it_gives_deepbets_own_mask_on_other_heads(
    segmenter: Segmenter, realdata: Path, oracle: Callable[[Path], np.ndarray], name: str
) -> None:
    head = realdata / "heads" / f"{name}.nii.gz"
    assert dice(segmenter.predict(head).labels.data > 0, oracle(head)) >= 0.9995


def test_the_phantom_of_the_reference_case_is_taken_for_a_head(segmenter: Segmenter) -> None:
    head = phantom.head()
    assert dice(segmenter.predict(head).labels.data > 0, phantom.brain(head)) >= 0.95


def _flipped(image: Any) -> Any:
    """Stored the other way round along its first axis; the same head in space."""
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (image.shape[0] - 1)
    affine[:3, 0] *= -1
    return nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1], affine)


def _rotated(image: Any) -> Any:
    """Turned by 90° about its third axis in storage; the same head in space."""
    data = np.rot90(np.asanyarray(image.dataobj), axes=(0, 1))
    # rot90 sends (i, j) to (n_j - 1 - j, i), so the new first axis is the old second one, backwards.
    back = np.array([[0, 1, 0, 0], [-1, 0, 0, image.shape[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    return nib.Nifti1Image(data, image.affine @ back)


def _lia(path: Path, target: Path) -> None:
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LIA"), str(target))


def predicted(demo: Demo, scan: Path, folder: Path) -> Path:
    """Path of the mask of a scan."""
    target = folder / f"{scan.name.partition('.')[0]}_mask.nii.gz"
    done = run("predict", demo.fp32, scan, "-o", target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def as_stored(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Function that gives the mask of a head as it is stored; it is made once."""
    folder = tmp_path_factory.mktemp("as-stored")
    return cache(lambda scan: predicted(demo, scan, folder))


@pytest.mark.parametrize("copy", ["flipped", "rotated", "lia"])
@pytest.mark.parametrize("head", ["template", "TCGA-FG-6692_t1"])
def test_copies_in_other_orientations_give_the_same_mask(
    request: pytest.FixtureRequest,
    demo: Demo,
    assets: Assets,
    as_stored: Callable[[Path], Path],
    tmp_path: Path,
    head: str,
    copy: str,
) -> None:
    path = assets.head if head == "template" else request.getfixturevalue("realdata") / "heads" / f"{head}.nii.gz"
    image = nib.load(path)
    other = tmp_path / f"{copy}.nii.gz"
    if copy == "lia":
        _lia(path, other)
        assert "".join(nib.aff2axcodes(nib.load(other).affine)) == "LIA"
    else:
        (_flipped if copy == "flipped" else _rotated)(image).to_filename(other)
    found = predicted(demo, other, tmp_path)
    masks = [nib.as_closest_canonical(nib.load(mask)) for mask in (as_stored(path), found)]
    assert np.allclose(masks[0].affine, masks[1].affine, atol=1e-3)
    assert dice(*(np.asanyarray(mask.dataobj) > 0 for mask in masks)) >= 0.999
    assert nib.load(found).shape == nib.load(other).shape
    assert np.array_equal(nib.load(found).affine, nib.load(other).affine)


def test_simpleitk_sees_mask_and_scan_in_one_place(demo: Demo, assets: Assets) -> None:
    scan = sitk.ReadImage(str(assets.head))
    mask = sitk.ReadImage(str(demo.folder / "deepbet-1.0.2-fp32_mask.nii.gz"))
    assert mask.GetSize() == scan.GetSize()
    for read in ("GetOrigin", "GetDirection", "GetSpacing"):
        assert getattr(mask, read)() == pytest.approx(getattr(scan, read)())


def test_deepbet_keeps_the_papers_limits_on_heads_it_was_not_calibrated_on(
    demo: Demo, assets: Assets, realdata: Path, tmp_path: Path
) -> None:
    heads = realdata / "heads"
    (tmp_path / "cal.csv").write_text(f"t1\n{heads / 'rordenlab_T1_0.8mm.nii.gz'}\n")
    rows = [f"template,{assets.head},{assets.mask}"]
    rows.append(f"tcga,{heads / 'TCGA-FG-6692_t1.nii.gz'},{heads / 'TCGA-FG-6692_t1_hdbet-mask.nii.gz'}")
    (tmp_path / "val.csv").write_text("\n".join(["id,t1,label", *rows]) + "\n")
    tables = ["--calibrate", tmp_path / "cal.csv", "--validate", tmp_path / "val.csv"]
    limits = ["--max-drop", 0.001, "--max-hd95-rise", 0.085]
    done = run("quantize", demo.fp32, *tables, *limits, "-o", tmp_path / "int8")
    assert done.returncode == 0, done.stderr
    assert {network.precision for network in Bundle.open(tmp_path / "int8").manifest.networks.values()} == {"int8"}
    report = json.loads((tmp_path / "int8" / "reports" / "quantize.json").read_text())
    assert all(layer["precision"] == "int8" or layer["type"] == "norm" for layer in report["layers"])
    # the same bundle on a CPU without VNNI
    for name, isa in (("native", ""), ("avx2", "AVX2")):
        environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
        command = ["predict", tmp_path / "int8", assets.head, "-o", tmp_path / f"{name}.nii.gz"]
        done = subprocess.run(
            [sys.executable, "-m", "lowres_seg", *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
    masks = [Volume.load(tmp_path / f"{name}.nii.gz").data > 0 for name in ("native", "avx2")]
    assert dice(*masks) > 0.999

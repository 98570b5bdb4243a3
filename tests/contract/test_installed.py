"""The first commands of somebody who installed a wheel, in a folder where nothing lies."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import lowres_seg
from lowres_seg import Volume

RECIPES = [
    "acs_all_resnet18_nnunet", "acs_resnet18_nnunet", "acs_resnet50_classifier", "acs_resnet50_unet", "brainmage",
    "cnn_idh", "deepbet", "densenet121_idh", "efficientnet_b0_unet", "gandlf_resunet", "grade_nnunet", "jcs_nnunet",
    "meshnet_50", "meshnet_gwm", "mindgrab", "msnet", "multi_annotator_nnunet", "nnunet_brats", "nnunet_grade",
    "sae_robust_tissue", "spin_atlas",
]  # fmt: skip
SCRIPT = Path(sys.executable).with_name("lowres-seg")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *map(str, words)], capture_output=True, text=True, check=False, timeout=120)


def test_it_says_its_version_and_how_to_see_a_demo(empty: Path) -> None:
    assert run("--version").stdout == f"{lowres_seg.__version__}\n"
    done = run("demo", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "lowres-seg demo" in done.stdout
    assert list(empty.iterdir()) == []


def test_it_has_its_recipes(empty: Path) -> None:
    code = "from lowres_seg.export import recipes\nfor name in recipes.names(): print(name, recipes.named(name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert sorted(found) == RECIPES
    for name, file in found.items():
        path = Path(file)
        extends = 'extends = "../family.toml"' in path.read_text(encoding="utf-8")
        shared = path.parents[1] / "family.toml" if extends else path
        assert "[weights]" in shared.read_text(encoding="utf-8"), name
        assert shared.with_name("MODEL_CARD.md").is_file()


@pytest.mark.skipif(find_spec("torch") is not None, reason="the extra is installed here")
@pytest.mark.parametrize("name", ["deepbet", "mindgrab"])
def test_export_says_in_one_line_which_extra_it_needs(empty: Path, name: str) -> None:
    done = run("export", name, "-o", "bundle")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("error: export needs torch, onnx, onnxscript, onnxruntime, not installed here: pip ")
    assert list(empty.iterdir()) == []


def test_predict_gives_the_mask_of_every_version_of_openvino(empty: Path, checkout: Path) -> None:
    """Also of the lowest that may be installed: the mask in the checkout is one for all."""
    old = checkout / "tests" / "data" / "3b2aec7"
    for name in ("bundle-fp32", "bundle-int8"):
        done = run("predict", old / name, old / "h2.nii.gz", "-o", f"{name}.nii.gz")
        assert done.returncode == 0, done.stderr
    given = Volume.load(old / "h2_mask.nii.gz").data
    assert np.array_equal(Volume.load(empty / "bundle-fp32.nii.gz").data, given)
    # Quantized on one CPU, and computed on another: nearly every voxel.
    assert np.mean(Volume.load(empty / "bundle-int8.nii.gz").data == given) > 0.999

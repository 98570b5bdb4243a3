"""What the runtime must not do on a workstation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from lowres_seg import Volume
from watching import watched

#: nibabel looks whether scipy is there, which loads its empty shell; nothing of it may be used.
BUILD_TIME = (
    "SimpleITK",
    "cryptography",
    "pydicom",
    "highdicom",
    "dicomweb_client",
    "gdcm",
    "requests",
    "nrrd",
    "torch",
    "nncf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino_telemetry",
    "openvino.tools.ovc",
    "scipy.ndimage",
    "scipy.special",
    "scipy.linalg",
    "scipy.sparse",
    "scipy.spatial",
    "scipy.interpolate",
    "ssl",
    "http.client",
    "urllib.request",
)


@pytest.fixture
def scan(tmp_path: Path, lopsided: Callable[..., Volume]) -> Path:
    lopsided().save(tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


def test_predict_imports_nothing_of_build_time_and_tells_nobody(tiny: Path, scan: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert watched(home, "predict", tiny, scan, "-o", tmp_path / "m.nii", modules=BUILD_TIME) == "0 [] []"
    assert list(home.iterdir()) == []


def test_view_does_neither(scan: Path, tmp_path: Path) -> None:
    volume = Volume.load(scan)
    Volume((volume.data > 0.5).astype("uint8"), volume.grid).save(tmp_path / "m.nii")
    assert watched(tmp_path / "home", "view", scan, tmp_path / "m.nii", modules=BUILD_TIME) == "0 [] []"


def test_verify_and_doctor_do_neither(tiny: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert watched(home, "verify", tiny, modules=BUILD_TIME) == "0 [] []"
    assert watched(home, "doctor", modules=BUILD_TIME) == "0 [] []"
    assert list(home.iterdir()) == []


@pytest.mark.skipif(PathFinder.find_spec("openvino_telemetry") is None, reason="the package is not installed here")
def test_left_to_itself_openvino_does_load_its_telemetry(tmp_path: Path) -> None:
    """Shows that the two tests above can fail."""
    code = "import sys, openvino; print(sys.modules.get('openvino_telemetry') is not None)"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "True"


def test_these_tests_tell_nobody_either() -> None:
    """Telemetry forks the process of the tests for every conversion, which took a third of their time."""
    assert "openvino" in sys.modules
    assert sys.modules.get("openvino_telemetry") is None

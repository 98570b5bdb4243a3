"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowres_seg
from lowres_seg import Bundle, Manifest, Segmenter, Volume
from lowres_seg import bundle as bundles
from lowres_seg.bundle import NetworkFiles
from lowres_seg.runtime.networks import compile_networks

# After openvino_engine, which keeps OpenVINO's telemetry out. That forks this process for every conversion.
import openvino  # isort: skip
from openvino import opset13 as opset  # isort: skip

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def modules() -> dict[str, Path]:
    """The package's own modules, by their names in it, where it is installed: in a checkout, or from a wheel."""
    package = Path(lowres_seg.__file__).parent
    paths = {path.relative_to(package): path for path in package.rglob("*.py")}
    # A wheel has the recipes, whose networks are no modules, in the package.
    return {".".join(path.with_suffix("").parts): paths[path] for path in paths if path.parts[0] != "recipes"}


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real scans and weights; they are other people's, so a checkout does not have them."""
    folder = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set LOWRES_SEG_REALDATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test looks into the compiled networks of the user who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRES_SEG_CACHE", str(tmp_path_factory.mktemp("compiled") / "cache"))
        yield


def manifest_content(**changes: Any) -> dict[str, Any]:
    """A manifest of one stage at 16³ that marks the voxels whose right-hand neighbour is bright."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "version": "1",
        "description": "for tests",
        "license": "CC0-1.0",
        "source": "the tests",
        "intended_use": "tests",
        "channels": ["t1"],
        "labels": [{"value": 1, "name": "brain"}],
        "stages": [
            {
                "name": "only",
                "networks": ["net"],
                "conform": {"orientation": "RAS", "shape": [16, 16, 16], "interpolation": "nearest"},
                "decode": {"kind": "regions", "regions": [{"channel": 1, "threshold": 0.5, "label": 1}]},
                "restore": {"what": "scores", "interpolation": "nearest"},
            }
        ],
        "networks": {
            "net": {
                "xml": "networks/net.xml",
                "bin": "networks/net.bin",
                "input_shape": [1, 1, 16, 16, 16],
                "output_shape": [1, 2, 16, 16, 16],
            }
        },
        "reference": {"file": "reference.npz", "max_abs_diff": 1e-3, "max_flipped": 1e-4},
        "lineage": {"sources": {"net": "0" * 64}, "recipe": "0" * 64, "tools": {}},
        "files": {"networks/net.xml": "0" * 64, "networks/net.bin": "0" * 64, "reference.npz": "0" * 64},
    }
    content.update(changes)
    return content


def write_network(path: Path, channels: int = 1, size: int = 16) -> None:
    """IR of a network whose score 1 is sigmoid(20·(x at the voxel one to the right - 0.5)), score 0 the rest."""
    x = opset.parameter([1, channels, size, size, size], np.float32, name="input")
    kernel = np.zeros((1, channels, 3, 1, 1), np.float32)
    kernel[0, 0, 2] = 20
    shifted = opset.convolution(x, opset.constant(kernel), [1] * 3, [1, 0, 0], [1, 0, 0], [1] * 3)
    p = opset.sigmoid(opset.subtract(shifted, np.float32(10)))
    scores = opset.concat([opset.subtract(np.float32(1), p), p], 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.Model([scores], [x], "tiny"), path, compress_to_fp16=False)


def blob(shape: tuple[int, int, int] = (16, 16, 16), affine: np.ndarray | None = None, seed: int = 0) -> Volume:
    """A lopsided bright blob: no flip and no rotation maps it onto itself."""
    data = np.zeros(shape, np.float32)
    i, j, k = shape
    data[i // 8 : i // 2, j // 4 : j // 2, k // 2 : k - k // 8] = 1
    data[i // 2 : i // 2 + i // 4, j // 4 : j // 4 + j // 8, k // 2 : k // 2 + k // 8] = 1
    data += np.random.default_rng(seed).uniform(0, 0.1, shape).astype(np.float32)
    return Volume.from_array(data, np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine)


def write_bundle(folder: Path, content: dict[str, Any]) -> Bundle:
    """Fill `folder` with a valid bundle for `content`."""
    for network in content["networks"].values():
        write_network(folder / network["xml"], *network["input_shape"][1:3])
    content["files"] = {**bundles.digests(folder), content["reference"]["file"]: "0" * 64}
    draft = Manifest.model_validate(content)
    files = {name: NetworkFiles.written(folder / network["xml"]) for name, network in content["networks"].items()}
    segmenter = Segmenter(draft, compile_networks(draft, files, threads=1), threads=1)
    scan = {name: blob(seed=index) for index, name in enumerate(content["channels"])}
    segmenter.record_reference(scan, folder / "reference.npz")
    content["files"] = bundles.digests(folder)
    (folder / "manifest.json").write_text(Manifest.model_validate(content).to_json(), encoding="utf-8")
    return Bundle.open(folder)


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a tiny bundle with changes to its manifest and gives its path."""

    def make(name: str = "tiny", **changes: Any) -> Path:
        return write_bundle(tmp_path / name, manifest_content(**changes)).path

    return make


@pytest.fixture
def tiny(make_bundle: Callable[..., Path]) -> Path:
    """Path of a valid bundle of one channel."""
    return make_bundle()


@pytest.fixture
def content() -> Callable[..., dict[str, Any]]:
    return manifest_content


@pytest.fixture(scope="session")
def lopsided() -> Callable[..., Volume]:
    return blob

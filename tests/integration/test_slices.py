"""Networks of two dimensions of one's own, in torch, TorchScript and ONNX, on slices and on those beside them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg import Bundle, ExportError, Segmenter, Volume
from lowres_seg.cohort.cases import Cases
from lowres_seg.export import export
from lowres_seg.quantize import calibration

from .own_networks import recipe, seeded

SIDES = (10, 16, 12)
STAGE = """
[[stages]]
name = "segment"
networks = ["net"]
conform = { orientation = "RAS", pad = "zero" }
windows = { roi_size = [1, 16, 12], rules = "monai" }
decode = { kind = "regions", activation = "sigmoid", regions = [{ channel = 0, label = 1 }] }
"""


class Flat(nn.Module):
    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


def written(folder: Path, network: nn.Module, kind: str, stage: str, *, channels: int = 1, **options: Any) -> Path:
    source = f'{kind} = "net.{kind}"'
    if kind == "checkpoint":
        source = f'factory = "network.py:build"\narguments = {{ channels = {channels} }}\ncheckpoint = "net.pt"'
    key = "" if kind == "onnx" else "slices = true"
    made = recipe(folder, f"\n[networks.net]\n{source}\n{key}\n{stage}", {"net": network}, channels=("t1",))
    x = torch.zeros(1, channels, 16, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.script(network).save(str(folder / "net.torchscript"))
        if kind == "onnx":
            names = {"input_names": ["x"], "output_names": ["y"]}
            torch.onnx.export(network, (x,), str(folder / "net.onnx"), dynamo=False, **names, **options)
    return made


def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, SIDES).astype(np.float32)


def margins(network: nn.Module, slices: np.ndarray) -> np.ndarray:
    """Scores of slices (N, C, H, W)."""
    with torch.no_grad():
        return network(torch.from_numpy(slices))[:, 0].numpy()


def check(bundle: Path, data: np.ndarray, expected: np.ndarray) -> None:
    labels = Segmenter.load(bundle).predict(Volume.from_array(data, np.eye(4))).labels.data
    sure = np.abs(expected) > 1e-4
    assert np.array_equal(labels[sure], expected[sure] > 0)
    assert 0.1 < labels.mean() < 0.9


OPEN = {"dynamic_axes": {name: {2: "h", 3: "w"} for name in ("x", "y")}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("checkpoint", {}), ("torchscript", {}), ("onnx", {}), ("onnx", {"opset_version": 11}), ("onnx", OPEN)],
)
def test_a_network_of_two_dimensions_runs_on_every_slice(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    network = seeded(Flat())
    export(written(tmp_path / "r", network, kind, STAGE, **options), tmp_path / "b")
    assert Bundle.open(tmp_path / "b").manifest.networks["net"].input_shape == (1, 1, 1, 16, 12)
    data = volume()
    check(tmp_path / "b", data, margins(network, data[:, None]))


def test_three_networks_see_three_views(tmp_path: Path) -> None:
    names = ("sagittal", "coronal", "axial")
    networks = {name: seeded(Flat(), seed) for seed, name in enumerate(names)}
    entries = "".join(f'\n[networks.{name}]\nfactory = "network.py:build"\ncheckpoint = "{name}.pt"\nslices = true\n' for name in names)  # fmt: skip
    views = ", ".join(f'{name} = "{name}"' for name in names)
    stage = STAGE.replace('["net"]', f'["sagittal", "coronal", "axial"]\nviews = {{ {views} }}')
    stage = stage.replace("roi_size = [1, 16, 12]", 'roi_size = [1, 16, 16], axes = "view", weights = "constant"')
    export(recipe(tmp_path / "r", entries + stage, networks, channels=("t1",)), tmp_path / "b")
    data = np.random.default_rng(1).normal(0, 1, (16, 16, 16)).astype(np.float32)
    orders = {"sagittal": (0, 1, 2), "coronal": (1, 0, 2), "axial": (2, 0, 1)}
    scores = [
        margins(networks[name], np.ascontiguousarray(data.transpose(order))[:, None]).transpose(
            [order.index(axis) for axis in range(3)]
        )
        for name, order in orders.items()
    ]
    check(tmp_path / "b", data, np.mean(scores, axis=0))


def test_five_slices_of_one_contrast_give_the_scores_of_the_middle_one(tmp_path: Path) -> None:
    network = seeded(Flat(5))
    windows = 'neighbours = 2, beyond = "mean", roi_size'
    source = written(tmp_path / "r", network, "checkpoint", STAGE.replace("roi_size", windows), channels=5)
    export(source, tmp_path / "b")
    data = volume()
    wide = np.pad(data, [(2, 2), (0, 0), (0, 0)], constant_values=data.mean())
    check(tmp_path / "b", data, margins(network, np.stack([wide[place : place + 10] for place in range(5)], axis=1)))


def test_norms_are_measured_on_whole_slices_and_calibration_gets_them(tmp_path: Path) -> None:
    data = volume()
    Volume.from_array(data, np.eye(4)).save(tmp_path / "t1.nii.gz")
    (tmp_path / "cases.csv").write_text("t1\nt1.nii.gz\n")
    stage = STAGE.replace("[1, 16, 12]", "[1, 8, 8]")
    source = written(tmp_path / "r", seeded(Flat()), "checkpoint", stage)
    export(source, tmp_path / "b", reestimate_norm=tmp_path / "cases.csv")
    with np.load(tmp_path / "b" / "norms.npz") as norms:
        (mean,) = (norms[name] for name in norms if name.endswith("running_mean"))
        (variance,) = (norms[name] for name in norms if name.endswith("running_var"))
    assert np.allclose(mean, data.mean(), atol=1e-5)
    assert np.allclose(variance, np.mean([one.var(ddof=1) for one in data]), rtol=1e-4)
    bundle = Bundle.open(tmp_path / "b")
    inputs = calibration.inputs(bundle, list(Cases.read(tmp_path / "cases.csv", ("t1",))), threads=1)
    assert {one.shape for one in inputs["net"]} == {(1, 1, 1, 8, 8)}


class Pair(nn.Module):
    """Takes two contrasts apart, each of three slices."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.left(first) * torch.tanh(self.right(second))


@pytest.mark.parametrize("by", ["slice", "channel"])
def test_two_branches_of_slices_have_their_own_contrast(tmp_path: Path, by: str) -> None:
    network = seeded(Pair())
    entry = '\n[networks.net]\nfactory = "network.py:build"\ncheckpoint = "net.pt"\nslices = true\ninputs = [["t2"], ["t1"]]\n'
    stage = STAGE.replace("roi_size", f'neighbours = 1, neighbours_by = "{by}", roi_size')
    export(recipe(tmp_path / "r", entry + stage, {"net": network}, channels=("t1", "t2")), tmp_path / "b")
    data = {name: np.random.default_rng(seed).normal(0, 1, SIDES).astype(np.float32) for seed, name in enumerate(("t1", "t2"))}  # fmt: skip
    near = {}
    for name, one in data.items():
        wide = np.pad(one, [(1, 1), (0, 0), (0, 0)])
        near[name] = torch.from_numpy(np.stack([wide[place : place + 10] for place in range(3)], axis=1))
    with torch.no_grad():
        expected = network(near["t2"], near["t1"])[:, 0].numpy()
    scan = {name: Volume.from_array(one, np.eye(4)) for name, one in data.items()}
    labels = Segmenter.load(tmp_path / "b").predict(scan).labels.data
    sure = np.abs(expected) > 1e-4
    assert np.array_equal(labels[sure], expected[sure] > 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("roi_size = [1, 16, 12]", "roi_size = [2, 16, 12]"), "the network takes slices, and a window is (2, 16, 12)"),
        (('factory = "network.py:build"', 'factory = "monai:UNet"'), "slices goes with networks of your own"),
    ],
)
def test_what_takes_no_slices_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    source = written(tmp_path / "r", seeded(Flat()), "checkpoint", STAGE)
    assert change[0] in source.read_text()
    source.write_text(source.read_text().replace(*change))
    with pytest.raises(ExportError) as error:
        export(source, tmp_path / "b")
    assert says in str(error.value)

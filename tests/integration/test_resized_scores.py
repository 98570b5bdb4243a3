"""Scores at another resolution than the input, resized in the graph; against torch.nn.functional.interpolate."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg import ExportError, Segmenter, Volume
from lowres_seg.export import export
from lowres_seg.export.frameworks.sizes import nearest
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

from .conftest import Command
from .own_networks import recipe, seeded

SIDES = (12, 16, 8)
STAGE = """
[[stages]]
name = "segment"
networks = ["net"]
conform = { orientation = "RAS", pad = "zero" }
windows = { roi_size = [12, 16, 8], rules = "monai" }
decode = { kind = "regions", activation = "sigmoid", regions = [{ channel = 0, label = 1 }] }
"""


class Other(nn.Module):
    """Gives scores at half of the resolution along some axes, and twice along others."""

    def __init__(self, down: tuple[int, ...] = (2, 2, 2), up: tuple[int, ...] = (1, 1, 1)) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, 3, 3, stride=down, padding=1)
        self.up = nn.ConvTranspose3d(3, 2, up, stride=up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.down(x)))


#: Strides down and up, and the sides of the scores.
RATIOS = {
    "half": ((2, 2, 2), (1, 1, 1), (6, 8, 4)),
    "twice": ((1, 1, 1), (2, 2, 2), (24, 32, 16)),
    "a third, and twice": ((3, 1, 2), (1, 2, 1), (4, 32, 4)),
}


def written(folder: Path, network: nn.Module, kind: str, ratio: str, keys: str) -> Path:
    down, up, _ = RATIOS[ratio]
    source = f'{kind} = "net.{kind}"'
    if kind == "checkpoint":
        source = f'factory = "network.py:build"\ncheckpoint = "net.pt"\narguments = {{ down = {list(down)}, up = {list(up)} }}'  # fmt: skip
    made = recipe(folder, f"\n[networks.net]\n{source}\n{keys}\n{STAGE}", {"net": network}, channels=("t1",))
    x = torch.zeros(1, 1, *SIDES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.script(network).save(str(folder / "net.torchscript"))
        if kind == "onnx":
            torch.onnx.export(network, (x,), str(folder / "net.onnx"), dynamo=False)
    return made


def interpolated(scores: torch.Tensor, how: str) -> np.ndarray:
    mode = {"linear": {"mode": "trilinear", "align_corners": False}, "nearest": {"mode": "nearest-exact"}}[how]
    return nn.functional.interpolate(scores, SIDES, **mode).numpy()


@pytest.mark.parametrize(("own", "side"), [(2, 4), (4, 2), (4, 12), (12, 4), (5, 7), (7, 5), (3, 3), (1, 6), (6, 1)])
def test_the_nearest_voxel_is_that_of_torch(own: int, side: int) -> None:
    line = torch.arange(own, dtype=torch.float32)[None, None]
    expected = nn.functional.interpolate(line, side, mode="nearest-exact")
    assert nearest(own, side) == expected.flatten().int().tolist()


@pytest.mark.parametrize("kind", ["checkpoint", "torchscript", "onnx"])
@pytest.mark.parametrize("how", ["linear", "nearest"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_scores_come_at_the_sides_of_the_input(tmp_path: Path, kind: str, how: str, ratio: str) -> None:
    down, up, sides = RATIOS[ratio]
    network = seeded(Other(down, up))
    keys = f'resize_scores = "{how}"' + ("" if kind == "onnx" else "\nchannels = [1]")
    source = written(tmp_path / "r", network, kind, ratio, keys)
    if kind == "onnx":
        source.write_text(source.read_text().replace("{ channel = 0, label = 1 }", "{ channel = 1, label = 1 }"))
    export(source, tmp_path / "b")
    x = np.random.default_rng(0).normal(0, 1, (1, 1, *SIDES)).astype(np.float32)
    with torch.no_grad():
        scores = network(torch.from_numpy(x))
    assert scores.shape[2:] == sides
    expected = interpolated(scores, how)[:, 1:]
    found = OpenVinoEngine(tmp_path / "b" / "networks" / "net.xml", threads=1).run(x)
    assert np.abs(found[:, -1:] - expected).max() < 1e-4
    labels = Segmenter.load(tmp_path / "b").predict(Volume.from_array(x[0, 0], np.eye(4))).labels.data
    sure = np.abs(expected[0, 0]) > 1e-4
    assert np.array_equal(labels[sure], expected[0, 0][sure] > 0)
    changes = json.loads((tmp_path / "b" / "reports" / "export.json").read_text())["networks"]["net"]["changes"]
    told = f"scores {'×'.join(map(str, sides))} resized to 12×16×8 ({how})"
    assert (told in changes) == (kind == "onnx")


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_the_refusal_names_the_key(tmp_path: Path, kind: str, command: Command) -> None:
    source = written(tmp_path / "r", seeded(Other()), kind, "half", "")
    both = "[{ channel = 0, label = 1 }, { channel = 1, label = 1 }]"
    source.write_text(source.read_text().replace("[{ channel = 0, label = 1 }]", both))
    done = command("export", source, "-o", tmp_path / "b")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "the network gives scores of [6, 8, 4] for an input of [12, 16, 8], expected the same sides; if they are scores "
        'at another resolution, write resize_scores = "linear" in the network\'s entry, or "nearest"'
    )


def test_one_number_of_a_class_is_not_resized(tmp_path: Path) -> None:
    source = written(tmp_path / "r", seeded(Other()), "checkpoint", "half", 'resize_scores = "linear"')
    text = source.read_text().replace('kind = "regions", activation = "sigmoid", regions = [{ channel = 0, label = 1 }]', 'kind = "classes", names = ["a", "b"]')  # fmt: skip
    text = text.replace('windows = { roi_size = [12, 16, 8], rules = "monai" }', 'restore = { what = "nothing" }')
    source.write_text(text.replace('pad = "zero"', "shape = [12, 16, 8]"))
    with pytest.raises(ExportError, match="network net resizes its scores, and stage segment decodes classes"):
        export(source, tmp_path / "b")

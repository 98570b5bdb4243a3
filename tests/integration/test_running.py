"""What runs in INT8, asked of the compiled network; and norms that are written by hand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as opset
from torch import nn

from lowres_seg.cohort.cases import Case
from lowres_seg.export import export, phantom
from lowres_seg.quantize import int8, quantize, running
from lowres_seg.quantize.norm_nodes import hand_written, nodes_of_norms, norms
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

from .conftest import RECIPES, factory

X = np.random.default_rng(0).standard_normal((1, 1, 17, 16, 16)).astype(np.float32)


def converted(module: nn.Module) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trace, which torch's own norms read sizes in
        traced = torch.jit.trace(module.eval(), torch.zeros(X.shape), check_trace=False)
    return openvino.convert_model(traced, input=list(X.shape))


def quantized(model: Any, inputs: Sequence[Any], reverted: Sequence[str]) -> Any:
    return int8.quantize_network(
        "net", model, inputs, preset="performance", reverted=reverted, max_ram_bytes=8_000_000_000
    )


class Between(nn.Module):
    """A layer between convolutions that OpenVINO computes in INT8."""

    def __init__(self, layer: nn.Module, side: int = 3) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv3d(1, 16, 3, padding=1), layer, nn.Conv3d(16, 16, side, padding=1)
        self.head = nn.Conv3d(16, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.last(self.layer(torch.relu(self.first(x))))))


IN_F32: dict[str, Callable[[], nn.Module]] = {
    "pooling in ceil mode": lambda: nn.MaxPool3d(2, ceil_mode=True),
    "pooling to a size": lambda: nn.AdaptiveMaxPool3d((5, 6, 7)),
    "transposed convolution": lambda: nn.ConvTranspose3d(16, 16, 4, 4),
}


@pytest.mark.parametrize("kind", IN_F32)
def test_layers_that_would_run_in_f32_are_left_out(kind: str) -> None:
    model = converted(Between(IN_F32[kind]()))
    assert running.in_f32(quantized(model, [X], []), 2)
    left_out = running.left_out(model, X, quantized, 2)
    assert [layer.name for layer in left_out if "layer" in layer.name]
    assert not [layer.name for layer in left_out if "layer" not in layer.name]
    found = quantized(model, [X], [layer.name for layer in left_out])
    assert running.in_f32(found, 2) == []
    kernels = OpenVinoEngine.of_model(found, threads=2).kernels()
    (behind,) = (kernel for name, (kernel, _) in kernels.items() if "last" in name and name.endswith("Convolution"))
    assert behind.endswith("I8")


def test_a_network_that_runs_in_int8_keeps_every_layer() -> None:
    model = converted(Between(nn.MaxPool3d(2)))
    assert running.in_f32(quantized(model, [X], []), 2) == []
    assert running.left_out(model, X, quantized, 2) == []


class Moments(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3, 4), keepdim=True)
        return (x - mean) * torch.rsqrt(x.var((2, 3, 4), keepdim=True, unbiased=False) + 1e-5)


class Root(nn.Module):
    """Every channel over the length of its values, without a mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean((2, 3, 4), keepdim=True) + 1e-5)


class Squeeze(nn.Module):
    """A gate of channels, which is no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv3d(16, 4, 1), nn.Conv3d(4, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3, 4), keepdim=True)))))


BY_HAND: dict[str, Callable[[], nn.Module]] = {
    "mean and variance": Moments,
    "root of the mean square": Root,
    "batch norm without statistics": lambda: nn.BatchNorm3d(16, track_running_stats=False),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_norms_that_are_written_by_hand_keep_f32(kind: str) -> None:
    model = converted(Between(BY_HAND[kind]()))
    (name,) = hand_written(model)
    assert norms(model) == [name]
    inside = set(nodes_of_norms(model))
    assert {node.get_type_name() for node in model.get_ordered_ops() if node.get_friendly_name() in inside} >= {"Sqrt"}
    for node in quantized(model, [X], []).get_ordered_ops():
        if node.get_friendly_name() in inside:
            sources = [value.get_node().get_type_name() for value in node.input_values()]
            assert "FakeQuantize" not in sources, node.get_friendly_name()


@pytest.mark.parametrize("kind", [Squeeze, lambda: nn.InstanceNorm3d(16), lambda: nn.BatchNorm3d(16), nn.Sigmoid])
def test_other_layers_are_no_norms_by_hand(kind: Callable[[], nn.Module]) -> None:
    assert hand_written(converted(Between(kind()))) == {}


def test_a_norm_of_open_size_is_no_error() -> None:
    given = opset.parameter([1, 4, -1, 8, 8], np.float32)
    square = opset.reduce_mean(opset.multiply(given, given), np.array([2, 3, 4]), keep_dims=True)
    model = openvino.Model([opset.divide(given, opset.sqrt(square))], [given], "open")
    assert hand_written(model) == {}


NETWORK = """
import torch
from torch import nn


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv3d(1, 16, 3, padding=1), nn.Conv3d(16, 16, 3, padding=1), nn.Conv3d(16, 2, 1)

    def forward(self, x):
        y = nn.functional.max_pool3d(torch.relu(self.first(x)), 2, ceil_mode=True)
        return nn.functional.interpolate(self.head(torch.relu(self.second(y))), size=x.shape[2:], mode="trilinear")


def build():
    torch.manual_seed(0)
    return Pooled()
"""


def test_the_report_says_what_runs_in_f32(tmp_path: Path) -> None:
    recipe = (RECIPES / "outlier" / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "network.py").write_text(NETWORK)
    torch.save(factory(tmp_path / "recipe.toml", "build")().state_dict(), tmp_path / "outlier.pt")
    export(tmp_path / "recipe.toml", tmp_path / "fp32", weights=tmp_path)
    phantom.head((64, 64, 64), 3.4).save(tmp_path / "head.nii.gz")
    quantize(tmp_path / "fp32", tmp_path / "int8", [Case("head", {"t1": tmp_path / "head.nii.gz"})], None)
    told = json.loads((tmp_path / "int8" / "reports" / "quantize.json").read_text())["layers"]
    assert {(layer["type"], layer["precision"], layer["why"]) for layer in told} == {
        ("Convolution", "int8", "not judged"),
        ("MaxPool", "fp32", running.WHY),
    }

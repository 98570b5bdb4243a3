"""Channels of scores that are kept, and a softmax of two that becomes one logit: torch is the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg.errors import ExportError
from lowres_seg.export import one_logit
from lowres_seg.export.frameworks import ir
from lowres_seg.export.frameworks.torch_network import TorchNetwork, load_torchscript
from lowres_seg.export.recipe import NetworkSource, Recipe, with_source
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

SHAPE = (1, 1, 8, 10, 12)


class Two(nn.Module):
    """A network of shares of two classes, or of others, behind one kind of last layer."""

    def __init__(self, last: str, classes: int = 2, axis: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, stride=2 if last.startswith("deconvolution") else 1, padding=1)
        bias = not last.endswith("without bias")
        self.last = {
            "convolution": lambda: nn.Conv3d(4, classes, 3, padding=1, bias=bias),
            "deconvolution": lambda: nn.ConvTranspose3d(4, classes, 3, 2, 1, output_padding=1, bias=bias),
            "norm": lambda: nn.Sequential(nn.Conv3d(4, classes, 1), nn.InstanceNorm3d(classes, affine=True)),
        }[last.partition(" ")[0]]()
        self.axis = axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(4 * self.last(torch.relu(self.first(x))), self.axis)


class Twice(nn.Module):
    """Both shares of a network are read."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y[:, 1:] * (y[:, :1] > 0.2)


def converted(network: TorchNetwork, path: Path) -> tuple[dict[str, int], OpenVinoEngine]:
    conversion = ir.convert(network.script(SHAPE), SHAPE, path / "n.xml")
    return conversion.operators, OpenVinoEngine(path / "n.xml", threads=1)


def inputs() -> list[np.ndarray]:
    return [np.random.default_rng(n).standard_normal(SHAPE, dtype=np.float32) * 3 for n in range(3)]


@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize(
    "last",
    ["convolution", "deconvolution", "convolution without bias", "deconvolution without bias", "norm"],
)
def test_one_of_two_shares_is_the_sigmoid_of_one_logit(tmp_path: Path, last: str, channel: int) -> None:
    torch.manual_seed(1)
    module = Two(last).eval()
    network = TorchNetwork(module, 0).keeping([channel])
    operators, engine = converted(network, tmp_path)
    assert "Softmax" not in operators
    assert operators["Sigmoid"] == 1
    for x in inputs():
        expected = module(torch.from_numpy(x)).detach().numpy()[:, channel : channel + 1]
        assert np.array_equal(network.run(x), expected)
        found = engine.run(x)
        assert found.shape == (1, 1, *SHAPE[2:])
        assert np.allclose(found, expected, atol=2e-6)
        assert expected.min() < 0.3
        assert expected.max() > 0.7
    spread = [node.output(0).shape[1] for node in _nodes(tmp_path) if "Convolution" in node.get_type_name()]
    assert spread == [4, 2 if last == "norm" else 1]


def _nodes(folder: Path) -> list[object]:
    import openvino

    return openvino.Core().read_model(folder / "n.xml").get_ordered_ops()


@pytest.mark.parametrize("case", ["both are kept", "three classes", "along another axis", "read twice"])
def test_what_is_no_share_of_two_stays_as_it_is(tmp_path: Path, case: str) -> None:
    torch.manual_seed(1)
    module: nn.Module = Two("convolution", 3 if case == "three classes" else 2, 2 if "axis" in case else 1).eval()
    module = Twice(module).eval() if case == "read twice" else module
    network = TorchNetwork(module, 0)
    network = network if case in ("both are kept", "read twice") else network.keeping([1])
    operators, engine = converted(network, tmp_path)
    assert operators["Softmax"] == 1
    for x in inputs():
        assert np.allclose(engine.run(x), network.run(x), atol=2e-6)


def test_a_planted_fault_in_the_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    network = TorchNetwork(Two("convolution").eval(), 0).keeping([1])
    monkeypatch.setattr(one_logit, "_less", lambda values, channel, axis: np.take(values, [channel], axis))
    _, engine = converted(network, tmp_path)
    assert not np.allclose(engine.run(inputs()[0]), network.run(inputs()[0]), atol=1e-3)


def test_torchscript_keeps_channels_too(tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.jit.script(Two("deconvolution").eval()).save(str(tmp_path / "n.pt"))
    network = load_torchscript(tmp_path / "n.pt").keeping([1])
    operators, engine = converted(network, tmp_path)
    assert operators["Sigmoid"] == 1
    assert not network.traced
    x = inputs()[0]
    assert np.allclose(engine.run(x), network.run(x), atol=2e-6)
    network.to_onnx(tmp_path / "n.onnx", SHAPE)
    from lowres_seg.export.frameworks.onnx_graph import OrtNetwork

    assert np.allclose(OrtNetwork(tmp_path / "n.onnx", threads=1).run(x), network.run(x), atol=2e-6)


@pytest.mark.parametrize("channels", [[2], [1, 2]])
def test_a_channel_that_the_network_has_not_is_refused(channels: Sequence[int]) -> None:
    network = TorchNetwork(Two("convolution").eval(), 0).keeping(channels)
    with pytest.raises(ExportError, match=r"gives \(1, 2, 8, 10, 12\), and the recipe keeps channels . to 2"):
        network.check_values(SHAPE)


def test_another_file_of_weights_keeps_what_the_recipe_says_of_the_network() -> None:
    recipe = Recipe.model_validate(
        {
            "channels": ["t1"],
            "labels": [{"value": 1, "name": "brain"}],
            "bundle": dict.fromkeys(("name", "version", "license", "source", "intended_use", "description"), "a"),
            "networks": {"net": {"torchscript": "n.pt", "channels": [1], "exact_norms": False, "output": 2}},
            "stages": [
                {
                    "name": "only",
                    "networks": ["net"],
                    "conform": {"shape": [32, 32, 32]},
                    "decode": {"kind": "regions", "regions": [{"channel": 0, "threshold": 0.5, "label": 1}]},
                }
            ],
        }
    )
    other = with_source(recipe, Path("other.pt"), "torchscript").networks["net"]
    assert (other.channels, other.exact_norms, other.output) == ((1,), False, 2)
    assert other.file.endswith("other.pt")
    with pytest.raises(ExportError, match="cut the scores in the graph"):
        with_source(recipe, Path("other.onnx"), "onnx")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"torchscript": "n.pt", "channels": [0, 2]}, "expected some in a row"),
        ({"torchscript": "n.pt", "channels": []}, "at least 1"),
        ({"torchscript": "n.pt", "channels": [-1]}, "greater than or equal to 0"),
        ({"onnx": "n.onnx", "channels": [1]}, "cut the scores in the ONNX graph"),
    ],
)
def test_channels_are_some_in_a_row(words: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NetworkSource.model_validate(words)

"""Networks that take several tensors, given as one whose channels they take; against torch and ONNX Runtime."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from lowres_seg import Bundle, ExportError, Segmenter, Volume
from lowres_seg.export import export
from lowres_seg.quantize import int8
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph

from .conftest import Command
from .own_networks import recipe, seeded

SIDES = (16, 8, 12)
CHANNELS = ("t1", "t1c", "flair", "t2")
INPUTS = 'inputs = [["flair", "t1"], ["t2", "t1c", "t1"]]'
PLACES = ([2, 0], [3, 1, 0])
CHECKPOINT = 'factory = "network.py:build"\ncheckpoint = "net.pt"'
STAGE = """
[[stages]]
name = "segment"
networks = ["net"]
conform = { orientation = "RAS", pad = "zero" }
windows = { roi_size = [16, 8, 12], rules = "monai" }
decode = { kind = "regions", activation = "sigmoid", regions = [{ channel = 0, label = 1 }] }
"""


class Branches(nn.Module):
    """Two encoders, of two and of three channels, that meet."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv3d(2, 4, 3, padding=1)
        self.right = nn.Conv3d(3, 4, 3, padding=1)
        self.last = nn.Conv3d(8, 1, 3, padding=1)

    def forward(self, structure: torch.Tensor, lesion: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(self.left(structure)), torch.relu(self.right(lesion))
        return self.last(torch.cat([left, right], 1))


def given(x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(x[:, PLACES[0]]), torch.from_numpy(x[:, PLACES[1]])


def right(network: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(*given(x)).numpy()


def written(folder: Path, network: nn.Module, kind: str, **options: Any) -> Path:
    """A recipe of a checkpoint, a TorchScript file or an ONNX file."""
    source = {"checkpoint": CHECKPOINT}.get(kind, f'{kind} = "net.{kind}"')
    made = recipe(folder, f"\n[networks.net]\n{source}\n{INPUTS}\n{STAGE}", {"net": network})
    x = given(np.zeros((1, 4, *SIDES), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            torch.jit.script(network).save(str(folder / "net.torchscript"))
        if kind == "onnx":
            names = {"input_names": ["structure", "lesion"], "output_names": ["scores"]}
            torch.onnx.export(network, x, str(folder / "net.onnx"), dynamo=False, **names, **options)
    return made


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return seeded(Branches())


@pytest.fixture(scope="module")
def bundle(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("branches")
    export(written(folder / "recipe", network, "checkpoint"), folder / "b", keep_onnx=True)
    return folder / "b"


def test_each_tensor_has_its_channels_in_its_order(network: nn.Module, bundle: Path) -> None:
    x = np.random.default_rng(0).normal(0, 1, (1, 4, *SIDES)).astype(np.float32)
    assert Bundle.open(bundle).manifest.networks["net"].input_shape == (1, 4, *SIDES)
    found = OpenVinoEngine(bundle / "networks" / "net.xml", threads=1).run(x)
    assert np.abs(found - right(network, x)).max() < 1e-4
    graph = onnxruntime.InferenceSession(bundle / "networks" / "net.onnx")
    assert np.abs(graph.run(None, {graph.get_inputs()[0].name: x})[0] - right(network, x)).max() < 1e-4
    volumes = {name: Volume.from_array(one, np.eye(4)) for name, one in zip(CHANNELS, x[0], strict=True)}
    labels = Segmenter.load(bundle).predict(volumes).labels.data
    sure = np.abs(right(network, x)[0, 0]) > 1e-4
    assert np.array_equal(labels[sure], right(network, x)[0, 0][sure] > 0)


def test_both_branches_are_quantized(network: nn.Module, bundle: Path) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(0, 1, (1, 4, *SIDES)).astype(np.float32) for _ in range(2)]
    full = read_graph(Bundle.open(bundle).network_files()["net"])
    model = int8.quantize_network("net", full, inputs, preset="mixed", reverted=(), max_ram_bytes=4 << 30)
    assert [layer.type for layer in int8.layers(model)].count("Convolution") == 3
    expected = right(network, inputs[0])
    found = OpenVinoEngine.of_model(model, threads=1).run(inputs[0])
    assert 0 < np.abs(found - expected).max() < 0.1 * np.ptp(expected)


@pytest.mark.parametrize("kind", ["torchscript", "onnx", "open onnx"])
def test_a_file_with_two_inputs_is_joined(network: nn.Module, tmp_path: Path, kind: str) -> None:
    axes = {"dynamic_axes": {name: dict.fromkeys(range(2, 5), "") for name in ("structure", "lesion", "scores")}}
    export(
        written(tmp_path / "r", network, kind.removeprefix("open "), **axes if "open" in kind else {}), tmp_path / "b"
    )
    x = np.random.default_rng(1).normal(0, 1, (1, 4, *SIDES)).astype(np.float32)
    found = OpenVinoEngine(tmp_path / "b" / "networks" / "net.xml", threads=1).run(x)
    assert np.abs(found - right(network, x)).max() < 1e-4
    changes = json.loads((tmp_path / "b" / "reports" / "export.json").read_text())["networks"]["net"]["changes"]
    assert ("inputs structure, lesion became one tensor" in changes) == ("onnx" in kind)


def test_half_precision_and_channels_last_of_one_input_are_changed_too(network: nn.Module, tmp_path: Path) -> None:
    """The second input of the file has its channels last, both are in half precision."""
    source = written(tmp_path / "r", network, "onnx")
    graph = onnx.load(tmp_path / "r" / "net.onnx")
    lesion = graph.graph.input[1]
    for node in graph.graph.node:
        node.input[:] = ["lesion/first" if name == "lesion" else name for name in node.input]
    turned = onnx.helper.make_node("Transpose", ["lesion"], ["lesion/first"], perm=[0, 4, 1, 2, 3])
    graph.graph.node.insert(0, turned)
    last = onnx.helper.make_tensor_value_info("lesion", onnx.TensorProto.FLOAT, (1, *SIDES, 3))
    lesion.CopyFrom(last)
    onnx.save(graph, tmp_path / "r" / "net.onnx")
    export(source, tmp_path / "b")
    x = np.random.default_rng(2).normal(0, 1, (1, 4, *SIDES)).astype(np.float32)
    found = OpenVinoEngine(tmp_path / "b" / "networks" / "net.xml", threads=1).run(x)
    assert np.abs(found - right(network, x)).max() < 1e-4


@pytest.mark.parametrize("kind", ["checkpoint", "torchscript", "onnx"])
def test_without_inputs_one_line_says_what_to_write(
    network: nn.Module, tmp_path: Path, kind: str, command: Command
) -> None:
    source = written(tmp_path, network, kind)
    source.write_text(source.read_text().replace(INPUTS, ""))
    done = command("export", source, "-o", tmp_path / "b")
    assert done.returncode == 1
    said = (
        "it takes 2 tensors (structure, lesion), and the recipe does not say which channels each of them has; write in "
        """the network's entry, in this order: inputs = [["CHANNEL", …], ["CHANNEL", …]]"""
    )
    assert done.stderr.splitlines()[-1].endswith(said)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ('inputs = [["t1"]]', "inputs in the recipe are those of 1 tensors, and the network takes 2"),
        (
            'inputs = [["t1"], ["t9"]]',
            "network net has channel t9 in its inputs; its stage gives it t1, t1c, flair, t2",
        ),
        ('inputs = [["t1"], ["t2"], ["t1"], ["t2"]]', "are those of 4 tensors, and the network takes 2"),
    ],
)
def test_inputs_that_the_network_does_not_take_are_refused(
    network: nn.Module, tmp_path: Path, inputs: str, says: str
) -> None:
    source = written(tmp_path, network, "checkpoint")
    source.write_text(source.read_text().replace(INPUTS, inputs))
    with pytest.raises(ExportError, match=says):
        export(source, tmp_path / "b")


def test_a_mask_channel_is_a_tensor_by_the_name_of_its_stage(tmp_path: Path) -> None:
    """A cascade whose second network takes the scan and the first stage's mask apart."""
    first, second = seeded(Whole()), seeded(Apart(), 1)
    stages = STAGE.replace('"segment"', '"find"').replace('["net"]', '["first"]')
    stages += STAGE.replace('["net"]', '["second"]') + 'mask_channels = [{ stage = "find" }]\n'
    networks = (
        '\n[networks.first]\nfactory = "network.py:build"\narguments = { apart = false }\ncheckpoint = "first.pt"\n'
        '\n[networks.second]\nfactory = "network.py:build"\ncheckpoint = "second.pt"\n'
        'inputs = [["find"], ["t1", "t2"]]\n'
    )
    made = recipe(tmp_path / "r", networks + stages, {"first": first, "second": second}, channels=("t1", "t2"))
    (tmp_path / "r" / "network.py").write_text(MODULES)
    export(made, tmp_path / "b")
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (1, 2, *SIDES)).astype(np.float32)
    with torch.no_grad():
        mask = (first(torch.from_numpy(x)) > 0).float()
        scores = second(mask, torch.from_numpy(x))[0, 0].numpy()
    scan = {name: Volume.from_array(one, np.eye(4)) for name, one in zip(("t1", "t2"), x[0], strict=True)}
    labels = Segmenter.load(tmp_path / "b").predict(scan).labels.data
    assert (labels == (scores > 0)).mean() > 0.999
    assert 0.1 < labels.mean() < 0.9


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 1, 1)

    def forward(self, mask: torch.Tensor, x: torch.Tensor, gain: float = 2.0) -> torch.Tensor:
        return gain * self.conv(x) * (0.5 - mask)


MODULES = """
from torch import nn


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 1, 1)

    def forward(self, x):
        return self.conv(x)


class Apart(Whole):
    def forward(self, mask, x, gain=2.0):
        return gain * self.conv(x) * (0.5 - mask)


def build(apart=True):
    return Apart() if apart else Whole()
"""


def test_channels_come_in_another_order_than_the_scans(tmp_path: Path) -> None:
    network = seeded(Whole())
    entry = f'\n[networks.net]\n{CHECKPOINT}\ninputs = [["t2", "t1"]]\n'
    export(recipe(tmp_path / "r", entry + STAGE, {"net": network}, channels=("t1", "t2")), tmp_path / "b")
    x = np.random.default_rng(0).normal(0, 1, (1, 2, *SIDES)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x[:, ::-1].copy())).numpy()
    found = OpenVinoEngine(tmp_path / "b" / "networks" / "net.xml", threads=1).run(x)
    assert np.abs(found - expected).max() < 1e-5
    assert len(openvino.Core().read_model(tmp_path / "b" / "networks" / "net.xml").inputs) == 1

"""Rewrites of decoders: the function that torch computes, in fewer steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.export import rewrites
from lowres_seg.export.frameworks import ir
from lowres_seg.quantize import int8
from lowres_seg.quantize.settings import Preset
from lowres_seg.runtime import memory
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph

Shape = tuple[int, ...]


class Decoder(nn.Module):
    """An upsampling between a convolution and a head, as decoders have it."""

    def __init__(self, up: nn.Module, head: nn.Module, channels: int = 16) -> None:
        super().__init__()
        self.first, self.up, self.head = nn.Conv3d(1, channels, 3, padding=1), up, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.up(self.first(x)))
        return found


class Split(nn.Module):
    """Reads its input twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x) + x
        return found


class AddsRow(nn.Module):
    """Adds another value in each column, as many as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.row = nn.Conv3d(16, 4, 1, bias=False), nn.Parameter(torch.arange(4.0).reshape(1, 1, 1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.conv(x) + self.row
        return found


def converted(module: nn.Module, shape: Shape, path: Path) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        ir.convert(torch.jit.trace(module.eval(), torch.zeros(shape)), shape, path)
    return read_graph(NetworkFiles.written(path))


def kinds(model: Any) -> list[str]:
    wanted = ("Convolution", "Interpolate", "Transpose")
    return [node.get_type_name() for node in model.get_ordered_ops() if node.get_type_name() in wanted]


def difference(module: nn.Module, model: Any, shape: Shape) -> float:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    return float(np.abs(OpenVinoEngine.of_model(model, threads=1).run(x) - expected).max())


UPS = {
    "trilinear": nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False),
    "aligned": nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
    "anisotropic": nn.Upsample(scale_factor=(1, 2, 3), mode="trilinear", align_corners=False),
    "to a size": nn.Upsample(size=(19, 25, 31), mode="trilinear", align_corners=False),
    "nearest": nn.Upsample(scale_factor=2, mode="nearest"),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("up", UPS)
def test_a_convolution_of_single_voxels_goes_before_the_upsampling(tmp_path: Path, up: str, bias: bool) -> None:
    module, shape = Decoder(UPS[up], nn.Conv3d(16, 4, 1, bias=bias)), (1, 1, 9, 12, 10)
    model = converted(module, shape, tmp_path / "m.xml")
    assert kinds(model) == ["Convolution", "Convolution", "Interpolate"]
    (interpolation,) = (node for node in model.get_ops() if node.get_type_name() == "Interpolate")
    assert interpolation.output(0).shape[1] == 4
    assert [port.get_node().get_type_name() for port in interpolation.output(0).get_target_inputs()] == ["Result"]
    assert difference(module, model, shape) < 1e-5


def test_onnx_says_the_size_of_every_axis_channels_too(tmp_path: Path) -> None:
    module, shape = Decoder(UPS["to a size"], nn.Conv3d(16, 4, 1)).eval(), (1, 1, 9, 12, 10)
    torch.onnx.export(module, (torch.zeros(shape),), tmp_path / "m.onnx", dynamo=False)
    ir.convert(tmp_path / "m.onnx", shape, tmp_path / "m.xml")
    assert difference(module, read_graph(NetworkFiles.written(tmp_path / "m.xml")), shape) < 1e-5


def test_what_is_added_to_columns_is_no_bias(tmp_path: Path) -> None:
    module, shape = Decoder(UPS["trilinear"], AddsRow()), (1, 1, 9, 12, 2)
    model = converted(module, shape, tmp_path / "m.xml")
    assert kinds(model) == ["Convolution", "Convolution", "Interpolate"]
    assert difference(module, model, shape) < 1e-5


@pytest.mark.parametrize(
    "head",
    [
        nn.Conv3d(16, 4, 3, padding=1),
        nn.Conv3d(16, 4, 1, padding=1),
        nn.Conv3d(16, 4, 1, stride=2),
        nn.Conv3d(16, 32, 1),
        nn.Conv3d(16, 4, 1, groups=4),
        Split(16),
        nn.Sequential(nn.ReLU(), nn.Conv3d(16, 4, 1)),
    ],
    ids=["3x3x3", "padded", "strided", "widening", "grouped", "read twice", "activated"],
)
def test_other_heads_stay_behind_it(tmp_path: Path, head: nn.Module) -> None:
    module, shape = Decoder(UPS["trilinear"], head), (1, 1, 9, 12, 10)
    model = converted(module, shape, tmp_path / "m.xml")
    order = [node.get_type_name() for node in model.get_ordered_ops()]
    assert order.index("Interpolate") < len(order) - 1 - order[::-1].index(
        "GroupConvolution" if "GroupConvolution" in order else "Convolution"
    )
    assert difference(module, model, shape) < 1e-5


def test_a_smaller_grid_is_left_alone(tmp_path: Path) -> None:
    module = Decoder(nn.Upsample(scale_factor=0.5, mode="trilinear"), nn.Conv3d(16, 4, 1))
    model = converted(module, (1, 1, 16, 16, 16), tmp_path / "m.xml")
    assert kinds(model) == ["Convolution", "Interpolate", "Convolution"]


@pytest.mark.parametrize("up", ["trilinear", "aligned", "to a size"])
def test_large_tensors_are_upsampled_by_rows_and_then_across(tmp_path: Path, up: str) -> None:
    shape = (1, 1, 14, 18, 22)
    larger = nn.Upsample(size=(39, 45, 47), mode="trilinear", align_corners=False) if up == "to a size" else UPS[up]
    module = Decoder(larger, nn.Conv3d(24, 8, 3, padding=1), channels=24)
    model = converted(module, shape, tmp_path / "m.xml")
    assert kinds(model) == ["Convolution", "Interpolate", *["Transpose"] * 2, "Interpolate", *["Transpose"] * 2, "Convolution"]  # fmt: skip
    assert difference(module, model, shape) < 1e-5


def test_it_can_be_given_another_shape(tmp_path: Path) -> None:
    module = Decoder(UPS["aligned"], nn.Conv3d(24, 8, 3, padding=1), channels=24)
    model = converted(module, (1, 1, 14, 18, 22), tmp_path / "m.xml")
    other = (1, 1, 8, 10, 6)
    assert difference(module, int8.reshaped(model, other), other) < 1e-5


@pytest.mark.parametrize(
    ("channels", "shape", "up"),
    [(24, (1, 1, 8, 8, 8), "trilinear"), (4, (1, 1, 32, 36, 40), "trilinear"), (24, (1, 1, 18, 22, 24), "anisotropic")],
    ids=["small", "few channels", "two axes"],
)
def test_what_gains_nothing_is_left_in_one_piece(tmp_path: Path, channels: int, shape: Shape, up: str) -> None:
    module = Decoder(UPS[up], nn.Conv3d(channels, 8, 3, padding=1), channels=channels)
    model = converted(module, shape, tmp_path / "m.xml")
    assert kinds(model) == ["Convolution", "Interpolate", "Convolution"]
    assert difference(module, model, shape) < 1e-5


class Joins(nn.Module):
    """A convolution that reads what several others found, joined; `links` lie between."""

    def __init__(
        self,
        links: nn.Module | None = None,
        *,
        parts: int = 2,
        up: bool = False,
        widths: tuple[int, ...] = (),
        **conv: Any,
    ) -> None:
        super().__init__()
        widths = widths or (8,) * parts
        self.parts = nn.ModuleList(nn.Conv3d(1, width, 3, padding=1) for width in widths)
        self.up = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False) if up else nn.Identity()
        self.links = links or nn.Identity()
        self.last = nn.Conv3d(sum(widths), 8, **({"kernel_size": 3, "padding": 1} | conv))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.up(self.parts[0](x[:, :, ::2, ::2, ::2] if isinstance(self.up, nn.Upsample) else x))
        # Branches of one input are merged; these read different ones.
        joined = torch.cat([first, *(part(torch.sin(x)) for part in self.parts[1:])], 1)
        found: torch.Tensor = self.last(self.links(joined))
        return found


class Twice(nn.Module):
    """Gives what it reads and its square."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x * torch.sigmoid(x)


def norm(channels: int) -> nn.Module:
    """A batch norm that has seen something."""
    found = nn.BatchNorm3d(channels)
    for index, values in enumerate((found.weight.data, found.bias.data, found.running_mean, found.running_var)):
        assert values is not None
        values.copy_(torch.linspace(0.5, 1.5, channels).roll(index))
    return found


@pytest.fixture
def joins_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joins are rewritten whatever their size, upsamplings are not too small."""
    monkeypatch.setattr(rewrites, "_WORTH_JOINED_VALUES", 1)
    monkeypatch.setattr(rewrites, "_WORTH_VALUES", 1)


JOINS = {
    "at once": Joins,
    "three parts": lambda: Joins(parts=3),
    "leaky": lambda: Joins(nn.LeakyReLU(0.01)),
    "by channel": lambda: Joins(nn.PReLU(16)),
    "norm and activation": lambda: Joins(nn.Sequential(norm(16), nn.LeakyReLU(0.1))),
    "activation and norm": lambda: Joins(nn.Sequential(nn.ReLU(), norm(16))),
    "strided": lambda: Joins(stride=(2, 1, 2)),
    "one plane": lambda: Joins(kernel_size=(1, 3, 3), padding=(0, 1, 1)),
    "unpadded": lambda: Joins(kernel_size=(3, 1, 3), padding=0),
    "dilated within planes": lambda: Joins(dilation=(1, 2, 2), padding=(1, 2, 2)),
    "upsampled": lambda: Joins(up=True),
    "upsampled, norm and activation": lambda: Joins(nn.Sequential(norm(16), nn.LeakyReLU(0.01)), up=True),
    "upsampled, activation": lambda: Joins(nn.ReLU(), up=True),
}


@pytest.mark.usefixtures("joins_pay")
@pytest.mark.parametrize("name", JOINS)
def test_parts_are_joined_plane_after_plane(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    module, shape = JOINS[name]().eval(), (1, 1, 8, 10, 6)
    for activation in module.modules():
        if isinstance(activation, nn.PReLU):
            activation.weight.data = torch.linspace(0.1, 0.9, len(activation.weight))
    model = converted(module, shape, tmp_path / "m.xml")
    (last,) = (n for n in model.get_ops() if n.get_type_name() == "Convolution" and n.input_value(0).shape[1] != 1)
    assert last.input_value(1).shape[:2] == [8, 8]
    assert last.get_attributes()["strides"][0] % (3 if name == "three parts" else 2) == 0
    assert difference(module, model, shape) < 1e-5
    other = (1, 1, 4, 6, 12)
    assert difference(module, int8.reshaped(model, other), other) < 1e-5


@pytest.mark.usefixtures("joins_pay")
@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.01), nn.ReLU()], ids=["leaky", "relu"])
def test_an_activation_goes_before_the_rows_are_taken_apart(tmp_path: Path, activation: nn.Module) -> None:
    model = converted(Joins(nn.Sequential(norm(16), activation), up=True), (1, 1, 8, 10, 6), tmp_path / "m.xml")
    readers = [
        [port.get_node().get_type_name() for port in node.output(0).get_target_inputs()]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Interpolate"
    ]
    assert readers == [["Transpose"], ["Relu" if isinstance(activation, nn.ReLU) else "PRelu"]]


@pytest.mark.usefixtures("joins_pay")
@pytest.mark.parametrize(
    "links", [nn.PReLU(16), nn.Sequential(nn.ReLU(), norm(16))], ids=["by channel", "activation and norm"]
)
def test_what_depends_on_channels_keeps_an_upsampling_by_rows_joined_by_channels(
    tmp_path: Path, links: nn.Module
) -> None:
    module, shape = Joins(links, up=True).eval(), (1, 1, 8, 10, 6)
    model = converted(module, shape, tmp_path / "m.xml")
    assert kinds(model).count("Interpolate") == 2
    assert [n.output(0).shape for n in model.get_ops() if n.get_type_name() == "Concat"] == [[1, 16, 8, 10, 6]]
    assert difference(module, model, shape) < 1e-5


@pytest.mark.usefixtures("joins_pay")
@pytest.mark.parametrize(
    "module",
    [
        Joins(dilation=2, padding=2),
        Joins(widths=(8, 16)),
        Joins(widths=(4, 4)),
        Joins(nn.Sigmoid()),
        Joins(Twice()),
        Joins(groups=2),
    ],
    ids=["dilated", "unequal", "few channels", "sigmoid", "read twice", "grouped"],
)
def test_other_joins_are_left_alone(tmp_path: Path, module: nn.Module) -> None:
    shape = (1, 1, 8, 10, 6)
    model = converted(module, shape, tmp_path / "m.xml")
    assert "Transpose" not in kinds(model)
    assert difference(module, model, shape) < 1e-5


def test_small_joins_are_left_alone(tmp_path: Path) -> None:
    model = converted(Joins(), (1, 1, 16, 16, 16), tmp_path / "m.xml")
    assert kinds(model) == ["Convolution"] * 3


@pytest.mark.usefixtures("joins_pay")
def test_a_layer_that_reads_what_is_joined_can_be_reverted(tmp_path: Path) -> None:
    module = Joins(nn.LeakyReLU(0.01))
    model = quantized(module, tmp_path)
    joined = [layer.name for layer in int8.layers(model) if layer.type == "Convolution"][-1]
    # Both ranges are unsigned, and both quantizers go when the layer that they are for is reverted.
    behind = [n for n in model.get_ops() if n.get_type_name() == "FakeQuantize" and is_activation(n)]
    assert [float(n.input_value(1).get_node().data.item()) for n in behind] == [0.0, 0.0]
    left = int8.without(model, [joined])
    assert not [n for n in left.get_ops() if n.get_type_name() == "FakeQuantize" and is_activation(n)]
    assert difference(module, left, (1, 1, 16, 16, 16)) < difference(module, model, (1, 1, 16, 16, 16))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_joins_by_planes_are_not_thought_to_take_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    found = []
    for index, worth in enumerate((1 << 30, 1)):
        monkeypatch.setattr(rewrites, "_WORTH_JOINED_VALUES", worth)
        torch.manual_seed(0)
        module, xml = Joins(nn.LeakyReLU(0.01), widths=(16, 16)), tmp_path / f"{index}.xml"
        if precision == "int8":
            int8.save(quantized(module, tmp_path), xml)
        else:
            converted(module, (1, 1, 16, 16, 16), xml)
        model = read_graph(NetworkFiles.written(xml))
        assert ("Transpose" in kinds(model)) == bool(index)
        found.append(memory.working_bytes(model, "f32"))
    assert found[1] <= 1.01 * found[0]


def is_activation(quantizer: Any) -> bool:
    return bool(quantizer.input_value(0).get_node().get_type_name() == "PRelu")


class Leaky(nn.Module):
    """A leaky activation that a convolution reads, and perhaps a Concat."""

    def __init__(self, slope: float, *, concat: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(16 if concat else 8, 4, 3, padding=1)
        self.act, self.concat = nn.LeakyReLU(slope), concat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.act(x)
        found: torch.Tensor = self.second(torch.cat([y, x], 1) if self.concat else y)
        return found


def quantized(module: nn.Module, folder: Path, preset: Preset = "performance") -> Any:
    shape = (1, 1, 16, 16, 16)
    model = converted(module, shape, folder / "m.xml")
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return int8.quantize_network("m", model, [x], preset=preset, reverted=(), max_ram_bytes=4 << 30)


def lowest(model: Any) -> list[float]:
    """Low end of each quantizer behind an activation or a Concat."""
    return [
        float(node.input_value(1).get_node().data.item())
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize"
        and node.input_value(0).get_node().get_type_name() in ("PRelu", "Concat")
    ]


def test_codes_go_to_what_a_slightly_leaky_activation_leaves_above_zero(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((1, 1, 16, 16, 16), dtype=np.float32)
    unsigned, signed = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        module = Leaky(0.01)
        model = quantized(module, tmp_path)
        assert lowest(model) == [0.0]
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        unsigned.append(np.abs(OpenVinoEngine.of_model(model, threads=1).run(x) - expected).mean())
        (quantizer,) = (
            node
            for node in model.get_ordered_ops()
            if node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() == "PRelu"
        )
        high = quantizer.input_value(2).get_node().data
        for port in (1, 3):
            low = openvino.op.Constant(np.full(high.shape, -high * 128 / 127, np.float32))
            quantizer.input(port).replace_source_output(low.output(0))
        signed.append(np.abs(OpenVinoEngine.of_model(model, threads=1).run(x) - expected).mean())
    assert np.mean(unsigned) < np.mean(signed)


@pytest.mark.parametrize(
    ("module", "preset"),
    [(Leaky(0.2), "performance"), (Leaky(0.01, concat=True), "performance"), (Leaky(0.01), "mixed")],
    ids=["leakier", "joined with others", "asymmetric"],
)
def test_other_activations_keep_their_range(tmp_path: Path, module: nn.Module, preset: Preset) -> None:
    found = lowest(quantized(module, tmp_path, preset))
    assert found
    assert max(found) < 0


def test_what_an_interpolation_computes_in_f32_is_not_quantized_for_it(tmp_path: Path) -> None:
    model = quantized(Decoder(UPS["aligned"], nn.Conv3d(16, 4, 3, padding=1)), tmp_path)
    (interpolation,) = (node for node in model.get_ops() if node.get_type_name() == "Interpolate")
    assert interpolation.input_value(0).get_node().get_type_name() != "FakeQuantize"
    assert [port.get_node().get_type_name() for port in interpolation.output(0).get_target_inputs()] == ["FakeQuantize"]

"""ONNX files as other tools write them: open sizes, half precision, channels last; against ONNX Runtime on the file."""

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

from lowres_seg import ExportError
from lowres_seg.export import export

from .test_outputs import edited

OPEN = {"dynamic_axes": {"x": dict.fromkeys(range(5), ""), "y": dict.fromkeys(range(5), "")}}
SIDES = (32, 16, 24)
FIRST = (1, 1, *SIDES)
LAST = (1, *SIDES, 1)


class Net(nn.Module):
    """A U-Net of one level; `layout` says where the channels of its input and output are."""

    def __init__(self, layout: str = "first", *, halves_within: bool = False) -> None:
        super().__init__()
        self.layout, self.halves_within = layout, halves_within
        self.down = nn.Conv3d(1, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(6, 4, 2, stride=2)
        self.last = nn.Conv3d(5, 2, 1)
        if halves_within:
            self.half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.layout == "last":
            x = x.permute(0, 4, 1, 2, 3)
        given = x
        if self.halves_within:
            x = x.half()
        x = self.last(torch.cat([x, torch.relu(self.up(torch.relu(self.down(x))))], 1))
        if self.halves_within:
            x = x.to(given.dtype)
        return torch.softmax(x, 1).permute(0, 2, 3, 4, 1) if self.layout != "first" else torch.softmax(x, 1)


def written(folder: Path, module: nn.Module, x: torch.Tensor, **options: Any) -> Path:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = folder / "graph.onnx"
        torch.onnx.export(module.eval(), (x,), file, input_names=["x"], output_names=["y"], dynamo=False, **options)
    return file


def recipe(folder: Path, *changes: tuple[str, str]) -> Path:
    sides = ", ".join(map(str, SIDES))
    return edited(folder, ("shape = [32, 32, 32]", f"shape = [{sides}]"), ("channels =", "multiple_of = 8\nchannels ="), *changes)  # fmt: skip


#: Network, input, options of the exporter, what the report says, and the largest difference from the file itself.
FILES: dict[str, tuple[nn.Module, torch.Tensor, dict[str, Any], list[str], float]] = {
    "as it should be": (Net(), torch.zeros(FIRST), {}, [], 1e-6),
    "open batch": (
        Net(),
        torch.zeros(FIRST),
        {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}},
        [f"open sizes became {FIRST}"],
        1e-6,
    ),
    "open sizes": (Net(), torch.zeros(FIRST), OPEN, [f"open sizes became {FIRST}"], 1e-6),
    "half": (Net().half(), torch.zeros(FIRST).half(), {}, ["half precision became float32"], 5e-3),
    "half within": (Net(halves_within=True), torch.zeros(FIRST), {}, ["half precision became float32"], 5e-3),
    "channels last": (
        Net("last"),
        torch.zeros(LAST),
        {},
        ["input: channels moved first", "output y: channels moved first"],
        1e-6,
    ),
    "channels last, open sizes": (
        Net("last"),
        torch.zeros(LAST),
        OPEN,
        [f"open sizes became {LAST}", "input: channels moved first", "output y: channels moved first"],
        1e-6,
    ),
    "output last": (Net("output last"), torch.zeros(FIRST), {}, ["output y: channels moved first"], 1e-6),
}


@pytest.mark.parametrize("case", FILES)
def test_the_ir_gives_what_onnx_runtime_gives_on_the_file(tmp_path: Path, case: str) -> None:
    module, given, options, changes, allowed = FILES[case]
    file = written(tmp_path, module, given, **options)
    export(file, tmp_path / "out", recipe=recipe(tmp_path))
    report = json.loads((tmp_path / "out" / "reports" / "export.json").read_text())["networks"]["net"]
    assert report["route"] == "onnx"
    assert report["changes"] == changes
    x = np.random.default_rng(0).standard_normal(FIRST, dtype=np.float32)
    own = x.reshape(given.shape).astype(given.numpy().dtype)
    expected = onnxruntime.InferenceSession(file).run(None, {"x": own})[0]
    if expected.shape[1] != 2:
        expected = expected.transpose(0, 4, 1, 2, 3)
    assert np.ptp(expected) > 0.3
    compiled = openvino.compile_model(tmp_path / "out/networks/net.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(compiled(x)[0] - expected).max() < allowed


def test_a_graph_of_another_size_or_number_is_refused_in_one_line(tmp_path: Path) -> None:
    file = written(tmp_path, Net(), torch.zeros(1, 1, 8, 8, 8))
    described = recipe(tmp_path)
    with pytest.raises(ExportError, match=r"graph\.onnx: takes \(1, 1, 8, 8, 8\), and the recipe's input is") as caught:
        export(file, tmp_path / "out", recipe=described)
    assert "\n" not in str(caught.value)
    file = written(tmp_path, Net().double(), torch.zeros(FIRST).double())
    with pytest.raises(ExportError, match="takes double, expected float32 or float16"):
        export(file, tmp_path / "out", recipe=described)


@pytest.mark.parametrize("layout", ["first", "last"])
def test_open_sizes_that_the_network_does_not_take_are_told_with_its_multiples(tmp_path: Path, layout: str) -> None:
    """The network halves its input once and joins both, so that its sides are even."""
    file = written(tmp_path, Net(layout), torch.zeros(FIRST if layout == "first" else LAST), **OPEN)
    odd = recipe(tmp_path)
    sides = ", ".join(map(str, SIDES))
    odd.write_text(
        odd.read_text()
        .replace(f"shape = [{sides}]", "shape = [12, 11, 10]")
        .replace("multiple_of = 8\n", "multiple_of = 1\n")
    )
    with pytest.raises(ExportError) as caught:
        export(file, tmp_path / "out", recipe=odd)
    assert "takes sides that are multiples of 2, and the recipe gives it [12, 11, 10]" in str(caught.value)
    assert "to [12, 12, 10] for example" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_graph_in_the_bundle_is_the_one_that_was_compared(tmp_path: Path) -> None:
    file = written(tmp_path, Net("last").half(), torch.zeros(LAST).half())
    bundle = export(file, tmp_path / "out", recipe=recipe(tmp_path), keep_onnx=True)
    onnx.checker.check_model(onnx.load(bundle.path / "networks" / "net.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(bundle.path / "networks" / "net.onnx")
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("x", list(FIRST), "tensor(float)")
    assert (found.name, found.type) == ("y", "tensor(float)")

"""Routes of an export: which networks a trace cannot keep, what torch.export reaches, and ONNX where it is asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from lowres_seg import Bundle, ExportError
from lowres_seg.export.frameworks import decompositions
from lowres_seg.export.frameworks.torch_network import TorchNetwork

from .conftest import Command
from .test_outputs import NO_FACTORY, edited

SHAPE = (1, 1, 4, 5, 6)
Function = Callable[[torch.Tensor], Any]


class Of(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def buffer(x: torch.Tensor) -> torch.Tensor:
    kept = torch.zeros(2)
    kept[0] = x.mean()
    return x if kept.sum() > 0.2 else 2 * x


#: Functions that do other things with other values, and would be traced for one of them.
READS: dict[str, Function] = {
    "branch": lambda x: x if x.mean() > 0 else 2 * x,
    "branch far from any usual value": lambda x: x if x.mean() > 41.7 else 2 * x,
    "any": lambda x: x if (x > 3).any() else 2 * x,
    "item": lambda x: x / x.max().item(),
    "float": lambda x: x * float(x.mean()),
    "loop": lambda x: sum((x for _ in range(int(x.abs().max()))), x),
    "loop over what is found": lambda x: sum((x for _ in range(x.nonzero().shape[0])), x),
    "length": lambda x: x * len(x.nonzero()),
    "cut": lambda x: x[..., : int(x.argmax()) % 3 + 1],
    "while": lambda x: x if bool(x.sum() < 10) else x + 1,
    "equal": lambda x: x if torch.equal(x, x.abs()) else 2 * x,
    "allclose": lambda x: x if torch.allclose(x, x.abs()) else 2 * x,
    "is_nonzero": lambda x: x if x.max().is_nonzero() else 2 * x,
    "list": lambda x: x * x.flatten().tolist()[0],
    "numpy": lambda x: x * float(x.numpy().max()),
    "array": lambda x: x * float(np.asarray(x).max()),
    "constant of a value": lambda x: x * torch.tensor(x.max()),
    "format": lambda x: x * float(f"{x.max():.3f}"),
    "through a new tensor": buffer,
}


class Constants(nn.Module):
    """Branches on a buffer, a weight, and tensors that are made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("path", torch.tensor([1.0, 2.0]))
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.path[0] > 0.5 and self.weight.item() > 0:  # type: ignore[index]
            x = 2 * x
        for _ in range(int(self.path.sum())):  # type: ignore[operator]
            x = x + 1
        if torch.zeros_like(x).sum() == 0 and torch.tensor(3.0) > 2:
            x = x + 1
        return x * (x > 0.3)


KEEPS: dict[str, Function] = {
    "shapes": lambda x: functional.pad(x, (0, x.shape[2] % 3)) if x.shape[3] > 3 else x,
    "where": lambda x: torch.where(x.mean() > 0, x, 2 * x),
    "mean of what is found": lambda x: x / x[x > 0.1].mean(),
    "mask": lambda x: x.masked_fill(x < 0.5, 0),
    "the same tensor": lambda x: torch.as_tensor(x) + 1,
    "constants": Constants(),
}


@pytest.mark.parametrize("case", READS)
def test_networks_whose_code_reads_values_are_refused(case: str) -> None:
    with pytest.raises(ExportError, match="torch cannot trace the network: its code branches") as caught:
        TorchNetwork(Of(READS[case]), 0).check_values(SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", KEEPS)
def test_networks_whose_code_reads_shapes_and_constants_are_not(case: str) -> None:
    network = TorchNetwork(Of(KEEPS[case]), 0)
    network.check_values(SHAPE)
    script = network.script(SHAPE)
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32) + 0.5
    assert np.array_equal(script(torch.from_numpy(x)).numpy(), network.run(x))


def made(folder: Path, body: str) -> list[object]:
    """Words of the export of a network of one convolution `a`, whose forward is `body`."""
    recipe = edited(
        folder,
        ('checkpoint_key = "model_state_dict"\n', ""),
        ("max_abs_diff = 1e-4\n", ""),
        ("max_flipped = 1e-3\n", ""),
    )
    code = "import torch\nfrom torch.nn import functional as f\n" + NO_FACTORY.replace("{body}", body)
    (recipe.parent / "network.py").write_text(code)
    generator = torch.Generator().manual_seed(0)
    weights = {"a.weight": torch.randn(2, 1, 1, 1, 1, generator=generator), "a.bias": torch.zeros(2)}
    torch.save(weights, folder / "tiny.pt")
    return ["export", recipe, "--weights", folder, "-o", folder / "out"]


#: Bodies that OpenVINO reads from a trace, or from torch.export only.
ROUTES = {
    "plain": ("return self.a(x)", "trace"),
    "softshrink": ("return f.softshrink(self.a(x))", "export"),
    "unpool": ("y, i = f.max_pool3d(self.a(x), 2, return_indices=True); return f.max_unpool3d(y, i, 2)", "export"),
    "nearest-exact": ("return f.interpolate(self.a(x)[..., ::2], size=(32, 32, 32), mode='nearest-exact')", "export"),
    "alpha dropout": ("return f.alpha_dropout(self.a(x), 0.5, False)", "export"),
    "threshold": ("return f.threshold(self.a(x), 0.1, 2.0)", "export"),
    "cosine": ("y = self.a(x); return y * f.cosine_similarity(y, y + 1, 1)[:, None]", "export"),
    "grid": ("y = self.a(x); g = f.affine_grid(0.9 * torch.eye(3, 4)[None], y.shape, align_corners=True); return f.grid_sample(y, g + 0.01 * y.mean(), align_corners=True)", "trace"),
    "what onnx lacks": ("return self.a(x) + f.adaptive_avg_pool3d(x, 5).mean((2, 3, 4), keepdim=True)", "trace"),
    "found": ("y = self.a(x); return y / y[y > 0.1].mean()", "trace"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROUTES)
def test_each_network_takes_the_first_route_that_serves(tmp_path: Path, command: Command, case: str) -> None:
    body, route = ROUTES[case]
    done = command(*made(tmp_path, body), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "reports" / "export.json").read_text())
    assert report["networks"]["net"]["route"] == route
    assert {row["candidate"] for row in report["parity"]} == {"openvino"}
    share = 4e-6 if case == "grid" else 4e-7  # places between voxels are rounded too
    assert all(row["max_abs_diff"] <= share * row["score_range"] for row in report["parity"])
    assert not list((tmp_path / "out").rglob("*.onnx"))


def test_onnx_fails_by_itself(tmp_path: Path, command: Command) -> None:
    done = command(*made(tmp_path, ROUTES["what onnx lacks"][0]), "--onnx")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "reports" / "export.json").read_text())
    failed = report["networks"]["net"]["onnx_failed"]
    assert "\n" not in failed
    assert str(tmp_path) not in failed
    assert "torch cannot write the network as ONNX" in failed
    assert "net: no ONNX graph (torch cannot write the network as ONNX" in " ".join(done.stdout.split())
    assert Bundle.open(tmp_path / "out").manifest.networks["net"].onnx is None


def test_onnx_is_in_the_bundle_where_it_gives_the_same(tmp_path: Path, command: Command) -> None:
    done = command(*made(tmp_path, ROUTES["plain"][0]), "--onnx")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "reports" / "export.json").read_text())
    assert report["networks"]["net"]["onnx_failed"] is None
    assert [row["candidate"] for row in report["parity"][:2]] == ["openvino", "onnxruntime"]
    network = Bundle.open(tmp_path / "out").manifest.networks["net"]
    onnxruntime.InferenceSession(tmp_path / "out" / str(network.onnx))


@pytest.mark.parametrize(
    ("mode", "padding", "corners"),
    list(itertools.product(("bilinear", "nearest"), ("zeros", "border", "reflection"), (False, True))),
)
def test_grid_sample_is_the_same_by_gathers(mode: str, padding: str, *, corners: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 6, 7, generator=generator)
    grid = 6 * torch.rand(2, 4, 5, 1, 3, generator=generator) - 3
    expected = functional.grid_sample(x, grid, mode, padding, corners)
    assert (decompositions.sampled(x, grid, mode, padding, corners) - expected).abs().max() < 2e-6


@pytest.mark.parametrize("sides", [(5, 6, 7), (6, 7)])
@pytest.mark.parametrize("corners", [False, True])
def test_affine_grid_is_the_same(sides: tuple[int, ...], *, corners: bool) -> None:
    theta = torch.randn(2, len(sides), len(sides) + 1, generator=torch.Generator().manual_seed(0))
    expected = functional.affine_grid(theta, [2, 1, *sides], align_corners=corners)
    assert (decompositions.affine_places(theta, [2, 1, *sides], corners) - expected).abs().max() < 2e-6

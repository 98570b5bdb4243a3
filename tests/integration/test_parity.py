"""Parity: right conversions of deep networks pass, and planted faults do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg import ParityError
from lowres_seg.bundle.stage import Argmax
from lowres_seg.export import routes
from lowres_seg.export.frameworks import ir
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.export.parity import ParityReport, compare, with_float64
from lowres_seg.export.recipe import Parity
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

SHAPE = (1, 2, 12, 12, 12)
ARGMAX = Argmax(labels=(0, 1, 2))


class Deep(nn.Module):
    """A U-Net of two levels with `repeats` convolutions each; scores far from zero, as trained networks give."""

    def __init__(self, norm: Callable[[int], nn.Module], repeats: int) -> None:
        super().__init__()

        def block(channels: int, width: int) -> nn.Module:
            layers: list[nn.Module] = []
            for _ in range(repeats):
                layers += [nn.Conv3d(channels, width, 3, padding=1), norm(width), nn.LeakyReLU(0.01)]
                channels = width
            return nn.Sequential(*layers)

        self.down, self.deep, self.up = block(2, 8), block(8, 16), block(24, 8)
        self.pool = nn.MaxPool3d(2)
        self.larger = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.head = nn.Conv3d(8, 3, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.normal_(module.bias, 0, 0.5)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.down(x)
        found: torch.Tensor = 10 * self.head(self.up(torch.cat([fine, self.larger(self.deep(self.pool(fine)))], 1)))
        return found


def batch_norm(width: int) -> nn.Module:
    norm = nn.BatchNorm3d(width)
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    return norm


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": batch_norm,
    "instance": lambda width: nn.InstanceNorm3d(width, affine=True),
}


def faults(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a network with one fault in one layer each."""
    for name, layer in module.named_modules():
        for fault in ("bias", "weights", "epsilon", "corners"):
            copy = deepcopy(module)
            other: Any = copy.get_submodule(name)
            if fault == "bias" and isinstance(layer, nn.Conv3d):
                nn.init.zeros_(other.bias)
            elif fault == "weights" and isinstance(layer, nn.Conv3d):
                other.weight.data *= 1.001
            elif fault == "epsilon" and hasattr(layer, "eps"):
                other.eps = 1e-3
            elif fault == "corners" and isinstance(layer, nn.Upsample):
                other.align_corners = True
            else:
                continue
            yield f"{fault} of {name}", copy


def in_openvino(module: nn.Module, path: Path, x: np.ndarray) -> np.ndarray:
    ir.convert(TorchNetwork(module.eval(), 0).script(x.shape), x.shape, path)
    return OpenVinoEngine(path, threads=1, inference_precision="f32").run(x).copy()


def judged(module: nn.Module, x: np.ndarray, candidate: np.ndarray, kind: str = "random") -> ParityReport:
    network = TorchNetwork(module, 0)
    scores = network.run(x)
    report = compare("net", kind, ARGMAX, ("torch", scores), ("openvino", candidate))
    return with_float64(report, ARGMAX, scores, candidate, lambda: network.run_in_double(x))


@pytest.mark.parametrize("norm", NORMS)
def test_faults_are_refused_and_the_network_itself_is_not(tmp_path: Path, norm: str) -> None:
    torch.manual_seed(0)
    module = Deep(NORMS[norm], repeats=1).eval()
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    judged(module, x, in_openvino(module, tmp_path / "right.xml", x)).check(Parity())
    right = TorchNetwork(module, 0).run_in_double(x)
    refused, cancelled = [], []
    for index, (name, wrong) in enumerate(faults(module)):
        moved = np.abs(TorchNetwork(wrong, 0).run_in_double(x) - right).max() / np.ptp(right)
        report = judged(module, x, in_openvino(wrong, tmp_path / f"{index}.xml", x))
        if moved < 1e-5:
            cancelled.append(name)  # a norm behind the layer takes the fault out again
            continue
        with pytest.raises(ParityError, match="openvino differs from torch"):
            report.check(Parity())
        refused.append((name, moved))
    assert len(refused) >= {"none": 9, "batch": 12, "instance": 4}[norm]


def test_a_deep_network_is_right_beyond_any_share_of_its_range(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Deep(NORMS["instance"], repeats=12).eval()
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    report = judged(module, x, in_openvino(module, tmp_path / "right.xml", x))
    report.check(Parity())


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_of_a_large_window_are_as_exact_as_torchs(tmp_path: Path, norm: str) -> None:
    """OpenVINO's own norms sum their values one after the other, and are off by far more the larger the window."""
    torch.manual_seed(0)
    kinds = {**NORMS, "group": lambda channels: nn.GroupNorm(2, channels)}
    module = Deep(kinds[norm], repeats=1).eval()
    shape = (1, 2, 96, 96, 96)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    path = tmp_path / "large.xml"
    network = TorchNetwork(module, 0)
    conversion = ir.convert(network.script(shape), shape, path)
    assert not {"MVN", "GroupNormalization"} & set(conversion.operators)
    scores, exact = network.run(x), network.run_in_double(x)
    found = OpenVinoEngine(path, threads=1, inference_precision="f32").run(x)
    compare("net", "phantom", ARGMAX, ("torch", scores), ("openvino", found)).check(Parity())
    assert np.abs(found - exact).max() < 5 * np.abs(scores - exact).max()

    conversion = ir.convert(network.script(shape), shape, path, with_exact_norms=False)
    assert {"MVN", "GroupNormalization"} & set(conversion.operators)
    found = OpenVinoEngine(path, threads=1, inference_precision="f32").run(x)
    assert np.abs(found - exact).max() > 5 * np.abs(scores - exact).max()


@pytest.mark.parametrize("exact_norms", [True, False])
def test_a_recipe_may_keep_openvinos_norms(tmp_path: Path, exact_norms: bool) -> None:
    module = Deep(NORMS["instance"], repeats=1).eval()
    network = TorchNetwork(module, 0)
    shape = (1, 2, 32, 32, 32)
    route, conversion = routes.from_torch(network, shape, tmp_path / "n.xml", exact_norms=exact_norms)
    assert (route, "MVN" in conversion.operators) == ("trace", not exact_norms)

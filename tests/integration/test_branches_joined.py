"""Branches that are joined: alike ones become one convolution, and what follows by channel goes into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.export import routes
from lowres_seg.export.frameworks.torch_network import TorchNetwork
from lowres_seg.runtime.openvino_engine import OpenVinoEngine, read_graph

SHAPE = (1, 4, 12, 10, 8)


class Joined(nn.Module):
    """Branches of one input, joined along channels, then what follows."""

    def __init__(self, kernels: list[tuple[int, ...]], after: nn.Module, *, bias: bool = True, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv3d(4, 6, 1)
        self.branches = nn.ModuleList(
            nn.Conv3d(6, 3 + place, kernel, stride, [n // 2 for n in kernel], bias=bias and place != 1)
            for place, kernel in enumerate(kernels)
        )
        self.after = after
        self.head = nn.Conv3d(sum(3 + place for place in range(len(kernels))), 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sin(self.first(x))
        y = self.after(torch.cat([branch(x) for branch in self.branches], 1))
        return nn.functional.interpolate(self.head(y), size=list(SHAPE[2:]))


def batch(channels: int) -> nn.Module:
    norm = nn.BatchNorm3d(channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


VIEWS: list[tuple[int, ...]] = [(1, 3, 3), (3, 1, 3), (3, 3, 1)]
POINTS: list[tuple[int, ...]] = [(1, 1, 1)] * 3
#: Number of convolutions and of joins that are left, the first convolution and the head included.
CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "views": (lambda: Joined(VIEWS, nn.Identity()), 5, 1),
    "views, batch norm, leaky": (lambda: Joined(VIEWS, nn.Sequential(batch(12), nn.LeakyReLU())), 5, 1),
    "views, batch norm, relu, stride": (
        lambda: Joined(VIEWS, nn.Sequential(batch(12), nn.ReLU()), bias=False, stride=2),
        5,
        1,
    ),
    "views, PReLU by channel": (lambda: Joined(VIEWS, nn.PReLU(12, 0.3)), 5, 1),
    "points": (lambda: Joined(POINTS, nn.Sequential(batch(12), nn.ReLU())), 3, 0),
    "points without a bias": (lambda: Joined(POINTS, nn.ReLU(), bias=False, stride=2), 3, 0),
    "two alike and another": (lambda: Joined([(1, 1, 1), (1, 1, 1), (3, 3, 3)], batch(12)), 4, 1),
    "apart": (lambda: Joined([(1, 1, 1), (3, 3, 3), (1, 1, 1)], batch(12)), 5, 1),
}


def exported(module: nn.Module, folder: Path) -> Any:
    xml = folder / "net.xml"
    routes.from_torch(TorchNetwork(module.eval(), 0), SHAPE, xml)
    return NetworkFiles.written(xml)


@pytest.mark.parametrize("case", CASES)
def test_the_scores_stay_and_the_branches_do_more(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, convolutions, joins = CASES[case]
    module = build()
    files = exported(module, tmp_path)
    nodes = read_graph(files).get_ordered_ops()
    kinds = Counter(node.get_type_name() for node in nodes)
    assert (kinds["Convolution"], kinds["Concat"]) == (convolutions, joins)
    (last,) = [node for node in nodes if node.get_type_name() == "Concat"] or [None]
    if last is not None:  # nothing by channel is left behind it
        behind = {port.get_node().get_type_name() for port in last.output(0).get_target_inputs()}
        assert behind == {"Convolution"}
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(OpenVinoEngine(files, threads=1).run(x), expected, atol=2e-5)


class TwoReaders(Joined):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sin(self.first(x))
        parts = [branch(x) for branch in self.branches]
        y = self.after(torch.cat(parts, 1)) + parts[0].mean()
        return nn.functional.interpolate(self.head(y), size=list(SHAPE[2:]))


class TwoInputs(Joined):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = torch.cat([branch(torch.sin(x) if place else x) for place, branch in enumerate(self.branches)], 1)
        return self.head(self.after(y))


@pytest.mark.parametrize("kind", [TwoReaders, TwoInputs])
def test_other_joins_stay_as_they_are(kind: Callable[..., nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = kind(POINTS, nn.ReLU())
    files = exported(module, tmp_path)
    kinds = Counter(node.get_type_name() for node in read_graph(files).get_ordered_ops())
    assert (kinds["Convolution"], kinds["Concat"]) == (5, 1)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(OpenVinoEngine(files, threads=1).run(x), expected, atol=2e-5)

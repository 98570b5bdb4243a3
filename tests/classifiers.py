"""Networks that classify, small enough to train in seconds, and the heads that they tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowres_seg import Volume
from lowres_seg.export import phantom

SIDE = 16
RECIPE = """channels = ["t1"]
labels = []

[bundle]
name = "grade"
version = "1"
description = "for tests"
license = "CC0-1.0"
source = "the tests"
intended_use = "tests"

[networks.net]
{source}

[[stages]]
name = "only"
networks = ["net"]
conform = {{ orientation = "RAS", shape = [16, 16, 16] }}
normalise = {{ rules = [{{ rule = "affine", scale = 0.002 }}] }}
decode = {{ kind = "classes", activation = "{activation}", names = {names} }}
restore = {{ what = "nothing" }}
"""


class Grader(nn.Module):
    """Three convolutions, a mean, and one score for each class, with the axes that `kind` says."""

    def __init__(self, classes: int = 2, kind: str = "flat") -> None:
        super().__init__()
        self.kind = kind
        self.body = nn.Sequential(
            nn.Conv3d(1, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv3d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv3d(16, 16, 3, 1, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> Any:
        scores = self.head(self.body(x).mean((2, 3, 4)))
        return {
            "flat": lambda: scores,
            "thick": lambda: scores[:, :, None, None, None],
            "slice": lambda: scores[:, :, None, None],
            "squeezed": scores.squeeze,
            "pair": lambda: (x.mean((2, 3, 4)), scores),
        }[self.kind]()


def build(classes: int = 2, kind: str = "flat") -> Grader:
    return Grader(classes, kind)


def head(seed: int, *, high: bool) -> Volume:
    """Phantom head with a tumor, bright and large if it is of high grade."""
    random = np.random.default_rng(seed)
    volume = phantom.head((SIDE, SIDE, SIDE), 12.0, seed=seed)
    places = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), -1)
    centre = 8 + random.integers(-1, 2, 3)
    radius = random.uniform(2.8, 3.4) if high else random.uniform(1.4, 1.9)
    data = volume.data.astype(np.float32)
    data[((places - centre) ** 2).sum(-1) < radius**2] = 1600 if high else 900
    return Volume.from_array(data, volume.grid.affine)


def trained(classes: int = 2, steps: int = 40) -> Grader:
    """Network that tells the grades apart; a single class is the high grade."""
    torch.manual_seed(0)
    network = Grader(classes).train()
    truth = [n % 2 for n in range(16)]
    x = torch.from_numpy(np.stack([head(1000 + n, high=bool(g)).data for n, g in enumerate(truth)])[:, None] * 0.002)
    y = torch.tensor(truth)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        scores = network(x)
        if classes == 1:
            loss = nn.functional.binary_cross_entropy_with_logits(scores[:, 0], y.float())
        else:
            loss = nn.functional.cross_entropy(scores, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def recipe(folder: Path, source: str, names: tuple[str, ...] = ("lgg", "hgg"), activation: str = "softmax") -> Path:
    """Write a recipe for a network of a source."""
    folder.mkdir(parents=True, exist_ok=True)
    text = RECIPE.format(source=source, activation=activation, names=str(list(names)).replace("'", '"'))
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return folder / "recipe.toml"

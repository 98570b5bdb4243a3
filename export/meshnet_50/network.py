"""MeshNet of 50 regions: dilated convolutions of 30 channels with ELU, for inference.

The names of the parameters are those of the published weights, so that their state loads unchanged.
"""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = 30
DILATIONS = (1, 2, 4, 8, 16, 8, 4, 2, 1)


class MeshNet(nn.Module):
    """(N, 1, D, H, W) to (N, 50, D, H, W), of any size; the scores are not activated."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, dilation in enumerate(DILATIONS):
            given = CHANNELS if index else 1
            layers += [nn.Conv3d(given, CHANNELS, 3, padding=dilation, dilation=dilation), nn.ELU()]
        layers.append(nn.Conv3d(CHANNELS, 50, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = self.model[-1]
        x = self.model[:-1](x)
        # torch crashes on a convolution whose result has more than 2 GiB, as 50 channels of 256³ have.
        halves = zip(last.weight.chunk(2), last.bias.chunk(2), strict=True)
        return torch.cat([nn.functional.conv3d(x, weight, bias) for weight, bias in halves], 1)


def build() -> MeshNet:
    """The network of the published weights."""
    return MeshNet()

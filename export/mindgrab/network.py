"""MindGrab: a MeshNet of dilated convolutions, for inference.

Fani et al., "MindGrab for BrainChop" (2025). Convolutions of 15 channels with dilations 16, 8, 4, 2, 1 repeated,
each followed by a norm of every channel by itself and a GELU, then a 1x1x1 convolution to two classes. The names
of the parameters are those of the published weights, so that their state loads unchanged.
"""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = 15
DILATIONS = (16, 8, 4, 2, 1) * 5


class MeshNet(nn.Module):
    """(N, 1, D, H, W) to (N, 2, D, H, W), of any size; the scores are not activated."""

    def __init__(self) -> None:
        super().__init__()
        layers = []
        for index, dilation in enumerate(DILATIONS):
            conv = nn.Conv3d(CHANNELS if index else 1, CHANNELS, 3, padding=dilation, dilation=dilation, bias=False)
            layers.append(nn.Sequential(conv, nn.GroupNorm(CHANNELS, CHANNELS, affine=False), nn.GELU()))
        layers.append(nn.Conv3d(CHANNELS, 2, 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def build() -> MeshNet:
    """The network of the published weights."""
    return MeshNet()

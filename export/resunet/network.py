"""GaNDLF's 3D U-Net with residual connections, for inference.

Baheti et al. take it as their baseline, with four levels below the first and 32 filters there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

FILTERS = (32, 64, 128, 256, 512)
LEAKINESS = 0.01


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each at least 2."""
    return [max(2, round(width * count)) for count in filters]


def _conv(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Conv3d:
    return nn.Conv3d(channels_in, channels_out, 3, stride=stride, padding=1)


class Activated(nn.Module):
    """A batch norm, LeakyReLU and a layer."""

    def __init__(self, channels: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm3d(channels), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(F.leaky_relu(self.norm(x), LEAKINESS))


class Pair(nn.Module):
    """Two activated 3x3x3 convolutions of one number of channels, and their input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (Activated(channels, _conv(channels, channels)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)) + x


class Down(nn.Module):
    """Halves each axis with a strided convolution, a norm and LeakyReLU, and convolves with a residual."""

    def __init__(self, above: int, channels: int) -> None:
        super().__init__()
        self.conv, self.norm, self.pair = _conv(above, channels, stride=2), nn.BatchNorm3d(channels), Pair(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(F.leaky_relu(self.norm(self.conv(x)), LEAKINESS))


class Up(nn.Module):
    """Doubles each axis (trilinear, corners aligned), changes the channels, and joins the encoder's features."""

    def __init__(self, below: int, beside: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(below, beside, 1)

    def forward(self, x: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
        return torch.cat([self.conv(x), encoded], dim=1)


class ResUNet(nn.Module):
    """(N, channels, D, H, W), multiples of 16, to scores (N, classes, D, H, W); the scores are not activated."""

    def __init__(self, channels: int, classes: int, filters: Sequence[int]) -> None:
        super().__init__()
        first, *_ = filters
        pairs = list(pairwise(filters))
        self.first = nn.Sequential(_conv(channels, first), Pair(first))
        self.down = nn.ModuleList(Down(above, count) for above, count in pairs)
        self.up = nn.ModuleList(Up(below, beside) for beside, below in pairs[::-1])
        # The decoder halves the channels of what is joined, but for the last level, which keeps both halves.
        self.decode = nn.ModuleList(
            nn.Sequential(Activated(2 * count, _conv(2 * count, kept)), Pair(kept))
            for count, kept in [*((count, count) for count in filters[-2:0:-1]), (first, 2 * first)]
        )
        self.last = Activated(2 * first, _conv(2 * first, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = [self.first(x)]
        for down in self.down:
            encoded.append(down(encoded[-1]))
        x = encoded.pop()
        for up, decode, beside in zip(self.up, self.decode, encoded[::-1], strict=True):
            x = decode(up(x, beside))
        return self.last(x)


def build(width: float = 1.0, channels: int = 4, classes: int = 4) -> ResUNet:
    """The network of the paper: depth 4, 32 filters times `width`."""
    return ResUNet(channels, classes, scaled(FILTERS, width))

"""SPiN, which segments the slice in the middle of five at twice its resolution inside, for inference.

Wong et al., "Small lesion segmentation in brain MRIs with subpixel embedding" (BrainLes 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

SLICES = 5
ENCODER = (32, 64, 128, 196, 196)
DECODER = (196, 128, 64, 32, 16, 16)
EMBEDDING, GUIDANCE, WEIGHING = 16, 8, 16
LEAKINESS = 0.1


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each a multiple of 4, for the rearrangements of pixels."""
    return [max(4, 4 * round(width * count / 4)) for count in filters]


class Conv(nn.Module):
    """A padded 2D convolution without bias, a batch norm and LeakyReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), LEAKINESS)


class ResBlock(nn.Module):
    """Two convolutions, and the input added, by a 1x1 convolution where its shape differs."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = Conv(channels_in, channels_out, 3, stride), Conv(channels_out, channels_out)
        same = stride == 1 and channels_in == channels_out
        self.skip = None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.skip is None else self.skip(x)
        return F.leaky_relu(self.second(self.first(x)) + skip, LEAKINESS)


class Up(nn.Module):
    """Features to the size of others by nearest, convolved, joined with those, and convolved again."""

    def __init__(self, channels_in: int, beside: int, channels_out: int) -> None:
        super().__init__()
        self.up, self.join = Conv(channels_in, channels_out), Conv(channels_out + beside, channels_out)

    def forward(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        x = self.up(F.interpolate(x, size=beside.shape[2:], mode="nearest"))
        return self.join(torch.cat([x, beside], dim=1))


class SPiN(nn.Module):
    """(N, 5, H, W), five slices as channels, to logits (N, 1, H, W) of the one in the middle; H and W are any."""

    def __init__(self, channels: int, encoder: Sequence[int], decoder: Sequence[int], small: Sequence[int]) -> None:
        super().__init__()
        embedding, guidance, weighing = small
        # The embedding: features at the input's resolution, rearranged to twice of it.
        self.features = nn.Sequential(ResBlock(channels, embedding), ResBlock(embedding, embedding))
        self.embed = nn.Sequential(Conv(embedding // 4, guidance, 1), Conv(guidance, guidance))
        self.guide_1x, self.guide_2x = Conv(4 * guidance, guidance), Conv(guidance, guidance)
        # ResNet18, whose first layers halve the resolution twice.
        self.stem = Conv(channels, encoder[0], 7, 2)
        pairs = zip(encoder[:-1], encoder[1:], (1, 2, 2, 2), strict=True)
        self.layers = nn.ModuleList(
            nn.Sequential(ResBlock(before, count, stride), ResBlock(count, count)) for before, count, stride in pairs
        )
        beside = [*encoder[-2::-1], guidance]
        below = [encoder[-1], *decoder[:-2]]
        self.ups = nn.ModuleList(
            Up(under, skip, count) for under, skip, count in zip(below, beside, decoder[:-1], strict=True)
        )
        self.up_2x = Conv(decoder[-2], decoder[-1])
        latent = decoder[-1] + guidance
        self.output = nn.Conv2d(latent, 1, 3, padding=1, bias=False)
        # The downsampler: how much each of the four pixels within one counts.
        self.weigh = nn.Sequential(
            Conv(4 * (latent + 1), weighing), Conv(weighing, weighing), nn.Conv2d(weighing, 4, 1, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        embedded = self.embed(F.pixel_shuffle(self.features(x), 2))
        encoded = [self.stem(x)]
        y = F.max_pool2d(encoded[0], 3, 2, 1)
        for layer in self.layers:
            y = layer(y)
            encoded.append(y)
        beside = [*encoded[-2::-1], self.guide_1x(F.pixel_unshuffle(embedded, 2))]
        for up, skip in zip(self.ups, beside, strict=True):
            y = up(y, skip)
        y = self.up_2x(F.interpolate(y, scale_factor=2, mode="nearest"))
        latent = torch.cat([y, self.guide_2x(embedded)], dim=1)
        fine = self.output(latent)
        shares = torch.softmax(self.weigh(F.pixel_unshuffle(torch.cat([latent, fine], dim=1), 2)), dim=1)
        return (F.pixel_unshuffle(fine, 2) * shares).sum(dim=1, keepdim=True)


def build(width: float = 1.0) -> SPiN:
    """The network of the paper; `width` is a factor on the channels of every layer."""
    return SPiN(SLICES, scaled(ENCODER, width), scaled(DECODER, width), scaled((EMBEDDING, GUIDANCE, WEIGHING), width))

"""An asymmetric U-Net around a 2D EfficientNet-B0, for inference.

Messaoudi et al., "Efficient embedding network for 3D brain tumor segmentation" (BrainLes 2020): a 3D encoder shrinks
the depth of a volume to three slices, a 2D EfficientNet takes these as its three channels, and a 2D and a 3D decoder
lead back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import EfficientNetBNFeatures
from torch import nn

#: By what the depth is divided, from 108 to 36, 12 and 3 slices.
SHRINK = (3, 3, 4)
SLICES = 3
FILTERS_3D = (8, 16, 32)
FILTERS_2D = (112, 40, 24, 16, 16)
#: Channels of EfficientNet-B0 at 1/2 to 1/32 of the resolution.
FEATURES = (16, 24, 40, 112, 320)
CHANNELS_A_GROUP = 4


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each a multiple of the channels of a group."""
    return [max(1, round(width * count / CHANNELS_A_GROUP)) * CHANNELS_A_GROUP for count in filters]


class Block(nn.Module):
    """Two convolutions with group norm and ReLU, and the input added, by a convolution of one voxel."""

    def __init__(self, axes: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
        groups = channels_out // CHANNELS_A_GROUP
        self.conv1, self.norm1 = conv(channels_in, channels_out, 3, padding=1), nn.GroupNorm(groups, channels_out)
        self.conv2, self.norm2 = conv(channels_out, channels_out, 3, padding=1), nn.GroupNorm(groups, channels_out)
        self.skip = conv(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y))) + self.skip(x)


class EfficientUNet(nn.Module):
    """(N, 1, H, W, D), H and W multiples of 32 and D 108, to logits (N, regions, H, W, D).

    D is the axis across the slices.
    """

    def __init__(self, regions: int, filters_3d: Sequence[int], filters_2d: Sequence[int]) -> None:
        super().__init__()
        self.encode = nn.ModuleList(
            Block(3, before, count) for before, count in zip([1, *filters_3d[:-1]], filters_3d, strict=True)
        )
        self.to_slices = nn.Conv3d(filters_3d[-1], 1, 1)
        self.efficientnet = EfficientNetBNFeatures(
            "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=SLICES
        )
        # The layers behind the features, of a classifier.
        self.efficientnet._conv_head = self.efficientnet._bn1 = self.efficientnet._fc = nn.Identity()  # noqa: SLF001
        beside = [*FEATURES[-2::-1], SLICES]
        below = [FEATURES[-1], *filters_2d[:-1]]
        self.decode_2d = nn.ModuleList(
            Block(2, under + skip, count) for under, skip, count in zip(below, beside, filters_2d, strict=True)
        )
        self.to_volume = nn.Conv2d(filters_2d[-1], SLICES * filters_3d[-1], 1)
        steps = zip([filters_3d[-1], *filters_3d[:0:-1]], filters_3d[::-1], strict=True)
        self.decode_3d = nn.ModuleList(Block(3, under + count, count) for under, count in steps)
        self.last = nn.Conv3d(filters_3d[0], regions, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = []
        for block, factor in zip(self.encode, SHRINK, strict=True):
            encoded.append(block(x))
            x = F.max_pool3d(encoded[-1], (1, 1, factor))
        slices = self.to_slices(x)[:, 0].movedim(-1, 1)
        *features, y = self.efficientnet(slices)
        for block, beside in zip(self.decode_2d, [*features[::-1], slices], strict=True):
            y = block(torch.cat([F.interpolate(y, scale_factor=2, mode="nearest"), beside], dim=1))
        x = self.to_volume(y).unflatten(1, (-1, SLICES)).movedim(2, -1)
        for block, beside, factor in zip(self.decode_3d, encoded[::-1], SHRINK[::-1], strict=True):
            x = F.interpolate(x, scale_factor=(1, 1, factor), mode="nearest")
            x = block(torch.cat([x, beside], dim=1))
        return self.last(x)


def build(width: float = 1.0, regions: int = 3) -> EfficientUNet:
    """The network of one modality.

    Parameters
    ----------
    width : float
        Factor on the channels of encoder and decoders around EfficientNet-B0, which keeps its own.
    regions : int
        Channels of the scores.
    """
    return EfficientUNet(regions, scaled(FILTERS_3D, width), scaled(FILTERS_2D, width))

"""The joint network of classification and segmentation (JCS), for inference.

Huynh et al. put a frozen encoder of a glioma grade classifier beside nnU-Net's encoder. At each of the six stages an
adapter joins the features of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.blocks import ChannelSELayer
from torch import nn

FILTERS = (32, 64, 128, 256, 320, 320)
#: Squeeze-and-excitation has this fraction of its channels between its two layers, as in its paper.
REDUCTION = 16
NORMS = {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d}


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each at least 8, so that an adapter has a channel to squeeze to."""
    return [max(REDUCTION // 2, round(width * count)) for count in filters]


class Adapter(nn.Module):
    """Features of both encoders (N, C, D, H, W) to (N, C, D, H, W): joined, weighed by channel, and convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = ChannelSELayer(3, 2 * channels, r=REDUCTION)
        self.conv = nn.Conv3d(2 * channels, channels, 3, padding=1)

    def forward(self, classified: torch.Tensor, segmented: torch.Tensor) -> torch.Tensor:
        return self.conv(self.weigh(torch.cat([classified, segmented], dim=1)))


class JCS(nn.Module):
    """(N, channels, D, H, W), multiples of 32, to scores (N, regions, D, H, W).

    `classifier` is the encoder of the classifier, and `unet` nnU-Net's network; both have nnU-Net's names.
    """

    def __init__(self, channels: int, regions: int, filters: Sequence[int], norm: str) -> None:
        super().__init__()
        self.unet = _unet(channels, regions, filters, norm)
        self.classifier = _unet(channels, regions, filters, norm).encoder
        self.classifier.requires_grad_(requires_grad=False)
        self.adapters = nn.ModuleList(Adapter(count) for count in filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.adapters, self.classifier(x), self.unet.encoder(x), strict=True)
        return self.unet.decoder([adapter(classified, segmented) for adapter, classified, segmented in pairs])


def _unet(channels: int, regions: int, filters: Sequence[int], norm: str) -> PlainConvUNet:
    return PlainConvUNet(
        input_channels=channels,
        n_stages=len(filters),
        features_per_stage=list(filters),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1, *[2] * (len(filters) - 1)],
        n_conv_per_stage=2,
        n_conv_per_stage_decoder=2,
        num_classes=regions,
        conv_bias=True,
        norm_op=NORMS[norm],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )


def build(width: float = 1.0, channels: int = 4, regions: int = 3, norm: str = "instance") -> JCS:
    """The joint network; its classifier's encoder takes no gradient.

    Parameters
    ----------
    width : float
        Factor on the channels of every stage.
    channels, regions : int
        Channels of the input and of the scores.
    norm : str
        ``"instance"`` or ``"batch"``.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, not {norm!r}")
    return JCS(channels, regions, scaled(FILTERS, width), norm)

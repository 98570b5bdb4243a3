"""Classifiers of whole volumes, for inference: of glioma grade, and of the IDH mutation.

Each takes (N, channels, D, H, W) and gives one logit (N, 1, 1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from monai.networks.nets import DenseNet121
from torch import nn

NNUNET_FILTERS = (32, 64, 128, 256, 320, 320)
CNN_FILTERS = (32, 64, 128, 256)
HIDDEN = 128


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each at least 2."""
    return [max(2, round(width * count)) for count in filters]


class GradeClassifier(nn.Module):
    """nnU-Net's encoder, the mean over all voxels, and two linear layers with LeakyReLU and dropout between them.

    The names of the encoder's parameters are nnU-Net's, so that its state goes into the segmentation network.
    """

    def __init__(self, channels: int, filters: Sequence[int], hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder = PlainConvEncoder(
            input_channels=channels,
            n_stages=len(filters),
            features_per_stage=list(filters),
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1, *[2] * (len(filters) - 1)],
            n_conv_per_stage=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        )
        self.head = nn.Sequential(
            nn.Linear(filters[-1], hidden), nn.LeakyReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x).mean(dim=(2, 3, 4)))[:, :, None, None, None]


class ConvNet(nn.Module):
    """Four times a convolution, batch norm, ReLU and max-pool; the mean over all voxels, dropout, a linear layer."""

    def __init__(self, channels: int, filters: Sequence[int], dropout: float) -> None:
        super().__init__()
        pairs = zip([channels, *filters[:-1]], filters, strict=True)
        self.convs = nn.ModuleList(nn.Conv3d(before, count, 3, padding=1) for before, count in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm3d(count) for count in filters)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(filters[-1], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool3d(F.relu(norm(conv(x))), 2)
        return self.fc(self.dropout(x.mean(dim=(2, 3, 4))))[:, :, None, None, None]


class DenseNet(DenseNet121):
    """MONAI's DenseNet-121, whose logit has the three axes of a volume."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :, None, None, None]


def build_grade(width: float = 1.0, channels: int = 4, hidden: int = HIDDEN, dropout: float = 0.5) -> GradeClassifier:
    """The classifier of glioma grade: D, H and W are multiples of 32.

    Parameters
    ----------
    width : float
        Factor on the channels of every stage, and on `hidden`.
    channels : int
        Channels of the input.
    hidden : int
        Outputs of the first linear layer.
    dropout : float
        Share of values that training leaves out.
    """
    return GradeClassifier(channels, scaled(NNUNET_FILTERS, width), scaled([hidden], width)[0], dropout)


def build_cnn(width: float = 1.0, channels: int = 4, dropout: float = 0.5) -> ConvNet:
    """The network of four convolutions; `width` is a factor on their channels."""
    return ConvNet(channels, scaled(CNN_FILTERS, width), dropout)


def build_densenet(width: float = 1.0, channels: int = 4) -> DenseNet:
    """DenseNet-121 of three dimensions; `width` is a factor on its first channels and on its growth."""
    first, growth = scaled([64, 32], width)
    return DenseNet(spatial_dims=3, in_channels=channels, out_channels=1, init_features=first, growth_rate=growth)

"""The 3D residual U-Net of BrainMaGe, for inference.

Thakur et al., "Brain extraction on MRI scans in presence of diffuse glioma" (NeuroImage, 2020), and
"Optimization of deep learning based brain extraction in MRI for low resource environments"
(BrainLes, 2021). The names of the parameters are those of the published checkpoints, so that their
``model_state_dict`` loads unchanged.

Every norm is ``InstanceNorm3d(affine=True, track_running_stats=True)``: at inference it uses its running
statistics and is therefore a constant affine map, which ``lowres-seg export`` folds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEAKINESS = 0.01


def _conv(channels_in: int, channels_out: int, *, stride: int = 1, kernel: int = 3) -> nn.Conv3d:
    return nn.Conv3d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)


def _norm(channels: int) -> nn.InstanceNorm3d:
    return nn.InstanceNorm3d(channels, affine=True, track_running_stats=True)


def _act(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, LEAKINESS)


class InBlock(nn.Module):
    """(N, in, D, H, W) to (N, out, D, H, W): a convolution, then a pre-activated residual pair."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.in_0, self.in_1 = _norm(channels_out), _norm(channels_out)
        self.conv0 = _conv(channels_in, channels_out)
        self.conv1 = _conv(channels_out, channels_out)
        self.conv2 = _conv(channels_out, channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.conv0(x)
        x = self.conv1(_act(self.in_0(skip)))
        return self.conv2(_act(self.in_1(x))) + skip


class Downsample(nn.Module):
    """Halves each axis with a strided convolution and changes the number of channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.in_0 = _norm(channels_out)
        self.conv0 = _conv(channels_in, channels_out, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _act(self.in_0(self.conv0(x)))


class Encode(nn.Module):
    """A pre-activated residual pair of convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_0, self.in_1 = _norm(channels), _norm(channels)
        self.conv0, self.conv1 = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x
        x = self.conv0(_act(self.in_0(x)))
        return self.conv1(_act(self.in_1(x))) + skip


class Upsample(nn.Module):
    """Doubles each axis (trilinear, corners aligned) and changes the number of channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv0 = _conv(channels_in, channels_out, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv0(F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True))


class Decode(nn.Module):
    """Joins the upsampled features with the encoder's and convolves them, with a residual."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.in_0, self.in_1, self.in_2 = _norm(channels_in), _norm(channels_out), _norm(channels_out)
        self.conv0 = _conv(channels_in, channels_out)
        self.conv1 = _conv(channels_out, channels_out)
        self.conv2 = _conv(channels_out, channels_out)

    def forward(self, up: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        skip = self.conv0(_act(self.in_0(torch.cat([up, encoded], dim=1))))
        x = self.conv1(_act(self.in_1(skip)))
        return self.conv2(_act(self.in_2(x))) + skip


class Out(nn.Module):
    """As `Decode`, then a 1x1x1 convolution to `classes` channels and a sigmoid."""

    def __init__(self, channels_in: int, classes: int) -> None:
        super().__init__()
        half = channels_in // 2
        self.in_0, self.in_1 = _norm(channels_in), _norm(half)
        self.in_2, self.in_3 = _norm(half), _norm(half)
        self.conv0, self.conv1, self.conv2 = _conv(channels_in, half), _conv(half, half), _conv(half, half)
        self.conv3 = _conv(half, classes, kernel=1)

    def forward(self, up: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        skip = self.conv0(_act(self.in_0(torch.cat([up, encoded], dim=1))))
        x = self.conv1(_act(self.in_1(skip)))
        x = self.conv2(_act(self.in_2(x))) + skip
        return torch.sigmoid(self.conv3(_act(self.in_3(x))))


class ResUNet(nn.Module):
    """Four-level residual U-Net: (N, 1, D, H, W), each of D, H, W a multiple of 16, to (N, 1, D, H, W) in [0, 1]."""

    def __init__(self, channels: int = 1, classes: int = 1, filters: int = 16) -> None:
        super().__init__()
        f = filters
        self.ins = InBlock(channels, f)
        self.ds_0, self.en_1 = Downsample(f, 2 * f), Encode(2 * f)
        self.ds_1, self.en_2 = Downsample(2 * f, 4 * f), Encode(4 * f)
        self.ds_2, self.en_3 = Downsample(4 * f, 8 * f), Encode(8 * f)
        self.ds_3, self.en_4 = Downsample(8 * f, 16 * f), Encode(16 * f)
        self.us_3, self.de_3 = Upsample(16 * f, 8 * f), Decode(16 * f, 8 * f)
        self.us_2, self.de_2 = Upsample(8 * f, 4 * f), Decode(8 * f, 4 * f)
        self.us_1, self.de_1 = Upsample(4 * f, 2 * f), Decode(4 * f, 2 * f)
        self.us_0, self.out = Upsample(2 * f, f), Out(2 * f, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x1 = self.ins(x)
        x2 = self.en_1(self.ds_0(x1))
        x3 = self.en_2(self.ds_1(x2))
        x4 = self.en_3(self.ds_2(x3))
        x = self.en_4(self.ds_3(x4))
        x = self.de_3(self.us_3(x), x4)
        x = self.de_2(self.us_2(x), x3)
        x = self.de_1(self.us_1(x), x2)
        return self.out(self.us_0(x), x1)


def build(filters: int = 16) -> ResUNet:
    """The network of the paper: 1 channel in, 1 probability out, 16 filters, 8.288 million parameters."""
    return ResUNet(filters=filters)

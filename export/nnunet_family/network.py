"""nnU-Net's plain U-Net, for inference: built by its own dynamic-network-architectures.

Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation" (Nature
Methods, 2021). The names of the parameters are those of nnU-Net v2, so that its ``network_weights`` load unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

#: Channels of the stages: doubled from stage to stage, up to 320 in 3D and 512 in 2D.
FILTERS_3D = (32, 64, 128, 256, 320, 320)
FILTERS_2D = (32, 64, 128, 256, 512, 512, 512)
NORMS = {
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
}


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each at least 2."""
    return [max(2, round(width * count)) for count in filters]


def unet(filters: Sequence[int], channels: int, heads: int, norm: str, axes: int) -> PlainConvUNet:
    """A U-Net of nnU-Net's plans: two 3x3(x3) convolutions a stage, strided ones down, transposed ones up.

    Parameters
    ----------
    filters : sequence of int
        Channels of each stage.
    channels, heads : int
        Channels of the input and of the scores.
    norm : str
        ``"instance"`` or ``"batch"``.
    axes : int
        2 or 3.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, not {norm!r}")
    return PlainConvUNet(
        input_channels=channels,
        n_stages=len(filters),
        features_per_stage=list(filters),
        conv_op={2: nn.Conv2d, 3: nn.Conv3d}[axes],
        kernel_sizes=3,
        strides=[1, *[2] * (len(filters) - 1)],
        n_conv_per_stage=2,
        n_conv_per_stage_decoder=2,
        num_classes=heads,
        conv_bias=True,
        norm_op=NORMS[norm][axes],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )


def build(width: float = 1.0, channels: int = 4, regions: int = 3, norm: str = "instance") -> PlainConvUNet:
    """The network of six stages: (N, channels, D, H, W), multiples of 32, to scores (N, regions, D, H, W).

    Parameters
    ----------
    width : float
        Factor on the channels of every stage.
    channels, regions : int
        Channels of the input and of the scores.
    norm : str
        ``"instance"``, or ``"batch"`` for the variants "+BN".
    """
    return unet(scaled(FILTERS_3D, width), channels, regions, norm, 3)


def build_slices(width: float = 1.0, channels: int = 4, annotators: int = 3) -> PlainConvUNet:
    """The network of seven stages for slices: (N, channels, H, W), multiples of 64, to (N, annotators + 1, H, W).

    Parameters
    ----------
    width : float
        Factor on the channels of every stage.
    channels : int
        Channels of the input.
    annotators : int
        Number of annotators. Class c is that exactly c of them mark the voxel.
    """
    return unet(scaled(FILTERS_2D, width), channels, annotators + 1, "instance", 2)

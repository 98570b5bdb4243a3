"""MSNet: the anisotropic networks of a cascade for brain tumors, for inference.

Wang et al., "Automatic brain tumor segmentation using cascaded anisotropic convolutional neural networks"
(BrainLes, 2017), published with its weights as github taigw/brats17 (BSD-3). Nine such networks make the cascade:
whole tumor, tumor core and enhancing tumor, each in an axial, a sagittal and a coronal view. Convolutions are 1x3x3
in the plane of the view and 3x1x1 across it. The names of the modules follow those of the published weights.

The published norms were never updated: their moving statistics are still mean 0 and variance 1, and with those the
networks do not segment. Re-estimate them on scans (``lowres-seg export --reestimate-norm``) before use.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

MODALITIES = 4  # FLAIR, T1, T1c, T2
CHANNELS = 32
CLASSES = 2
MARGIN = 4  # slices lost at each end of the depth, one a fuse layer
EPSILON = 1e-5
DOWNSAMPLE_TWICE = {"wt": True, "tc": True, "en": False}
LEAVES = {"gamma": "weight", "beta": "bias", "alpha": "weight", "w": "weight"}


class ResBlock(nn.Module):
    """(N, in, D, H, W) to (N, 32, D, H, W): twice a norm, a PReLU and a 1x3x3 convolution, and the input added.

    An input of fewer channels is added to the middle ones.
    """

    def __init__(self, channels: int = CHANNELS, dilation: int = 1) -> None:
        super().__init__()
        self.bn_0, self.prelu_0 = nn.BatchNorm3d(channels, eps=EPSILON), nn.PReLU(channels)
        self.conv_0 = self._conv(channels, dilation)
        self.bn_1, self.prelu_1 = nn.BatchNorm3d(CHANNELS, eps=EPSILON), nn.PReLU(CHANNELS)
        self.conv_1 = self._conv(CHANNELS, dilation)
        self.before = (CHANNELS - channels) // 2
        self.after = CHANNELS - channels - self.before

    @staticmethod
    def _conv(channels: int, dilation: int) -> nn.Conv3d:
        around = (1, dilation, dilation)
        return nn.Conv3d(channels, CHANNELS, (1, 3, 3), padding=(0, dilation, dilation), dilation=around, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = F.pad(x, (0, 0, 0, 0, 0, 0, self.before, self.after)) if self.before else x
        x = self.conv_0(self.prelu_0(self.bn_0(x)))
        return self.conv_1(self.prelu_1(self.bn_1(x))) + skip


class _Unit(nn.Module):
    """A convolution, a norm and a PReLU."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv, self.bn, self.prelu = conv, nn.BatchNorm3d(channels, eps=EPSILON), nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Fuse(_Unit):
    """(N, 32, D, H, W) to (N, 32, D - 2, H, W): an unpadded convolution across the slices."""

    def __init__(self) -> None:
        super().__init__(nn.Conv3d(CHANNELS, CHANNELS, (3, 1, 1), bias=False), CHANNELS)


class Downsample(_Unit):
    """(N, 32, D, H, W), H and W even, to (N, 32, D, H / 2, W / 2): padded by one voxel at the far ends only."""

    def __init__(self) -> None:
        super().__init__(nn.Conv3d(CHANNELS, CHANNELS, (1, 3, 3), stride=(1, 2, 2), bias=False), CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Upsample(_Unit):
    """(N, in, D, H, W) to (N, out, D, 2 H, 2 W): a transposed convolution, cropped by one voxel at the far ends."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        conv = nn.ConvTranspose3d(channels_in, channels_out, (1, 3, 3), stride=(1, 2, 2), bias=False)
        super().__init__(conv, channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(self.bn(self.conv(x)[..., :-1, :-1]))


class MSNet(nn.Module):
    """(N, 4, D, H, W) to (N, 2, D, H, W), D the axis across the slices of the view; the scores are not activated.

    H and W are multiples of 4, or of 2 where `downsample_twice` is false; D is any.

    Parameters
    ----------
    downsample_twice : bool
        Whether the first features are downsampled too (whole tumor and tumor core).
    """

    def __init__(self, *, downsample_twice: bool) -> None:
        super().__init__()
        self.downsample_twice = downsample_twice
        self.block1_1, self.block1_2, self.fuse1 = ResBlock(MODALITIES), ResBlock(), Fuse()
        self.block2_1, self.block2_2, self.fuse2 = ResBlock(), ResBlock(), Fuse()
        self.downsample2 = Downsample()
        self.block3_1, self.block3_2, self.block3_3 = ResBlock(), ResBlock(dilation=2), ResBlock(dilation=3)
        self.fuse3 = Fuse()
        self.block4_1, self.block4_2, self.block4_3 = ResBlock(dilation=3), ResBlock(dilation=2), ResBlock()
        self.fuse4 = Fuse()
        self.pred_up2_1, self.pred_up3_1 = Upsample(CHANNELS, 2 * CLASSES), Upsample(CHANNELS, 4 * CLASSES)
        if downsample_twice:
            self.downsample1 = Downsample()
            self.pred_up1 = Upsample(CHANNELS, CLASSES)
            self.pred_up2_2 = Upsample(2 * CLASSES, 2 * CLASSES)
            self.pred_up3_2 = Upsample(4 * CLASSES, 4 * CLASSES)
        else:
            self.pred1 = nn.Conv3d(CHANNELS, CLASSES, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.final_pred = nn.Conv3d(7 * CLASSES, CLASSES, (1, 3, 3), padding=(0, 1, 1), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, 0, MARGIN, MARGIN))
        x1 = self.fuse1(self.block1_2(self.block1_1(x)))
        if self.downsample_twice:
            x1 = self.downsample1(x1)
        x1 = self.fuse2(self.block2_2(self.block2_1(x1)))
        x2 = self.fuse3(self.block3_3(self.block3_2(self.block3_1(self.downsample2(x1)))))
        x3 = self.fuse4(self.block4_3(self.block4_2(self.block4_1(x2))))

        x1, x2 = x1[:, :, 2:-2], x2[:, :, 1:-1]
        if self.downsample_twice:
            x1 = self.pred_up1(x1)
            x2 = self.pred_up2_2(self.pred_up2_1(x2))
            x3 = self.pred_up3_2(self.pred_up3_1(x3))
        else:
            x1, x2, x3 = self.pred1(x1), self.pred_up2_1(x2), self.pred_up3_1(x3)
        return self.final_pred(torch.cat([x1, x2, x3], dim=1))


def build(kind: str = "wt") -> MSNet:
    """One network of the cascade, of any view.

    Parameters
    ----------
    kind : str
        ``"wt"`` (whole tumor), ``"tc"`` (tumor core) or ``"en"`` (enhancing tumor).
    """
    if kind not in DOWNSAMPLE_TWICE:
        raise ValueError(f"kind is one of {', '.join(DOWNSAMPLE_TWICE)}, not {kind!r}")
    return MSNet(downsample_twice=DOWNSAMPLE_TWICE[kind])


def state(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state of a network from its published weights.

    Parameters
    ----------
    weights : Mapping[str, np.ndarray]
        Arrays by their names in the published graph, such as ``block1_1/conv_0/w``. Those of convolutions are
        (D, H, W, in, out), of transposed ones (D, H, W, out, in). Re-estimated statistics among them are left out.

    Returns
    -------
    dict[str, torch.Tensor]
        What `MSNet.load_state_dict` takes. The statistics of the norms are the published ones: mean 0, variance 1.
    """
    tensors = {}
    for name, array in weights.items():
        *scope, leaf = name.split("/")
        if leaf not in LEAVES:
            continue
        module = ".".join(part.removesuffix("_bn_prelu") for part in scope)
        module = module.replace("prelu_acti_", "prelu_").replace("deconv_", "conv_").removesuffix("_")
        tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        tensors[f"{module}.{LEAVES[leaf]}"] = tensor.permute(4, 3, 0, 1, 2).contiguous() if leaf == "w" else tensor
        if leaf == "gamma":
            tensors[f"{module}.running_mean"] = torch.zeros_like(tensor)
            tensors[f"{module}.running_var"] = torch.ones_like(tensor)
            tensors[f"{module}.num_batches_tracked"] = torch.tensor(0)
    return tensors

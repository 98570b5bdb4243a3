"""ACS convolutions, and the networks that are made of them, for inference.

Yang et al., "Reinventing 2D convolutions for 3D images" (IEEE JBHI, 2021): the kernels of a 2D convolution are spread
over the three views of a volume. Huynh et al. put them into nnU-Net, and Baheti et al. into ResNet50, with a U-Net's
decoder or a classifier's head. Every weight has the shape of the 2D network's, so that its state loads unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

NNUNET_FILTERS = (32, 64, 128, 256, 320, 320)
RESNET50_BLOCKS = (3, 4, 6, 3)
DECODER_FILTERS = (128, 64, 32, 16)
NORMS = {"instance": nn.InstanceNorm3d, "batch": nn.BatchNorm3d}
#: Axis along which the kernels of each view are one voxel thick: D, H and W.
VIEWS = (2, 3, 4)


def scaled(filters: Sequence[int], width: float) -> list[int]:
    """Numbers of channels times `width`, each at least 3, so that every view has one."""
    return [max(3, round(width * count)) for count in filters]


def shares(channels: int) -> list[int]:
    """Output channels of each view: a third each, and one more for the first views where that leaves some."""
    return [channels // 3 + (view < channels % 3) for view in range(3)]


class ACSConv3d(nn.Module):
    """(N, in, D, H, W) to (N, out, D', H', W'): a third of the kernels in each view, and the results joined.

    The kernels (out, in, K, K) are those of a 2D convolution. The first third of them is 1xKxK, the second Kx1xK, the
    last KxKx1.

    Parameters
    ----------
    channels_in, channels_out : int
    kernel, stride : int
        Along every axis.
    bias : bool
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.kernel = stride, kernel
        self.shares = shares(channels_out)
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        nn.init.kaiming_normal_(self.weight, a=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        biases = [None] * 3 if self.bias is None else self.bias.split(self.shares)
        parts = []
        for axis, weight, bias in zip(VIEWS, self.weight.split(self.shares), biases, strict=True):
            padding = [0 if axis == along else self.kernel // 2 for along in VIEWS]
            parts.append(F.conv3d(x, weight.unsqueeze(axis), bias, self.stride, padding))
        return torch.cat(parts, dim=1)


def with_acs(network: nn.Module) -> nn.Module:
    """A network, where an ACS convolution stands in place of every 3D convolution with a kernel of more than a voxel.

    Modules that the network has under several names keep all of them. Transposed convolutions stay.
    """
    made: dict[int, ACSConv3d] = {}
    for module in list(network.modules()):
        for name, child in module.named_children():
            if not isinstance(child, nn.Conv3d) or child.kernel_size[0] == 1:
                continue
            if id(child) not in made:
                kernel, stride, bias = child.kernel_size[0], child.stride[0], child.bias is not None
                made[id(child)] = ACSConv3d(child.in_channels, child.out_channels, kernel, stride, bias=bias)
            setattr(module, name, made[id(child)])
    return network


def build_nnunet(width: float = 1.0, channels: int = 4, regions: int = 3, norm: str = "instance") -> nn.Module:
    """nnU-Net with ACS convolutions: (N, channels, D, H, W), multiples of 32, to scores (N, regions, D, H, W).

    Parameters
    ----------
    width : float
        Factor on the channels of every stage.
    channels, regions : int
        Channels of the input and of the scores.
    norm : str
        ``"instance"``, or ``"batch"`` for the variants "+BN".
    """
    if norm not in NORMS:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, not {norm!r}")
    network = PlainConvUNet(
        input_channels=channels,
        n_stages=len(NNUNET_FILTERS),
        features_per_stage=scaled(NNUNET_FILTERS, width),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1, 2, 2, 2, 2, 2],
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
    return with_acs(network)


class Bottleneck(nn.Module):
    """The block of ResNet50: 1x1x1, 3x3x3 (ACS, with the stride) and 1x1x1 convolutions, and the input added."""

    def __init__(self, channels_in: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = ACSConv3d(channels_in, filters, 1, bias=False), nn.BatchNorm3d(filters)
        self.conv2, self.bn2 = ACSConv3d(filters, filters, 3, stride, bias=False), nn.BatchNorm3d(filters)
        self.conv3, self.bn3 = ACSConv3d(filters, 4 * filters, 1, bias=False), nn.BatchNorm3d(4 * filters)
        self.downsample = None
        if stride != 1 or channels_in != 4 * filters:
            skip = ACSConv3d(channels_in, 4 * filters, 1, stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm3d(4 * filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + skip)


class ResNet50(nn.Module):
    """ResNet50 in ACS convolutions, without its head, with torchvision's names.

    (N, channels, D, H, W), multiples of 32, to the features after the stem and after each of the four layers: 1/2, 1/4,
    1/8, 1/16 and 1/32 of the resolution.
    """

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        stem, *filters = scaled((64, 64, 128, 256, 512), width)
        self.conv1, self.bn1 = ACSConv3d(channels, stem, 7, 2, bias=False), nn.BatchNorm3d(stem)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        self.filters = [stem]
        for place, (blocks, count) in enumerate(zip(RESNET50_BLOCKS, filters, strict=True)):
            first = Bottleneck(self.filters[-1], count, 1 if place == 0 else 2)
            rest = [Bottleneck(4 * count, count, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{place + 1}", nn.Sequential(first, *rest))
            self.filters.append(4 * count)

    def forward(self, x: torch.Tensor, depth: int = 5) -> list[torch.Tensor]:
        found = [F.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(found[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4)[: depth - 1]:
            x = layer(x)
            found.append(x)
        return found


class UpBlock(nn.Module):
    """Doubles each axis by nearest, joins the encoder's features where there are some, and convolves twice."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = ACSConv3d(channels_in, channels_out, bias=False), nn.BatchNorm3d(channels_out)
        self.conv2, self.bn2 = ACSConv3d(channels_out, channels_out, bias=False), nn.BatchNorm3d(channels_out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = x if skip is None else torch.cat([x, skip], dim=1)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))


class ResNet50UNet(nn.Module):
    """U-Net of depth 4 on ResNet50: (N, channels, D, H, W), multiples of 16, to scores (N, classes, D, H, W).

    The last layer of ResNet50 belongs to the network's state, as in the framework that it comes from, and is not run.
    """

    def __init__(self, channels: int, classes: int, width: float) -> None:
        super().__init__()
        self.encoder = ResNet50(channels, width)
        skips = [*self.encoder.filters[2::-1], 0]
        filters = scaled(DECODER_FILTERS, width)
        below = [self.encoder.filters[3], *filters]
        self.decoder = nn.ModuleList(
            UpBlock(under + skip, count) for under, skip, count in zip(below[:-1], skips, filters, strict=True)
        )
        self.head = ACSConv3d(filters[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, x = self.encoder(x, depth=4)
        for block, skip in zip(self.decoder, [*skips[::-1], None], strict=True):
            x = block(x, skip)
        return self.head(x)


class ResNet50Classifier(nn.Module):
    """ResNet50, the mean over all voxels, dropout and a linear layer.

    (N, channels, D, H, W), multiples of 32, to scores (N, classes, 1, 1, 1).
    """

    def __init__(self, channels: int, classes: int, dropout: float, width: float) -> None:
        super().__init__()
        self.encoder = ResNet50(channels, width)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.encoder.filters[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)[-1].mean(dim=(2, 3, 4))
        return self.fc(self.dropout(x))[:, :, None, None, None]


def build_unet(width: float = 1.0, channels: int = 4, classes: int = 4) -> ResNet50UNet:
    """The U-Net on ResNet50; `width` is a factor on the channels of every layer."""
    return ResNet50UNet(channels, classes, width)


def build_classifier(
    width: float = 1.0, channels: int = 4, classes: int = 1, dropout: float = 0.2
) -> ResNet50Classifier:
    """The classifier on ResNet50; `width` is a factor on the channels of every layer."""
    return ResNet50Classifier(channels, classes, dropout, width)


def matching(content: Mapping[str, Any], network: nn.Module) -> Mapping[str, Any]:
    """The state of nnU-Net with ACS convolutions from a 2D ResNet18, where the layers match: "ACS-ResNet18".

    The layers of ResNet18 are taken in their order. Each convolution of the encoder takes the first one that is left
    and has its numbers of channels. All others are drawn as nnU-Net draws them, from one seed.

    Parameters
    ----------
    content : mapping of str to tensor
        A state of torchvision's ResNet18; any other checkpoint is given back as it is.
    network : torch.nn.Module
        The network that `build_nnunet` gave.
    """
    return _filled(content, network, _first_that_matches)


def sliced(content: Mapping[str, Any], network: nn.Module) -> Mapping[str, Any]:
    """The state of nnU-Net with ACS convolutions from a 2D ResNet18, cut to its channels: "ACS-All-ResNet18".

    The layers of ResNet18 are taken in their order. Each convolution of the encoder takes the first one that is left
    and has at least its numbers of channels, and the first of its channels. Without such a layer it takes the largest
    one.

    Parameters
    ----------
    content : mapping of str to tensor
        A state of torchvision's ResNet18; any other checkpoint is given back as it is.
    network : torch.nn.Module
        The network that `build_nnunet` gave.
    """
    return _filled(content, network, _first_that_is_enough)


def _filled(content: Mapping[str, Any], network: nn.Module, choose: Any) -> Mapping[str, Any]:
    layers = [
        torch.as_tensor(value)
        for name, value in content.items()
        if name.startswith("layer") and hasattr(value, "shape") and tuple(value.shape[2:]) == (3, 3)
    ]
    if "conv1.weight" not in content or not layers:
        return content
    generator = torch.Generator().manual_seed(0)
    state, drawn = dict(network.state_dict()), {}
    for name, module in network.named_modules(remove_duplicate=False):
        if not isinstance(module, (ACSConv3d, nn.Conv3d, nn.ConvTranspose3d)):
            continue
        if id(module) not in drawn:
            weight = torch.empty(module.weight.shape)
            nn.init.kaiming_normal_(weight, a=0.01, generator=generator)
            if isinstance(module, ACSConv3d) and name.startswith("encoder."):
                found = choose(layers, weight.shape)
                weight = weight if found is None else found
            drawn[id(module)] = weight
        state[f"{name}.weight"] = drawn[id(module)]
        if module.bias is not None:
            state[f"{name}.bias"] = torch.zeros(module.bias.shape)
    return state


def _first_that_matches(layers: list[torch.Tensor], shape: torch.Size) -> torch.Tensor | None:
    """Takes the first layer of a shape off the list."""
    found = next((place for place, layer in enumerate(layers) if layer.shape == shape), None)
    return None if found is None else layers.pop(found)


def _first_that_is_enough(layers: list[torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """Takes the first layer with enough channels off the list, cut to a shape; the largest one stays on it."""
    out, into = shape[:2]
    enough = [place for place, layer in enumerate(layers) if layer.shape[0] >= out and layer.shape[1] >= into]
    place = enough[0] if enough else max(range(len(layers)), key=lambda one: layers[one].numel())
    layer = layers.pop(place) if len(enough) > 1 else layers[place]
    return layer[:out, :into].clone()

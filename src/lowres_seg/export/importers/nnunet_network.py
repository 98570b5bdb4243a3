"""nnU-Net's networks, built by its own dynamic-network-architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.slices import takes_slices
from lowres_seg.extras import require


def network(
    name: str, arguments: Mapping[str, Any], by_name: Sequence[str], channels: int, heads: int
) -> torch.nn.Module:
    """Build a U-Net of plans.json, without deep supervision.

    A network for slices takes and gives (1, C, 1, H, W).

    Parameters
    ----------
    name : str
        Class of ``dynamic_network_architectures.architectures.unet``.
    arguments : mapping
        ``arch_kwargs`` of plans.json.
    by_name : sequence of str
        Keys of arguments that name a class, of ``torch.nn`` or a block of ``dynamic_network_architectures``.
    channels, heads : int
        Number of channels of input and output.

    Raises
    ------
    MissingExtraError
        If dynamic-network-architectures is not installed.
    ExportError
        If there is no such network, or it takes other arguments.
    """
    require("nnunet")
    from dynamic_network_architectures.architectures import unet

    kind = getattr(unet, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module) and name.endswith("UNet")):
        raise ExportError(
            f"plans.json: the network is {name}, expected a U-Net of dynamic_network_architectures.architectures.unet; "
            "export another one with a recipe.toml whose factory builds it"
        )
    given = {key: value for key, value in arguments.items() if key != "deep_supervision"}
    for key in by_name:
        if given.get(key) is not None:
            given[key] = _class(str(given[key]))
    try:
        built: torch.nn.Module = kind(input_channels=channels, num_classes=heads, deep_supervision=False, **given)
    except TypeError as error:
        raise ExportError(f"plans.json: {name} cannot be built from its arch_kwargs ({error})") from error
    return takes_slices(built) if given.get("conv_op") is torch.nn.Conv2d else built


def _class(path: str) -> type:
    """Class of torch.nn, or a residual block, by its dotted name. No other name of a file is imported."""
    from dynamic_network_architectures.building_blocks import residual

    module, _, name = path.rpartition(".")
    found = getattr(residual if module == residual.__name__ else torch.nn, name, None)
    if not (module == residual.__name__ or module.split(".")[:2] == ["torch", "nn"]) or not isinstance(found, type):
        raise ExportError(f"plans.json: names {path}, expected a class of torch.nn or of {residual.__name__}")
    return found

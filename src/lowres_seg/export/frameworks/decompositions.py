"""Functions of torch that OpenVINO has on no route, written with operators that it has. The results are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch.nn.functional import affine_grid, grid_sample
from torch.overrides import TorchFunctionMode

#: Ways to sample, and paddings, by the number that torch gives them.
_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


class Decomposed(TorchFunctionMode):
    """Replaces these functions while a network is traced."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is grid_sample and args[0].ndim == 5:
            return sampled(*args, **kwargs)
        if func in (torch.grid_sampler, torch.grid_sampler_3d) and args[0].ndim == 5:
            x, grid, mode, padding, corners = (*args, *kwargs.values())
            return sampled(x, grid, _MODES[mode], _PADDINGS[padding], corners)
        if func is affine_grid:
            return affine_places(*args, **kwargs)
        if func is torch.affine_grid_generator:
            return affine_places(*args, *kwargs.values())
        return func(*args, **kwargs)


def affine_places(theta: Any, size: Sequence[int], align_corners: bool | None = None) -> Any:
    """`torch.nn.functional.affine_grid`.

    Parameters
    ----------
    theta : torch.Tensor
        (N, 2, 3) or (N, 3, 4).
    size : sequence of int
        (N, C, H, W) or (N, C, D, H, W).
    align_corners : bool, optional

    Returns
    -------
    torch.Tensor
        (N, H, W, 2) or (N, D, H, W, 3).
    """
    sides = [int(side) for side in size][2:]
    axes = []
    for side in sides:
        places = torch.linspace(-1, 1, side) if side > 1 else torch.zeros(1)
        axes.append(places if align_corners else places * (side - 1) / side)
    base = torch.stack([*reversed(torch.meshgrid(*axes, indexing="ij")), torch.ones(sides)], -1).to(theta)
    return (base.reshape(1, -1, len(sides) + 1) @ theta.transpose(1, 2)).reshape(-1, *sides, len(sides))


def sampled(
    x: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Any:
    """`torch.nn.functional.grid_sample` of 5D tensors, by gathers.

    Parameters
    ----------
    x : torch.Tensor
        (N, C, D, H, W).
    grid : torch.Tensor
        (N, d, h, w, 3): places along W, H and D, from -1 to 1.
    mode, padding_mode, align_corners
        As of `torch.nn.functional.grid_sample`.

    Returns
    -------
    torch.Tensor
        (N, C, d, h, w).
    """
    sizes = [int(size) for size in x.shape]
    result = [int(size) for size in grid.shape]
    if mode not in ("bilinear", "nearest"):
        raise NotImplementedError(f"grid_sample of 5D tensors has no mode {mode}")
    places = [
        _place(grid[..., 2 - axis], sizes[2 + axis], padding_mode, corners=bool(align_corners)) for axis in range(3)
    ]
    values = x.reshape(sizes[0], sizes[1], -1)

    def at(corner: Sequence[Any]) -> Any:
        """Values at whole places, zero outside."""
        inside, flat = torch.ones(()).bool(), torch.zeros(()).long()
        for place, size in zip(corner, sizes[2:], strict=True):
            inside = inside & (place >= 0) & (place <= size - 1)
            flat = flat * size + place.clamp(0, size - 1).long()
        index = flat.reshape(sizes[0], 1, -1).expand(-1, sizes[1], -1)
        found = torch.gather(values, 2, index).reshape(sizes[0], sizes[1], *result[1:4])
        return found * inside.unsqueeze(1).to(x.dtype)

    if mode == "nearest":
        return at([torch.round(place) for place in places])
    lower = [torch.floor(place) for place in places]
    upper = [place - low for place, low in zip(places, lower, strict=True)]
    terms = []
    for steps in product((0, 1), repeat=3):
        weights = [part if step else 1 - part for step, part in zip(steps, upper, strict=True)]
        corner = [low + step for step, low in zip(steps, lower, strict=True)]
        terms.append(at(corner) * prod(weights).unsqueeze(1))
    return torch.stack(terms).sum(0)


def _place(grid: Any, size: int, padding: str, *, corners: bool) -> Any:
    """Places in voxels of an axis of `size` voxels."""
    place = (grid + 1) / 2 * (size - 1) if corners else ((grid + 1) * size - 1) / 2
    if padding == "zeros":
        return place
    if padding == "reflection":
        low, span = (0.0, size - 1.0) if corners else (-0.5, float(size))
        if span == 0:
            place = torch.zeros_like(place)
        else:
            away = (place - low).abs()
            turns = torch.floor(away / span)
            rest = away - turns * span
            odd = turns - 2 * torch.floor(turns / 2)
            place = torch.where(odd > 0.5, span - rest, rest) + low
    return place.clamp(0, size - 1)

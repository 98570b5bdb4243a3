"""Wraps of networks in torch: the tensors that they are given, and the output and channels of scores that are kept."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.outputs import Outputs
from lowres_seg.export.frameworks.parts import Parts, Taken
from lowres_seg.export.frameworks.sizes import Resize, nearest
from lowres_seg.export.frameworks.slices import thick, thin_axis

_CHANNEL_AXIS = 1


class Wrap(torch.nn.Module):
    """A network within another module.

    Parameters
    ----------
    inner : torch.nn.Module or torch.jit.ScriptModule
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner


class OneOutput(Wrap):
    """TorchScript that gives several outputs, and the choice of one."""

    def __init__(self, inner: Any, outputs: Outputs) -> None:
        super().__init__(inner)
        self._outputs = outputs

    def forward(self, *given: torch.Tensor) -> Any:
        """Compute the scores."""
        return self._outputs.one(self.inner(*given), given[0].shape)


class Flat(Wrap):
    """A network of (1, C, H, W), which takes slices (1, C, D, H, W) with one side of 1."""

    def forward(self, *given: torch.Tensor) -> Any:
        """Compute the scores."""
        axis = thin_axis(given[0].shape)
        return thick(self.inner(*(one.select(axis, 0) for one in given)), axis)


class Split(Wrap):
    """A network of several tensors, which takes their channels as one tensor (1, C, D, H, W)."""

    def __init__(self, inner: Any, parts: Parts) -> None:
        super().__init__(inner)
        self._parts = parts

    def forward(self, x: torch.Tensor) -> Any:
        """Compute the scores."""
        return self.inner(*(_channels(x, part) for part in self._parts))


class Kept(Wrap):
    """A network, and the channels of its scores that are kept."""

    def __init__(self, inner: Any, channels: Sequence[int]) -> None:
        super().__init__(inner)
        self._start, self._stop = channels[0], channels[-1] + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the scores."""
        scores: torch.Tensor = self.inner(x)
        if scores.ndim < _CHANNEL_AXIS + 1 or scores.shape[_CHANNEL_AXIS] < self._stop:
            raise ExportError(
                f"the network gives {tuple(scores.shape)}, and the recipe keeps channels {self._start} to "
                f"{self._stop - 1} of its scores; expected that many in (1, C, D, H, W)"
            )
        return scores[:, self._start : self._stop]


class Resized(Wrap):
    """A network whose scores are resized to the sides of its input, sampled at the centres of voxels."""

    def __init__(self, inner: Any, how: Resize) -> None:
        super().__init__(inner)
        self._how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the scores."""
        scores: torch.Tensor = self.inner(x)
        own, sides = [int(n) for n in scores.shape[2:]], [int(n) for n in x.shape[2:]]
        if own == sides or len(own) != len(sides):  # a wrong number of axes is refused where the scores are read
            return scores
        if self._how == "linear":
            return torch.nn.functional.interpolate(scores, sides, mode="trilinear", align_corners=False)
        for axis, (n, side) in enumerate(zip(own, sides, strict=True)):
            scores = torch.index_select(scores, 2 + axis, torch.tensor(nearest(n, side)))
        return scores


def innermost(module: Any) -> Any:
    """The network within all wraps."""
    while isinstance(module, Wrap):
        module = module.inner
    return module


def taken(module: Any) -> Taken:
    """The tensors that a network must be given, by name, and the greatest number that it takes."""
    network = innermost(module)
    if isinstance(network, torch.jit.ScriptModule):
        arguments = network.forward.schema.arguments[1:]
        return Taken(tuple(one.name for one in arguments if not one.has_default_value()), len(arguments))
    parameters = inspect.signature(network.forward).parameters.values()
    places = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = tuple(one.name for one in places if one.default is one.empty)
    return Taken(needed, None if any(one.kind is one.VAR_POSITIONAL for one in parameters) else len(places))


def _channels(x: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Some channels of (1, C, D, H, W), in an order of their own."""
    first, last = places[0], places[-1]
    if list(places) == list(range(first, last + 1)):
        return x[:, first : last + 1]
    return torch.index_select(x, _CHANNEL_AXIS, torch.tensor(places))

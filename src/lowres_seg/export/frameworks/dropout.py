"""Dropout layers of a network in torch that stay on: each multiplies by a mask that the network is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lowres_seg.bundle.dropout import DropoutMask
from lowres_seg.errors import ExportError
from lowres_seg.export.frameworks.wraps import Wrap

_BY_CHANNEL = (torch.nn.Dropout1d, torch.nn.Dropout2d, torch.nn.Dropout3d)
_SHIFTING = (torch.nn.AlphaDropout, torch.nn.FeatureAlphaDropout)
#: Functions that a network calls by itself. None of them is a layer.
_FUNCTIONS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


class Sampled(Wrap):
    """A network whose dropout layers multiply by masks, which it takes behind its input. Without them they do nothing.

    Parameters
    ----------
    inner : torch.nn.Module
        Its dropout layers are replaced.

    Raises
    ------
    ExportError
        If it has no dropout layer, or one that also shifts values.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._masks = _Masks()
        for name, module in list(inner.named_modules()):
            for own, layer in list(module.named_children()):
                path = f"{name}.{own}".lstrip(".")
                if isinstance(layer, _SHIFTING):
                    raise ExportError(
                        f"layer {path} is {type(layer).__name__}, which also shifts values; expected Dropout or "
                        "Dropout3d, or dropout = false"
                    )
                if isinstance(layer, (torch.nn.Dropout, *_BY_CHANNEL)) and layer.p > 0:
                    setattr(module, own, _Masked(path, layer, self._masks))

    def forward(self, x: torch.Tensor, *masks: torch.Tensor) -> Any:
        """Compute the scores."""
        self._masks.given = masks
        self._masks.met = []
        return self.inner(x)

    def masks(self, shape: Sequence[int]) -> tuple[DropoutMask, ...]:
        """Masks that it takes for an input of `shape`, in the order in which it uses them.

        Raises
        ------
        ExportError
            If it has no dropout layer, or calls dropout as a function.
        """
        with torch.inference_mode(), _Called() as called:
            self(torch.zeros(*shape))
        if called.name is not None:
            raise ExportError(
                f"the network calls torch.nn.functional.{called.name}, which is no layer; expected a module such as "
                "torch.nn.Dropout, or dropout = false"
            )
        if not self._masks.met:
            raise ExportError(
                "the network has no dropout layer; expected one such as torch.nn.Dropout3d, or dropout = false"
            )
        return tuple(self._masks.met)


class _Masks:
    """The masks of one run: those that are given, and the layers that were met."""

    def __init__(self) -> None:
        self.given: Sequence[torch.Tensor] = ()
        self.met: list[DropoutMask] = []


class _Masked(torch.nn.Module):
    """A dropout layer that multiplies by the mask of its place in the run."""

    def __init__(self, path: str, layer: Any, masks: _Masks) -> None:
        super().__init__()
        self._path, self._p, self._masks = path, float(layer.p), masks
        self._by_channel = isinstance(layer, _BY_CHANNEL)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the mask, if there is one."""
        place = len(self._masks.met)
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if self._by_channel else tuple(x.shape)
        self._masks.met.append(DropoutMask(layer=self._path, shape=tuple(int(n) for n in shape), probability=self._p))
        return x * self._masks.given[place] if self._masks.given else x


class _Called(TorchFunctionMode):
    """Notes the first call of a dropout function that would drop something while a network is trained."""

    name: str | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS and (args[1] if len(args) > 1 else kwargs.get("p", 0.5)) > 0:
            self.name = self.name or func.__name__
        return func(*args, **kwargs)

"""Networks of two dimensions, which the runtime gives windows that are one voxel thick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowres_seg.errors import ExportError

#: Axes of (1, C, H, W).
_FLAT = 4


def takes_slices(module: Any) -> Any:
    """Make a network of (1, C, H, W) take and give 5D arrays with one spatial axis of length 1.

    Parameters
    ----------
    module : torch.nn.Module
        It is changed, and its state keeps its names.

    Returns
    -------
    torch.nn.Module
        The same one.
    """
    thin = [2]

    def flatten(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        thin[0] = thin_axis(inputs[0].shape)
        return tuple(one.select(thin[0], 0) for one in inputs)

    module.register_forward_pre_hook(flatten)
    module.register_forward_hook(lambda _, __, output: thick(output, thin[0]))
    return module


def thin_axis(shape: Sequence[int]) -> int:
    """First axis of length 1 of an input (1, C, D, H, W).

    Raises
    ------
    ExportError
        If there is none.
    """
    sides = tuple(int(n) for n in shape[2:])
    if 1 not in sides:
        raise ExportError(f"the network takes slices, and a window is {sides}; expected one with an axis of length 1")
    return 2 + sides.index(1)


def thick(output: Any, axis: int) -> Any:
    """Outputs of a slice, with the axis of length 1."""
    if isinstance(output, (list, tuple)):
        return type(output)(thick(one, axis) for one in output)
    if isinstance(output, dict):
        return {key: thick(one, axis) for key, one in output.items()}
    return output.unsqueeze(axis) if output.ndim == _FLAT else output  # a network that classifies may give (1, C)

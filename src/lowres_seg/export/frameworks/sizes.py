"""The sizes of input that a network takes, found by running it on small ones; and scores of other sizes than it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lowres_seg.errors import ExportError
from lowres_seg.runtime.engine import Engine

#: Sides that are tried for all axes at once. A network that halves its input five or six times takes one of them.
_BASES = (32, 64)
_MULTIPLES = (1, 2, 4, 8, 16, 32)
#: How scores of another resolution are brought to the sides of the input: sampled at the centres of its voxels.
Resize = Literal["linear", "nearest"]


def nearest(own: int, side: int) -> list[int]:
    """For each of `side` voxels along an axis, the place of the nearest of `own` voxels over the same length.

    Halfway between two it is the later one, as torch's ``nearest-exact`` has it.

    Examples
    --------
    >>> nearest(2, 4), nearest(4, 2)
    ([0, 0, 1, 1], [1, 3])
    """
    return [(2 * place + 1) * own // (2 * side) for place in range(side)]


def takes(network: Engine, shape: Sequence[int]) -> bool:
    """Tell whether a network gives scores of the sides of its input (1, C, D, H, W), or one number a channel."""
    try:
        sides = network.run(np.zeros(shape, dtype=np.float32)).shape[2:]
    except ExportError:
        return False
    return sides in (tuple(shape[2:]), (1, 1, 1))


def advice(network: Engine, shape: Sequence[int]) -> str:
    """What to do if a network does not take an input, for the end of a message; empty if its sizes are not why.

    Parameters
    ----------
    network : Engine
        It raises ExportError where it fails.
    shape : sequence of int
        Shape (1, C, D, H, W) of the input that failed.
    """
    sides = None if takes(network, shape) else multiples(network, shape[1])
    if sides is None:
        return ""
    fitting = [-(-side // multiple) * multiple for side, multiple in zip(shape[2:], sides, strict=True)]
    if fitting == list(shape[2:]):
        return ""
    told = f"multiples of {sides[0]}" if len(set(sides)) == 1 else f"multiples of {list(sides)}"
    return (
        f"; it takes sides that are {told}, and the recipe gives it {list(shape[2:])}: change conform.shape or "
        f"windows.roi_size, to {fitting} for example"
    )


def multiples(network: Engine, channels: int) -> tuple[int, int, int] | None:
    """Least power of two, for each axis, of whose multiples the sides must be; None if no size that is tried serves."""
    base = next((side for side in _BASES if takes(network, (1, channels, side, side, side))), None)
    if base is None:
        return None
    found = [_multiple(network, channels, axis, base) for axis in range(3)]
    return (found[0], found[1], found[2])


def _multiple(network: Engine, channels: int, axis: int, base: int) -> int:
    """Least multiple along one axis. An odd number of times a power of two is a multiple of no greater power."""
    for multiple in _MULTIPLES:
        shape = [1, channels, base, base, base]
        shape[2 + axis] = (base // multiple | 1) * multiple
        if takes(network, shape):
            return multiple
    return base

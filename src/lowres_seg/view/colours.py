"""Colours of labels."""

from __future__ import annotations

import colorsys

RGB = tuple[int, int, int]

#: Those of Okabe and Ito, which colour-blind readers can tell apart, without black.
_FIRST: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
#: Share of the circle of hues between two colours, so that no two of many are alike.
_STEP = 0.61803398875


def colour(place: int) -> RGB:
    """Colour of a label by its place among the labels, from 0.

    Examples
    --------
    >>> colour(0)
    (230, 159, 0)
    """
    if place < len(_FIRST):
        return _FIRST[place]
    further = place - len(_FIRST)
    red, green, blue = colorsys.hsv_to_rgb(
        (0.905 + further * _STEP) % 1, 0.6 + 0.3 * (further % 3 > 1), 0.92 - 0.2 * (further % 2)
    )
    return round(255 * red), round(255 * green), round(255 * blue)

"""One picture of a scan and its labels: three planes through the result, with the sides marked."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lowres_seg.view.labelled import Label, labelled, others
from lowres_seg.view.planes import PLANES, plane
from lowres_seg.view.shades import shades
from lowres_seg.volumes.grid import Box, Reorientation, three
from lowres_seg.volumes.volume import Volume

#: Pixels of the longer side of a slice, of the margin that letters stand in, of letters, and of a line of the legend.
SIDE, MARGIN, LETTER, LINE = 400, 20, 14, 20
#: Labels that the legend names; the others are counted.
NAMED = 12
#: Planes in the order in which they stand, and the letters to the left, to the right, above and below of each.
SIDES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "PASI"}
_GREY = (200, 200, 200)


def picture(scan: Volume, mask: Volume, names: Mapping[int, str]) -> bytes:
    """Draw three planes through the most of the labels, or through the middle if there are none.

    Parameters
    ----------
    scan, mask : Volume
        On one grid.
    names : mapping of int to str
        Names of label values.

    Returns
    -------
    bytes
        PNG. It has names and volumes of labels, and no name of a file.
    """
    found = labelled(mask, names)
    box = Box(found.middle, three(n + 1 for n in found.middle))
    middle = Reorientation(scan.grid, "RAS").apply_box(box).start
    colours = np.array([(0, 0, 0), *(label.colour for label in found.labels)], np.uint8)
    window = shades(scan.data)
    grid = Reorientation(scan.grid, "RAS").result
    extent_mm = [count * spacing for count, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
    cuts = {}
    for name in SIDES:
        axis = PLANES[name]
        side = round(SIDE * max(extent_mm[other] for other in others(axis)) / max(extent_mm))  # one scale for all
        cuts[name] = plane(scan, [(found.places, colours)], name, middle[axis], shades=window, side=side)
    lines = _legend(found.labels)
    width = max(sum(cut.width + 2 * MARGIN for cut in cuts.values()), 3 * SIDE // 2)
    tallest = max(cut.height for cut in cuts.values()) + 2 * MARGIN
    whole = Image.new("RGB", (width, tallest + LINE * len(lines) + MARGIN // 2))
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(LETTER)
    left = 0
    for name, cut in cuts.items():
        top = (tallest - cut.height) // 2
        whole.paste(cut, (left + MARGIN, top))
        x, y = left + MARGIN + cut.width / 2, top + cut.height / 2
        half = MARGIN / 2
        places = ((left + half, y), (left + cut.width + 3 * half, y), (x, top - half), (x, top + cut.height + half))
        for letter, place in zip(SIDES[name], places, strict=True):
            draw.text(place, letter, _GREY, font, anchor="mm")
        left += cut.width + 2 * MARGIN
    for number, (text, colour) in enumerate(lines):
        y = tallest + LINE * number
        if colour is not None:
            draw.rectangle((MARGIN, y + 3, MARGIN + 11, y + 14), colour)
        draw.text((2 * MARGIN, y + 9), text, _GREY, font, anchor="lm")
    stream = io.BytesIO()
    whole.save(stream, "PNG")
    return stream.getvalue()


def _legend(labels: tuple[Label, ...]) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Line and colour of each label."""
    if not labels:
        return [("no voxel is labelled", None)]
    lines: list[tuple[str, tuple[int, int, int] | None]] = [
        (f"{label.name}, {label.ml:.1f} ml", label.colour) for label in labels[:NAMED]
    ]
    return lines + ([(f"and {len(labels) - NAMED} more", None)] if len(labels) > NAMED else [])

"""What is done to a label map after it is decoded.

This is the home of connected-components-3d and fill-voids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import fill_voids
import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.rules import CleanupRule, FillHoles, LargestComponent, SmallComponents, SmallLabel


def clean(labels: NDArray[np.uint8], rules: Sequence[CleanupRule]) -> NDArray[np.uint8]:
    """Apply `rules` in their order to an (I, J, K) label map; the array given is not changed."""
    for rule in rules:
        if isinstance(rule, LargestComponent):
            labels = keep_largest(labels, rule.connectivity)
        elif isinstance(rule, FillHoles):
            labels = fill_holes(labels, rule)
        elif isinstance(rule, SmallComponents):
            labels = change_small_components(labels, rule)
        else:
            labels = change_small_label(labels, rule)
    return labels


def keep_largest(labels: NDArray[np.uint8], connectivity: int) -> NDArray[np.uint8]:
    """Keep the largest connected component of the foreground, all labels taken together."""
    components, count = cc3d.connected_components(labels != 0, connectivity=connectivity, return_N=True)
    if count < 2:
        return labels
    sizes: Any = np.bincount(components.ravel())
    sizes[0] = 0
    return np.where(components == sizes.argmax(), labels, 0).astype(np.uint8, copy=False)


def fill_holes(labels: NDArray[np.uint8], rule: FillHoles) -> NDArray[np.uint8]:
    """Give background that `rule.label` encloses that label: in 3D, or slice by slice along one axis."""
    mask = labels == rule.label
    if rule.slices_along is None:
        filled = fill_voids.fill(np.asfortranarray(mask))
    else:
        filled = np.moveaxis(mask, rule.slices_along, 0).copy()
        for index in np.flatnonzero(filled.any(axis=(1, 2))):
            filled[index] = fill_voids.fill(np.asfortranarray(filled[index]))
        filled = np.moveaxis(filled, 0, rule.slices_along)
    return np.where(np.asarray(filled, dtype=bool) & (labels == 0), rule.label, labels).astype(np.uint8, copy=False)


def change_small_components(labels: NDArray[np.uint8], rule: SmallComponents) -> NDArray[np.uint8]:
    """Give components of `rule.label` with too few voxels the label that they become."""
    components = cc3d.connected_components(labels == rule.label, connectivity=rule.connectivity)
    small = np.bincount(components.ravel()) < rule.fewer_than
    small[0] = False
    return np.where(small[components], rule.becomes, labels).astype(np.uint8, copy=False)


def change_small_label(labels: NDArray[np.uint8], rule: SmallLabel) -> NDArray[np.uint8]:
    """Give all of `rule.label` the label that it becomes, if it has too few voxels."""
    where = labels == rule.label
    few = np.count_nonzero(where) < rule.fewer_than
    if not few or (rule.beside is not None and not np.count_nonzero(labels == rule.beside) > rule.beside_more_than):
        return labels
    return np.where(where, rule.becomes, labels).astype(np.uint8, copy=False)


def inside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask with its cavities filled: background that no path of faces leads out of."""
    return np.ascontiguousarray(fill_voids.fill(np.asfortranarray(mask)), dtype=bool)

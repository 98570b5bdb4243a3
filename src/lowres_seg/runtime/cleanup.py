"""Clean-up of a label map by the rules of a stage.

This is the home of connected-components-3d and fill-voids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import fill_voids
import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.rules import CleanupRule, FillHoles, LargestComponent, SmallComponents, SmallLabel

Labels = NDArray[np.uint8]


def clean(labels: Labels, rules: Sequence[CleanupRule]) -> Labels:
    """Apply `rules` in their order to an (I, J, K) label map. The array given is not changed."""
    for rule in rules:
        match rule:
            case LargestComponent():
                labels = keep_largest(labels, rule.connectivity)
            case FillHoles():
                labels = fill_holes(labels, rule)
            case SmallComponents():
                labels = change_small_components(labels, rule)
            case SmallLabel():
                labels = change_small_label(labels, rule)
            case _:
                assert_never(rule)
    return labels


def keep_largest(labels: Labels, connectivity: int) -> Labels:
    """Keep the largest connected component of the foreground, all labels taken together."""
    components, count = cc3d.connected_components(labels != 0, connectivity=connectivity, return_N=True)
    if count < 2:
        return labels
    sizes: Any = np.bincount(components.ravel())
    sizes[0] = 0
    return np.where(components == sizes.argmax(), labels, 0).astype(np.uint8, copy=False)


def fill_holes(labels: Labels, rule: FillHoles) -> Labels:
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


def change_small_components(labels: Labels, rule: SmallComponents) -> Labels:
    """Change the label of components of `rule.label` that have too few voxels to `rule.becomes`."""
    components = cc3d.connected_components(labels == rule.label, connectivity=rule.connectivity)
    small = np.bincount(components.ravel()) < rule.fewer_than
    small[0] = False
    return np.where(small[components], rule.becomes, labels).astype(np.uint8, copy=False)


def change_small_label(labels: Labels, rule: SmallLabel) -> Labels:
    """Change `rule.label` to `rule.becomes` everywhere if it has too few voxels."""
    where = labels == rule.label
    few = np.count_nonzero(where) < rule.fewer_than
    if not few or (rule.beside is not None and not np.count_nonzero(labels == rule.beside) > rule.beside_more_than):
        return labels
    return np.where(where, rule.becomes, labels).astype(np.uint8, copy=False)


def fill_cavities(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill background that no path through faces of voxels connects with the border."""
    return np.ascontiguousarray(fill_voids.fill(np.asfortranarray(mask)), dtype=bool)

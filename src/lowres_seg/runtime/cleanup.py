"""Clean-up of a label map by the rules of a stage.

This is the home of connected-components-3d and fill-voids. They are imported where a rule needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from lowres_seg.bundle.rules import CleanupRule, FillHoles, LargestComponent, SmallComponents, SmallLabel
from lowres_seg.errors import MissingExtraError

Labels = NDArray[np.uint8]


def clean(labels: Labels, rules: Sequence[CleanupRule], voxel_mm3: float) -> Labels:
    """Apply `rules` in their order to an (I, J, K) label map. The array given is not changed.

    Parameters
    ----------
    labels : (I, J, K) ndarray of uint8
    rules : sequence of rules of the manifest
    voxel_mm3 : float
        Volume of a voxel.
    """
    for rule in rules:
        match rule:
            case LargestComponent():
                labels = keep_largest_of(labels, rule)
            case FillHoles():
                labels = fill_holes(labels, rule)
            case SmallComponents():
                labels = change_small_components(labels, rule, voxel_mm3)
            case SmallLabel():
                labels = change_small_label(labels, rule)
            case _:
                assert_never(rule)
    return labels


def keep_largest_of(labels: Labels, rule: LargestComponent) -> Labels:
    """Keep the largest components of the labels that the rule names, together or each by itself."""
    named = list(rule.labels) or [int(value) for value in np.unique(labels[nonzero_slices(labels)]) if value]
    for group in [[value] for value in named] if rule.each else [named]:
        labels = keep_largest(labels, rule.connectivity, of=group, count=rule.count, all_ties=rule.ties == "all")
    return labels


def keep_largest(
    labels: Labels, connectivity: int, *, of: Sequence[int] | None = None, count: int = 1, all_ties: bool = False
) -> Labels:
    """Keep the `count` largest connected components of some labels taken together, by default of the foreground.

    Of components of one size those are kept that come first; with `all_ties` all that are as large as the last one.
    """
    box = nonzero_slices(labels)
    part = labels[box]
    foreground = part != 0 if of is None else np.isin(part, of)
    components, found = _connected(foreground, connectivity, return_N=True)
    if found <= count:
        return labels
    sizes: Any = np.bincount(components.ravel())
    sizes[0] = 0
    kept = np.zeros(len(sizes), bool)
    order = np.argsort(-sizes, kind="stable")
    kept[order[:count]] = True
    if all_ties:
        kept |= sizes == sizes[order[count - 1]]
    result = np.zeros_like(labels)
    result[box] = np.where(foreground & ~kept[components], 0, part)
    return result


def component_sizes(mask: NDArray[np.bool_], connectivity: int = 26) -> NDArray[np.int64]:
    """Sizes of the connected components of an (I, J, K) mask, in voxels."""
    components = _connected(mask[nonzero_slices(mask)], connectivity)
    return np.asarray(np.bincount(components.ravel())[1:], np.int64)


def fill_holes(labels: Labels, rule: FillHoles) -> Labels:
    """Give what `rule.label` encloses that label: in 3D, or slice by slice along one axis."""
    mask = labels == rule.label
    box = nonzero_slices(mask) if rule.slices_along is None else np.s_[:, :, :]
    mask, part = mask[box], labels[box]
    if not mask.any():
        return labels
    if rule.connectivity != 6:
        filled = ~_reached_from_border(~mask, rule.connectivity)
    elif rule.slices_along is None:
        filled = fill_cavities(mask)
    else:
        filled = np.moveaxis(mask, rule.slices_along, 0).copy()
        for index in np.flatnonzero(filled.any(axis=(1, 2))):
            filled[index] = _filled(np.asfortranarray(filled[index]))
        filled = np.moveaxis(filled, 0, rule.slices_along)
    where = np.asarray(filled, dtype=bool)
    if rule.over == "background":
        where &= part == 0
    result = labels.copy()
    result[box][where] = rule.label
    return result


def nonzero_slices(labels: NDArray[Any]) -> tuple[slice, slice, slice]:
    """The box of what is not zero in an (I, J, K) array. What lies outside is neither enclosed nor connected."""
    box = [slice(0, n) for n in labels.shape]
    for axis in range(3):
        part = labels[box[0], box[1], box[2]]
        used = np.flatnonzero(part.any(axis=tuple(other for other in range(3) if other != axis)))
        box[axis] = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)
    return box[0], box[1], box[2]


def _reached_from_border(free: NDArray[np.bool_], connectivity: int) -> NDArray[np.bool_]:
    """Voxels of `free` that a path within it connects with the border."""
    components = _connected(np.pad(free, 1, constant_values=True), connectivity)
    return np.asarray((components == components[0, 0, 0])[1:-1, 1:-1, 1:-1])


def change_small_components(labels: Labels, rule: SmallComponents, voxel_mm3: float) -> Labels:
    """Change the label of components of `rule.label` that have too few voxels to `rule.becomes`."""
    components = _connected(labels == rule.label, rule.connectivity)
    bound = rule.fewer_than / voxel_mm3 if rule.unit == "mm3" else rule.fewer_than
    small = np.bincount(components.ravel()) < bound
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
    # With a border of background: fill_voids 2.1 also fills a few voxels that lie on two faces of the array.
    filled = _filled(np.pad(np.asfortranarray(mask), 1))
    return np.ascontiguousarray(filled[1:-1, 1:-1, 1:-1], dtype=bool)


def _connected(mask: NDArray[np.bool_], connectivity: int, **more: Any) -> Any:
    """Connected components, numbered from 1."""
    if mask.size == 0:
        empty = np.zeros(mask.shape, np.uint32)
        return (empty, 0) if more.get("return_N") else empty
    try:
        import cc3d
    except ImportError as error:
        raise missing("connected-components-3d") from error
    return cc3d.connected_components(mask, connectivity=connectivity, **more)


def _filled(mask: NDArray[np.bool_]) -> Any:
    """Fill the cavities of a mask in 2D or 3D."""
    try:
        import fill_voids
    except ImportError as error:
        raise missing("fill-voids") from error
    return fill_voids.fill(mask)


def missing(package: str) -> MissingExtraError:
    """The error of a package that is not installed."""
    return MissingExtraError(
        f"clean-up and doubts of this bundle need {package}, not installed here: pip install {package}"
    )

"""MONAI's transforms of grids: joined items, orientations, spacings, crops and paddings."""

from __future__ import annotations

import ast
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from lowres_seg.bundle.grids import Interpolation
from lowres_seg.export.importers.monai_scan import (
    LoadImaged,
    Scan,
    Transform,
    Truth,
    just_below,
    named,
    padding_by,
)
from lowres_seg.volumes.orientations import ORIENTATIONS, STORED

_LETTERS = [["L", "R"], ["P", "A"], ["I", "S"]]


class ConcatItemsd(Transform):
    """Items that become one image."""

    name: str
    dim: Literal[0] = 0

    def apply(self, scan: Scan) -> None:
        """Join the channels."""
        strange = [key for key in self.keys if key not in scan.images or self.keys.count(key) > 1]
        if strange:
            raise ValueError(
                f"joins {strange[0]}, which is no image as it was read, once; make such channels of the scan before, "
                "and read them as images"
            )
        joined = tuple(name for key in self.keys for name in scan.images.pop(key))
        scan.images[self.name] = joined


class Joined(ConcatItemsd):
    """Items that a transform of the bundle's own joins, as the user vouches; nothing if they are one image already."""

    def apply(self, scan: Scan) -> None:
        """Join the channels."""
        if self.items(scan):
            super().apply(scan)


def _together(letters: Any) -> Any:
    return "".join(letters) if isinstance(letters, list) and all(isinstance(one, str) for one in letters) else letters


class Orientationd(Transform):
    """An orientation of the array axes."""

    ignored = "lazy"
    axcodes: Annotated[str, BeforeValidator(_together)] | None = None
    as_closest_canonical: Truth = False
    labels: list[list[str]] | None = None

    def apply(self, scan: Scan) -> None:
        """Turn the scan."""
        self.all_items(scan)
        letters = "RAS" if self.as_closest_canonical else str(self.axcodes).upper()
        if letters not in ORIENTATIONS or self.labels not in (None, _LETTERS):
            raise ValueError(
                f"axcodes {self.axcodes!r} with labels {self.labels}: expected letters such as RAS, and no labels"
            )
        if scan.conform["orientation"] not in (STORED, letters) and "spacing_mm" in scan.conform:
            raise ValueError("turns a scan that was turned and resampled before; expected one orientation")
        own = ("spacing_mm", "interpolation", "convention", "border", "orientation", "spacing_axes", "pad")
        if any(key not in own for key in scan.conform) or scan.is_stretched:
            raise ValueError("turns a scan that was cropped, padded or resized before; put it before them")
        if scan.conform["orientation"] == STORED and "spacing_mm" in scan.conform:
            scan.conform["spacing_axes"] = "stored"
        scan.conform["orientation"] = letters


class Spacingd(Transform):
    """A spacing to resample to, by MONAI's rule."""

    ignored = "lazy dtype align_corners"
    pixdim: float | list[float]
    mode: str | int | list[str | int] = "bilinear"
    padding_mode: str | list[str] = "border"
    diagonal: Literal[False] = False
    scale_extent: Literal[False] = False
    recompute_affine: Literal[False] = False
    min_pixdim: None = None
    max_pixdim: None = None
    ensure_same_shape: Truth = True

    def apply(self, scan: Scan) -> None:
        """Resample the scan."""
        items = self.all_items(scan)
        if scan.is_resampled or any(key not in ("orientation",) for key in scan.conform):
            raise ValueError("resamples a scan that was resampled, cropped or padded before; expected it before them")
        pixdim = [float(n) for n in self.pixdim] if isinstance(self.pixdim, list) else [float(self.pixdim)]
        if not 1 <= len(pixdim) <= 3:
            raise ValueError(f"pixdim is {self.pixdim}: expected one number, or three")
        pixdim += [pixdim[-1]] * (3 - len(pixdim))
        mode, border = self.same_for_all(self.mode, items), self.same_for_all(self.padding_mode, items)
        interpolation: dict[str | int, Interpolation] = {
            "bilinear": "linear", "nearest": "nearest", 0: "nearest", 1: "linear", 2: "spline-2", 3: "spline-3",
            4: "spline-4", 5: "spline-5",
        }  # fmt: skip
        if mode not in interpolation:
            raise ValueError(f"mode is {mode!r}: expected bilinear, nearest or the order of a spline from 0 to 5")
        borders = {"border": "edge", "nearest": "edge", "zeros": "zero"}
        if border not in borders or (borders[border] == "zero" and not isinstance(mode, str)):
            raise ValueError(f"padding_mode is {border!r}: expected border, or zeros with bilinear and nearest")
        scan.restores_by = interpolation[mode]
        scan.conform |= {
            "spacing_mm": [None if n <= 0 else n for n in pixdim],
            "interpolation": interpolation[mode],
            "convention": "monai",
            "border": borders[border],
            "pad": "zero",
        }
        scan.phase = "after-conform"


class Resized(Transform):
    """A shape to stretch to."""

    ignored = "lazy dtype anti_aliasing_sigma"
    spatial_size: int | list[int]
    size_mode: Literal["all"] = "all"
    mode: str | list[str] = "area"
    align_corners: Literal[False] | None = None
    anti_aliasing: Literal[False] = False

    def apply(self, scan: Scan) -> None:
        """Stretch the scan."""
        items = self.all_items(scan)
        if scan.is_moved and scan.region["kind"] == "volume":
            raise ValueError(
                "stretches a scan that was resampled, cropped or padded before, and a bundle resamples once; expected "
                "Spacingd or Resized alone"
            )
        size = _three(self.spatial_size, "spatial_size")
        mode = self.same_for_all(self.mode, items)
        interpolation: dict[str, Interpolation] = {
            "area": "area", "trilinear": "linear", "nearest": "floor", "nearest-exact": "nearest",
        }  # fmt: skip
        if mode not in interpolation or min(size) < 1:
            raise ValueError(
                f"mode {mode!r} to {size}: expected area, trilinear, nearest or nearest-exact, and three sizes"
            )
        scan.restores_by = interpolation[mode]
        scan.conform |= {"shape": size, "interpolation": interpolation[mode], "pad": "zero"}
        scan.phase = "after-conform"


class CropForegroundd(Transform):
    """The box around what is above a value."""

    ignored = "start_coord_key end_coord_key lazy"
    source_key: str
    select_fn: str | None = None
    channel_indices: int | list[int] | None = None
    margin: int | list[int] = 0
    allow_smaller: Truth = False
    k_divisible: int | list[int] = 1
    mode: Literal["constant"] = "constant"
    value: Literal[0] = 0

    def apply(self, scan: Scan) -> None:
        """Crop the scan."""
        self.all_items(scan)
        if self.source_key not in scan.images:
            raise ValueError(f"source_key is {self.source_key}: expected a part of the scan")
        names: tuple[str, ...] = scan.images[self.source_key]
        if self.channel_indices is not None:
            wanted = self.channel_indices if isinstance(self.channel_indices, list) else [self.channel_indices]
            if not all(0 <= index < len(names) for index in wanted):
                raise ValueError(f"channel_indices is {self.channel_indices}, and there are {len(names)} channels")
            names = tuple(names[index] for index in wanted)
        chosen = () if set(names) == set(scan.channels) else names
        above = _bound(self.select_fn)
        margin, multiple = _three(self.margin, "margin"), _three(self.k_divisible, "k_divisible")
        if scan.will("Spacingd", "Resized"):
            if scan.is_moved or scan.rules or len(set(margin)) != 1 or multiple != [1, 1, 1]:
                raise ValueError(
                    "crops before the scan is resampled, where a bundle crops by stored values with one margin alone; "
                    "put it behind"
                )
            if margin[0] and not self.allow_smaller:
                raise ValueError("has a margin beyond the scan before it is resampled; expected allow_smaller true")
            scan.region = {"kind": "above", "above": above, "channels": chosen, "margin_voxels": margin[0]}
            return
        if "crop" in scan.conform or "at_most" in scan.conform or scan.is_padded or scan.is_stretched:
            raise ValueError("crops a scan that was cropped, padded or resized before; expected it before them")
        scan.needs_a_grid()
        scan.conform["crop"] = {
            "above": above,
            "channels": chosen,
            "margin_voxels": margin,
            "cut": self.allow_smaller,
            "multiple_of": multiple,
        }
        scan.phase = "after-crop"


class _Padding(Transform):
    """A padding of the grid."""

    ignored = "lazy"
    mode: str | list[str] = "constant"
    value: float = 0.0
    method: Literal["symmetric", "end"] = "symmetric"

    def pad(self, scan: Scan, size: dict[str, list[int]]) -> None:
        """Pad the scan to a size. Raises ValueError if it was padded before."""
        padding = padding_by(self.same_for_all(self.mode, self.all_items(scan)), self.value)
        if scan.is_padded or scan.is_stretched:
            self._pad_again(scan, padding, size)
        scan.needs_a_grid()
        scan.conform |= padding | size
        if self.method == "end":
            scan.conform["pad_side"] = "end"

    def _pad_again(self, scan: Scan, padding: dict[str, Any], size: dict[str, list[int]]) -> None:
        """Check that two paddings are one: behind the scan, alike, to a size and to multiples that both hold."""
        sizes = {key: scan.conform[key] for key in ("at_least", "multiple_of") if key in scan.conform}
        both = sizes | size
        ends = self.method == scan.conform.get("pad_side") == "end"
        alike = all(scan.conform.get(key) == padding.get(key) for key in ("pad", "pad_value"))
        pads = padding["pad"] in ("zero", "value", "edge")
        if (
            not (ends and alike and pads)
            or not sizes
            or {*sizes, *size} != {"at_least", "multiple_of"}
            or len(sizes) > 1
        ):
            raise ValueError(
                "pads a scan that was padded or resized before, where both round their halves; expected one of them, "
                "or a SpatialPadd and a DivisiblePadd with method end and one value"
            )
        if "at_least" in size and any(n % k for n, k in zip(both["at_least"], both["multiple_of"], strict=True)):
            raise ValueError(
                f"pads to {both['at_least']} what was padded to multiples of {both['multiple_of']}; expected multiples "
                "of them, or SpatialPadd before DivisiblePadd"
            )


class SpatialPadd(_Padding):
    """A smallest size."""

    spatial_size: int | list[int]

    def apply(self, scan: Scan) -> None:
        """Pad the scan."""
        size = _three(self.spatial_size, "spatial_size")
        self.pad(scan, {"at_least": [max(1, n) for n in size]})


class DivisiblePadd(_Padding):
    """Sizes that are multiples."""

    k: int | list[int]

    def apply(self, scan: Scan) -> None:
        """Pad the scan."""
        self.pad(scan, {"multiple_of": [max(1, n) for n in _three(self.k, "k")]})


class CenterSpatialCropd(Transform):
    """A largest size."""

    ignored = "lazy"
    roi_size: int | list[int]

    def apply(self, scan: Scan) -> None:
        """Crop the scan."""
        self.all_items(scan)
        size = _three(self.roi_size, "roi_size")
        if "at_most" in scan.conform or scan.is_padded or scan.is_stretched or min(size) < 1:
            raise ValueError(f"crops to {size} a scan that was padded or resized before; expected it before them")
        scan.needs_a_grid()
        scan.conform["at_most"] = size
        scan.phase = "after-crop"


class ResizeWithPadOrCropd(_Padding):
    """One size, by padding and cropping."""

    spatial_size: int | list[int]

    def apply(self, scan: Scan) -> None:
        """Pad and crop the scan."""
        size = _three(self.spatial_size, "spatial_size")
        if min(size) < 1 or "at_most" in scan.conform:
            raise ValueError(f"spatial_size is {size}: expected three sizes, and no crop before")
        self.pad(scan, {"shape": size})
        scan.phase = "after-crop"


def _three(value: int | list[int], what: str) -> list[int]:
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"{what} is {value}: expected one number, or three")
    return values


def _bound(function: str | None) -> float:
    """Value above which ``lambda x: x > VALUE`` or ``x >= VALUE`` selects; 0 without a function."""
    if function is None:
        return 0.0
    try:
        node = ast.parse(function.removeprefix("$").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        node = None
    compared = _compared(node)
    try:
        value = float("nan") if compared is None else float(ast.literal_eval(compared[1]))
    except (ValueError, TypeError):
        value = float("nan")
    if compared is None or not np.isfinite(value):
        raise ValueError(
            f"select_fn is {function!r}, and no code of a bundle is run; expected $lambda x: x > VALUE, or x >= VALUE"
        )
    return just_below(value) if isinstance(compared[0], ast.GtE | ast.LtE) else value


def _compared(node: ast.expr | None) -> tuple[ast.cmpop, ast.expr] | None:
    """Comparison of ``lambda x: x > VALUE`` or ``lambda x: VALUE < x``, and its value; None for anything else."""
    if not isinstance(node, ast.Lambda) or len(node.args.args) != 1 or not isinstance(node.body, ast.Compare):
        return None
    if len(node.body.ops) != 1:
        return None
    name, left, right, kind = node.args.args[0].arg, node.body.left, node.body.comparators[0], node.body.ops[0]
    if isinstance(left, ast.Name) and left.id == name and isinstance(kind, ast.Gt | ast.GtE):
        return kind, right
    if isinstance(right, ast.Name) and right.id == name and isinstance(kind, ast.Lt | ast.LtE):
        return kind, left
    return None


#: Transforms of grids.
GRIDS = named(
    LoadImaged,
    ConcatItemsd,
    Orientationd,
    Spacingd,
    Resized,
    CropForegroundd,
    SpatialPadd,
    DivisiblePadd,
    CenterSpatialCropd,
    ResizeWithPadOrCropd,
)

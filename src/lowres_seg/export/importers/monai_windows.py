"""MONAI's inferers: how a network sees the scan."""

from __future__ import annotations

from typing import Any, Literal

from lowres_seg.bundle.windows import Windows
from lowres_seg.export.importers.monai_arguments import Arguments
from lowres_seg.export.importers.monai_scan import Scan, padding_by


class SlidingWindowInferer(Arguments):
    """Sliding windows, weighted by `mode`."""

    ignored = "sw_batch_size sw_device device progress cache_roi_weight_map cpu_thresh buffer_steps buffer_dim"
    roi_size: int | list[int | None]
    overlap: float | list[float] = 0.25
    mode: Literal["constant", "gaussian"] = "constant"
    sigma_scale: float | list[float] = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0
    with_coord: Literal[False] = False

    def windows(self, scan: Scan) -> Windows:
        """Counterpart in a manifest. The scan is padded to a window.

        Raises
        ------
        ValueError
            If it cannot be expressed.
        """
        roi = self.size(scan)
        self._pad(scan, roi)
        return Windows(
            roi_size=(roi[0], roi[1], roi[2]),
            overlap=_each(self.overlap, "overlap"),
            weights=self.mode,
            sigma_scale=_each(self.sigma_scale, "sigma_scale"),
            rules="monai",
        )

    def size(self, scan: Scan) -> list[int]:
        """Size of a window."""
        return self._sizes(scan.conform.get("shape", [0] * 3), "three")

    def _sizes(self, shape: list[int], count: str) -> list[int]:
        """Sizes of a window along the axes of a shape. Where none is given, it is as long as the shape."""
        given = [self.roi_size] * len(shape) if isinstance(self.roi_size, int) else list(self.roi_size)
        roi = [n if not m or m < 0 else m for m, n in zip(given, shape, strict=False)]
        if len(given) != len(shape) or min(roi) < 1:
            raise ValueError(f"roi_size is {given}: expected {count} sizes of at least 1, the same for every scan")
        return roi

    def _pad(self, scan: Scan, roi: list[int]) -> None:
        """Pad the scan to one window, unless it is as large already."""
        padding = padding_by(self.padding_mode, self.cval)
        least = next(
            (scan.conform[key] for key in ("shape", "at_least", "multiple_of") if key in scan.conform), [0] * 3
        )
        if all(n >= m for n, m in zip(least, roi, strict=True)):
            scan.conform.setdefault("pad", "zero")
        elif not scan.is_padded:
            scan.conform |= padding
        elif padding["pad"] in ("reflect", "wrap") or any(scan.conform.get(key) != padding[key] for key in padding):
            raise ValueError(
                f"pads with {self.padding_mode} to windows of {roi} a scan that was padded otherwise before; expected "
                "the same padding, or a padding to a window at least"
            )


class SliceInferer(SlidingWindowInferer):
    """Windows of one slice along an axis."""

    spatial_dim: Literal[0, 1, 2] = 0

    def size(self, scan: Scan) -> list[int]:
        """Size of a window, one slice thick."""
        shape = scan.conform.get("shape", [0] * 3)
        roi = self._sizes([n for axis, n in enumerate(shape) if axis != self.spatial_dim], "two")
        return [*roi[: self.spatial_dim], 1, *roi[self.spatial_dim :]]


class SimpleInferer(Arguments):
    """The whole scan at once."""


def _each(value: float | list[float], what: str) -> Any:
    """One number, or three that differ."""
    if not isinstance(value, list):
        return value
    if len(value) not in (1, 3):
        raise ValueError(f"{what} is {value}: expected one number, or three")
    return value[0] if len(set(value)) == 1 else tuple(value)

"""MONAI's transforms of intensities, each with the rules of a manifest that compute the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from lowres_seg.bundle.rules import Affine, Clip, IntensityRule, PercentileClip, PercentileScale, Threshold, ZScore
from lowres_seg.export.importers.monai_scan import Scan, Transform, Truth, check_type, named


class _Intensities(Transform, ABC):
    """A transform of intensities."""

    channel_wise: Truth = False
    dtype: Any = None

    def apply(self, scan: Scan) -> None:
        """Append its rules for each part of the scan."""
        items = self.items(scan)
        check_type(self, self.dtype, items)
        rules = {item: self.rules(scan.images[item]) for item in items}
        if all(found == rules[items[0]] for found in rules.values()) and not self.takes_them_together(scan, items):
            scan.add(items, *rules[items[0]])
            return
        for item, found in rules.items():
            scan.add([item], *found)

    @abstractmethod
    def rules(self, channels: Sequence[str]) -> list[IntensityRule]:
        """Rules for an item with some channels. Raises ValueError if a manifest has none."""

    def together(self, channels: Sequence[str]) -> bool:
        """Whether the statistics are those of all channels of an item at once."""
        return not self.channel_wise and len(channels) > 1

    def takes_them_together(self, scan: Scan, items: Sequence[str]) -> bool:
        """Whether an item has several channels with one statistic: then each item has its own."""
        return len(items) > 1 and any(self.together(scan.images[item]) for item in items)


class NormalizeIntensityd(_Intensities):
    """A z-score, or given constants."""

    subtrahend: float | list[float] | None = None
    divisor: float | list[float] | None = None
    nonzero: Truth = False

    def rules(self, channels: Sequence[str]) -> list[IntensityRule]:
        """Rules for an item with some channels."""
        if self.subtrahend is None and self.divisor is None:
            return [ZScore(voxels="nonzero" if self.nonzero else "all", together=self.together(channels))]
        if self.subtrahend is None or self.divisor is None:
            raise ValueError("has one constant alone; expected both subtrahend and divisor, or none")
        whose = [(name,) for name in channels] if self.channel_wise else [()]
        shifts, divisors = self._constants(self.subtrahend), self._constants(self.divisor)
        if not len(shifts) == len(divisors) == len(whose):
            raise ValueError(
                f"subtrahend {self.subtrahend} and divisor {self.divisor}: expected a number each, or with "
                f"channel_wise {len(channels)} each"
            )
        rules: list[IntensityRule] = []
        for of, shift, divisor in zip(whose, shifts, divisors, strict=True):
            scale = 1 / (divisor or 1.0)  # MONAI divides by 1 in place of 0
            if self.nonzero:
                rules.append(Affine(scale=scale, shift=-shift * scale, voxels="nonzero", channels=of))
            else:
                rules += _affines(-shift, scale, 0.0, of)
        return rules

    def _constants(self, value: float | list[float]) -> list[float]:
        if isinstance(value, list):
            return value if self.channel_wise else []
        return [] if self.channel_wise else [value]


class ScaleIntensityd(_Intensities):
    """The range of a scan onto another, or a factor."""

    minv: float | None = 0.0
    maxv: float | None = 1.0
    factor: float | None = None

    def rules(self, channels: Sequence[str]) -> list[IntensityRule]:
        """Rules for an item with some channels."""
        if self.minv is None and self.maxv is None:
            return _affines(0.0, 1 + (self.factor or 0.0), 0.0)
        whole = PercentileScale(lower=0, upper=100, clip="none", together=self.together(channels))
        return [whole, *_onto(self.minv, self.maxv, clip=False)]


class ScaleIntensityRanged(_Intensities):
    """A given range onto another."""

    a_min: float
    a_max: float
    b_min: float | None = None
    b_max: float | None = None
    clip: Truth = False

    def rules(self, channels: Sequence[str]) -> list[IntensityRule]:  # noqa: ARG002 - the same for all
        """Rules for an item with some channels."""
        if self.a_min == self.a_max:
            raise ValueError(f"a_min and a_max are both {self.a_min:g}, so there is nothing to scale")
        return [
            *_affines(-self.a_min, 1 / (self.a_max - self.a_min), 0.0),
            *_onto(self.b_min, self.b_max, clip=self.clip),
        ]


class ScaleIntensityRangePercentilesd(_Intensities):
    """A range between percentiles onto another."""

    lower: float
    upper: float
    b_min: float | None
    b_max: float | None
    clip: Truth = False
    relative: Truth = False

    def rules(self, channels: Sequence[str]) -> list[IntensityRule]:
        """Rules for an item with some channels."""
        low, high = self.b_min, self.b_max
        if self.relative:
            if low is None or high is None:
                raise ValueError("relative needs b_min and b_max")
            low, high = low + (high - low) * self.lower / 100, low + (high - low) * self.upper / 100
        together = self.together(channels)
        scale = PercentileScale(lower=self.lower, upper=self.upper, clip="none", together=together)
        return [scale, *_onto(low, high, clip=self.clip)]


class ClipIntensityPercentilesd(_Intensities):
    """A clip to percentiles."""

    lower: float | None
    upper: float | None
    sharpness_factor: None = None
    return_clipping_values: bool = False

    def rules(self, channels: Sequence[str]) -> list[IntensityRule]:
        """Rules for an item with some channels."""
        return [PercentileClip(lower=self.lower, upper=self.upper, together=self.together(channels))]


class ThresholdIntensityd(Transform):
    """Another value for what is not above, or not below, a bound."""

    threshold: float
    above: Truth = True
    cval: float = 0.0

    def apply(self, scan: Scan) -> None:
        """Append its rule."""
        bound = {"above": self.threshold} if self.above else {"below": self.threshold}
        scan.add(self.items(scan), Threshold(becomes=self.cval, **bound))


INTENSITIES = named(
    NormalizeIntensityd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
    ClipIntensityPercentilesd,
    ThresholdIntensityd,
)


def _affines(shift: float, scale: float, then: float, channels: tuple[str, ...] = ()) -> list[IntensityRule]:
    """Rules for ``(x + shift) · scale + then``, without those that change nothing."""
    first = [Affine(shift=shift, channels=channels)] if shift else []
    return [*first, *([Affine(scale=scale, shift=then, channels=channels)] if (scale, then) != (1, 0) else [])]


def _onto(low: float | None, high: float | None, *, clip: bool) -> list[IntensityRule]:
    """Rules that map 0 and 1 to `low` and `high`."""
    if low is None or high is None:
        if clip and (low, high) != (None, None):
            raise ValueError("clips to one end alone, which has no exact counterpart; name both b_min and b_max")
        return []
    clips: list[IntensityRule] = [Clip(lower=low, upper=high)] if clip else []
    return [*_affines(0.0, high - low, low), *clips]

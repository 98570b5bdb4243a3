"""The field of a drawing, and the axes along it. A drawing is 360 units across, so that a telephone shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Edges of the field that is drawn in.
LEFT, RIGHT, TOP, BOTTOM = 50.0, 348.0, 14.0, 200.0
EDGES = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
#: Ratio of the slowest to the fastest from which an axis of time is logarithmic.
_WIDE = 4.0
#: Most powers of ten on an axis with ticks between them.
_DECADES = 2


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, which lie at `start` and `end`. `ticks` are (place, text)."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    is_time: bool = False

    def place(self, value: float) -> float:
        """Place of a value."""
        low, high, value = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Round values on the axis: about four."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            # Powers of ten alone where many lie on the axis, and some of them where very many do.
            factors = (1, 2, 5) if last - first <= _DECADES else (1,)
            powers = range(first, last + 1, 1 + (last - first) // (3 * _DECADES))
            values = [factor * 10.0**power for power in powers for factor in factors]
        else:
            step = _round_step(self.high - self.low)
            values = [
                n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        found = [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        return tuple((self.place(value), self._text(value)) for value in found or (self.low, self.high))

    def _text(self, value: float) -> str:
        if self.is_time:
            return f"{value:g} s" if value >= 1 else f"{1000 * value:.3g} ms"
        return f"{value:.6g}"


def _round_step(span: float) -> float:
    """Step of 1, 2 or 5 times a power of ten that gives about four ticks."""
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def of_time(values: Sequence[float], start: float, end: float) -> Axis:
    """Axis of seconds around some values: logarithmic where the slowest is several times the fastest."""
    low, high = min(values), max(values)
    if high / low >= _WIDE:
        return Axis(low / 1.25, high * 1.25, start, end, is_log=True, is_time=True)
    return Axis(*_wider(low, high, 0.1 * high), start, end, is_time=True)


def of_dice(values: Sequence[float]) -> Axis:
    """Upright axis of Dice around some values. It shows 0.005 at least, so that noise does not fill a plot."""
    low, high = _wider(min(values), max(values), 0.01)
    return Axis(max(0.0, low), min(1.0, high), BOTTOM, TOP)


def of_mm(values: Sequence[float]) -> Axis:
    """Upright axis of millimetres around some values. It shows 0.25 mm at least."""
    low, high = _wider(min(values), max(values), 0.5)
    return Axis(max(0.0, low), high, BOTTOM, TOP)


def _wider(low: float, high: float, least: float) -> tuple[float, float]:
    """Ends of an axis: values with a margin, and at least `least` apart."""
    margin = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - margin, high + margin

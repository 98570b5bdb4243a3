"""How to quantize."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lowres_seg.quantize.gate import Limits
from lowres_seg.quantize.int8 import Preset

Precision = Literal["int8", "bf16"]


@dataclass(frozen=True)
class Settings:
    """How to quantize.

    Attributes
    ----------
    limits : Limits
    precision : {"int8", "bf16"}
    preset : {"performance", "mixed"}
    time_budget_s : float or None
        No attempt begins for which the budget would not reach.
    max_ram_bytes : int or None
        Bound while statistics are gathered; four fifths of what this process may use if not given.
    seed : int
        Chooses among the calibration cases when there are more than `MAX_CALIBRATION`.
    only_if_faster : bool
        Write no bundle that is not faster.
    """

    limits: Limits = field(default_factory=Limits)
    precision: Precision = "int8"
    preset: Preset = "performance"
    time_budget_s: float | None = None
    max_ram_bytes: int | None = None
    seed: int = 0
    only_if_faster: bool = False

"""Settings of a quantization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lowres_seg.quantize.class_gate import ClassLimits
from lowres_seg.quantize.gate import Limits

Precision = Literal["int8", "bf16"]
Preset = Literal["performance", "mixed"]


@dataclass(frozen=True)
class Settings:
    """Settings of a quantization.

    Attributes
    ----------
    limits : Limits, ClassLimits or None
        What the result may lose against fp32: `ClassLimits` of a bundle that classifies, else `Limits`. None takes the
        defaults of the bundle's kind.
    precision : {"int8", "bf16"}
    preset : {"performance", "mixed"}
        NNCF's: symmetric activations, or asymmetric ones.
    time_budget_s : float or None
        No attempt begins that would probably end after it.
    max_ram_bytes : int or None
        Bound on memory while statistics are gathered; by default four fifths of what this process may use.
    seed : int
        Chooses among the calibration cases if there are more than `calibration.MAX_CALIBRATION`.
    only_if_faster : bool
        Write no bundle that is not faster.
    ignore_labels : list of int
        Values of label maps whose voxels are left out of Dice and HD95.
    """

    limits: Limits | ClassLimits | None = None
    precision: Precision = "int8"
    preset: Preset = "performance"
    time_budget_s: float | None = None
    max_ram_bytes: int | None = None
    seed: int = 0
    only_if_faster: bool = False
    ignore_labels: list[int] = field(default_factory=list)

"""Dropout that is kept on: the masks that a network takes, and how often each window runs."""

from __future__ import annotations

from math import prod
from typing import Annotated

from pydantic import Field, model_validator

from lowres_seg.bundle.bounds import SAMPLES, VOXELS, WHOLE
from lowres_seg.bundle.part import Part

_Side = Annotated[int, Field(ge=1, le=VOXELS)]


class DropoutMask(Part):
    """The mask of one dropout layer: a further input of a network, by which it multiplies.

    A value is zero with `probability`, else 1 / (1 - `probability`). `layer` names the layer in the network's source.
    """

    since = 3
    layer: str = Field(min_length=1, max_length=255)
    shape: Annotated[tuple[_Side, ...], Field(min_length=1, max_length=8)]
    probability: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _bounded(self) -> DropoutMask:
        if prod(self.shape) > VOXELS:
            msg = f"mask of layer {self.layer} has {prod(self.shape)} values; expected at most {VOXELS}"
            raise ValueError(msg)
        return self


class Samples(Part):
    """Each window runs `count` times with masks drawn from `seed`. The activated scores of all runs are averaged."""

    since = 3
    count: int = Field(ge=2, le=SAMPLES)
    seed: int = Field(default=0, ge=0, le=WHOLE)

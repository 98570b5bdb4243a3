"""Pipelines of stages for tests, and functions for their fake engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lowres_seg import Manifest, Segmenter, Volume
from lowres_seg.bundle.stage import Stage
from lowres_seg.runtime.engine import Engine
from lowres_seg.runtime.segmentation import Segmentation

Content = Callable[..., dict[str, Any]]
ONE = {"kind": "argmax", "labels": [0, 1]}
IDENTITY = np.eye(4)


def bright(x: np.ndarray) -> np.ndarray:
    """Scores of background and of what is above a half, in every voxel by itself."""
    return np.stack([0.5 - x[0], x[0] - 0.5])


def sure(x: np.ndarray) -> np.ndarray:
    """As `bright`, with scores of 1 and -1: weights that half precision hardly holds leave them their sign."""
    return np.sign(bright(x))


def always(*scores: float) -> Callable[[np.ndarray], np.ndarray]:
    """The same scores everywhere."""
    return lambda x: np.ones((len(scores), *x.shape[1:])) * np.reshape(scores, (-1, 1, 1, 1))


def where(*boxes: tuple[slice, ...] | None) -> Callable[[np.ndarray], np.ndarray]:
    """Scores of 1 in one box for each channel, 0 elsewhere."""

    def function(x: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(boxes), *x.shape[1:]))
        for channel, box in zip(scores, boxes, strict=True):
            if box is not None:
                channel[box] = 1
        return scores

    return function


def stage(name: str = "only", **changes: Any) -> dict[str, Any]:
    return {"name": name, "networks": [f"{name}-net"], "decode": ONE, **changes}


def build(
    content: Content, *stages: dict[str, Any], channels: Sequence[str] = ("t1",), top: int = 4, version: int = 2
) -> Manifest:
    """A manifest of stages, whose networks take what they are given."""
    parsed = [Stage.model_validate(one) for one in stages]
    networks = {
        name: {
            **content()["networks"]["net"],
            "input_shape": list(one.input_shape(name, len(channels))),
        }
        for one in parsed
        for name in one.networks
    }
    return Manifest.model_validate(
        content(
            schema_version=version,
            channels=list(channels),
            labels=[{"value": value, "name": f"label-{value}"} for value in range(1, top + 1)],
            stages=list(stages),
            networks=networks,
        )
    )


def predict(
    manifest: Manifest, engines: Mapping[str, Sequence[Engine]], *data: np.ndarray, affine: np.ndarray = IDENTITY
) -> Segmentation:
    volumes = [Volume.from_array(np.asarray(array, np.float32), affine) for array in data]
    scan: Any = volumes[0] if len(volumes) == 1 else dict(zip(manifest.channels, volumes, strict=True))
    return Segmenter(manifest, engines, threads=1).predict(scan)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)

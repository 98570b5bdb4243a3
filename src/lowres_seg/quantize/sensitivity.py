"""Harm of each layer: agreement with fp32 on windows of the calibration scans.

A network that gives masks agrees as far as its labels do. One that classifies agrees as far as its scores do, before
they are activated: near 0 and 1 a probability hides what happens to its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.stage import Classes, Decode
from lowres_seg.quantize import int8
from lowres_seg.quantize.layer import LayerId
from lowres_seg.quantize.search import Ranked
from lowres_seg.runtime.decode import labels_of, select
from lowres_seg.runtime.openvino_engine import OpenVinoEngine

Array = NDArray[np.float32]
#: Largest edge of a window. Networks halve their input a few times, and this is a multiple of every such factor.
WINDOW = 128


@dataclass(frozen=True, eq=False)
class Probe:
    """One network on one window, in fp32 and INT8.

    Attributes
    ----------
    network : str
    quantized : openvino.Model
        For the shape of the window.
    x : (1, C, D, H, W) ndarray
    scores : (1, C, D, H, W) ndarray
        Of fp32.
    decode : Decode
    threads : int
    """

    network: str
    quantized: Any
    x: Array
    scores: Array
    decode: Decode
    threads: int

    @classmethod
    def build(cls, network: str, fp32: Any, quantized: Any, x: Array, decode: Decode, threads: int) -> Probe:
        """Cut a window out of one input of a network, around the foreground that fp32 finds in it."""
        full = OpenVinoEngine.of_model(fp32, threads=threads).run(x).copy()
        if isinstance(decode, Classes):  # of the whole input
            return cls(network, quantized, x, full, decode, threads)
        box = _window(labels_of(select(full[0], decode), decode))
        window = (slice(None), slice(None), *box)
        cut = np.ascontiguousarray(x[window])
        small, small_quantized = int8.reshaped(fp32, cut.shape), int8.reshaped(quantized, cut.shape)
        if cut.shape == x.shape or small is None or small_quantized is None:
            return cls(network, quantized, x, full, decode, threads)
        scores = OpenVinoEngine.of_model(small, threads=threads).run(cut).copy()
        return cls(network, small_quantized, cut, scores, decode, threads)

    def loss(self, reverted: Sequence[str]) -> tuple[float, float]:
        """Disagreement with fp32, and mean difference of the scores.

        The first is the share of the foreground with another label; of classes it is the largest difference of a score.
        """
        model = int8.without(self.quantized, reverted) if reverted else self.quantized
        found = OpenVinoEngine.of_model(model, threads=self.threads).run(self.x)
        off = float(np.abs(found - self.scores).mean(dtype=np.float64))
        if isinstance(self.decode, Classes):
            return _moved(found, self.scores, self.decode), off
        mine, theirs = (labels_of(select(s[0], self.decode), self.decode) for s in (found, self.scores))
        foreground = max(1, int(np.count_nonzero(theirs)))
        flipped = int(np.count_nonzero(mine != theirs))
        return flipped / foreground, off


def rank(probes: Sequence[Probe]) -> list[Ranked]:
    """Revert each layer of each network by itself, and measure the agreement with fp32 that it gives."""
    ranked = []
    for probe in probes:
        flips, off = probe.loss(())
        for layer in int8.layers(probe.quantized):
            less_flips, less_off = probe.loss([layer.name])
            # Where no label flips, the scores tell layers apart. Their weight never outranks a flip.
            harm = max(0.0, flips - less_flips) + 1e-6 * max(0.0, off - less_off) / max(off, 1e-12)
            ranked.append(Ranked(LayerId(probe.network, layer.name), harm, layer.saved_ms))
    return ranked


def _moved(found: Array, scores: Array, decode: Classes) -> float:
    """Largest difference of a class's score. A softmax does not see what all scores have in common."""
    difference = found - scores
    if decode.activation == "softmax":
        difference = difference - difference.mean()
    return float(np.abs(difference).max())


def _window(labels: NDArray[np.uint8]) -> tuple[slice, ...]:
    """Window of at most WINDOW voxels on each axis about the centre of the foreground."""
    places = np.argwhere(labels != 0)
    middle = places.mean(axis=0) if len(places) else (np.array(labels.shape) - 1) / 2
    box = []
    for n, centre in zip(labels.shape, middle, strict=True):
        size = min(n, WINDOW)
        start = int(np.clip(round(float(centre)) - size // 2, 0, n - size))
        box.append(slice(start, start + size))
    return tuple(box)

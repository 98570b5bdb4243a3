"""Speed of a candidate against fp32, and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.bundle import NetworkFiles
from lowres_seg.runtime.openvino_engine import InferencePrecision, OpenVinoEngine, cpu_capabilities, read_graph
from lowres_seg.wording import columns

Array = NDArray[np.float32]
ROUNDS = 5


@dataclass(frozen=True)
class Gain:
    """Latency of one network in each variant, measured in turn.

    Attributes
    ----------
    network : str
    latency_s : dict of str to float
        Median by variant: ``f32``, ``bf16`` if the CPU supports it, ``candidate``.
    shares : dict of str to float
        Share of the candidate's time by kind of kernel: ``int8``, ``f32``, ``normalisation``, ``reorder``.
    """

    network: str
    latency_s: dict[str, float]
    shares: dict[str, float]

    @property
    def faster(self) -> bool:
        """True if the candidate is faster than fp32 computed in f32."""
        return self.latency_s["candidate"] < self.latency_s["f32"]

    @property
    def brief(self) -> str:
        """Latency of each variant, in words."""
        times = (f"{1000 * seconds:.0f} ms in {name}" for name, seconds in self.latency_s.items())
        return f"{self.network}: {', '.join(times)}"

    def lines(self) -> list[str]:
        """Lines of text: the latency of each variant, how much faster the candidate is, and where its time goes."""
        c = self.latency_s["candidate"]
        lines = [f"{self.network}: {1000 * c:.0f} ms"]
        for name, seconds in self.latency_s.items():
            if name != "candidate":
                slower = "" if c < seconds else f", not faster than {name}"
                lines.append(f"  {seconds / c:.2f}× the speed of {name}, which takes {1000 * seconds:.0f} ms{slower}")
        shares = ", ".join(f"{100 * share:.0f}% {kind}" for kind, share in self.shares.items())
        return [*lines, *columns([[f"  its time: {shares}"]])]


def measure(
    name: str, fp32: NetworkFiles, candidate: NetworkFiles, precision: InferencePrecision, x: Array, *, threads: int
) -> Gain:
    """Time fp32 in f32, fp32 in bf16 if the CPU supports it, and the candidate, in turn on one input."""
    engines = {"f32": OpenVinoEngine(fp32, threads=threads)}
    if "BF16" in cpu_capabilities():
        engines["bf16"] = OpenVinoEngine(fp32, threads=threads, inference_precision="bf16")
    engines["candidate"] = OpenVinoEngine(candidate, threads=threads, inference_precision=precision)
    seconds: dict[str, list[float]] = {variant: [] for variant in engines}
    for turn in range(ROUNDS + 1):
        for variant, engine in engines.items():
            start = perf_counter()
            engine.run(x)
            if turn:  # the first round is a warm-up
                seconds[variant].append(perf_counter() - start)
    del engines
    counting = OpenVinoEngine.of_model(
        read_graph(candidate), threads=threads, inference_precision=precision, counters=True
    )
    counting.run(x)
    return Gain(name, {variant: median(values) for variant, values in seconds.items()}, _shares(counting.counters()))


def _shares(counters: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    total = sum(ms for _, _, ms in counters) or 1.0
    shares: dict[str, float] = {}
    for node, kernel, ms in counters:
        kind = _kind(node, kernel)
        shares[kind] = shares.get(kind, 0.0) + ms / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _kind(node: str, kernel: str) -> str:
    if node in ("Reorder", "Convert"):
        return "reorder"
    if node in ("MVN", "GroupNormalization", "Subgraph") and not kernel.endswith(("I8", "U8")):
        return "normalisation and elementwise"
    if kernel.endswith(("I8", "U8")):
        return "int8"
    return kernel.rpartition("_")[2].lower() if "_" in kernel else node


def as_dict(gains: Sequence[Gain]) -> Mapping[str, object]:
    """Plain values, for reports."""
    return {g.network: {"latency_s": g.latency_s, "shares": g.shares, "faster": g.faster} for g in gains}

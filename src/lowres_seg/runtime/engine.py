"""What a segmenter needs of a network that is ready to run, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Engine(Protocol):
    """A network that is ready to run. Tests may put a fake in its place; nothing else has one."""

    @property
    def lean(self) -> bool:
        """True if the network is compiled when it first runs, and dropped when it is released."""
        ...

    def run(self, x: Array) -> Array:
        """Compute the scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W).

        The result may be memory that the next run overwrites.
        """
        ...

    def release(self) -> None:
        """Drop what a later run can make again. The last result stays valid."""
        ...


class ResidentEngine:
    """Base of engines that stay ready until they are deleted."""

    lean: bool = False

    def release(self) -> None:
        """Drop nothing."""


@dataclass(eq=False)
class Recorder:
    """An engine that keeps the inputs and outputs of another one.

    Attributes
    ----------
    engine : Engine
    most : int or None
        Largest number of runs that are kept. Beyond it every second one is dropped, then every second of the rest, so
        that those kept stay evenly spread.
    inputs, outputs : list of (1, C, D, H, W) ndarray
        Copies, in the order of the runs.
    """

    engine: Engine
    most: int | None = None
    inputs: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    _runs: int = 0
    _step: int = 1

    @property
    def lean(self) -> bool:
        """As the other engine."""
        return self.engine.lean

    def run(self, x: Array) -> Array:
        """Run the other engine, and keep copies of its input and output."""
        keep = self._runs % self._step == 0
        self._runs += 1
        if keep:
            self.inputs.append(x.copy())
        result = self.engine.run(x)
        if keep:
            self.outputs.append(result.copy())
        if self.most is not None and len(self.inputs) > self.most:
            del self.inputs[1::2], self.outputs[1::2]
            self._step *= 2
        return result

    def release(self) -> None:
        """Release the other engine."""
        self.engine.release()


def run_in_turn(engines: list[Engine]) -> bool:
    """Tell whether members of an ensemble run one after the other, each over all windows.

    Lean engines do, so that each is compiled once. Others run together, window by window.
    """
    return len(engines) > 1 and any(engine.lean for engine in engines)

"""What a segmenter needs of a network that is ready to run, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.dropout import DropoutMask

Array = NDArray[np.float32]


class Engine(Protocol):
    """A network that is ready to run. Tests may put a fake in its place; nothing else has one."""

    @property
    def lean(self) -> bool:
        """True if the network is compiled when it first runs, and dropped when it is released."""
        ...

    @property
    def masks(self) -> Sequence[DropoutMask]:
        """Masks of dropout layers that are kept on; none of other networks."""
        ...

    def prepare(self) -> None:
        """Begin what the next run needs, while the caller does something else."""
        ...

    def run(self, x: Array, masks: Sequence[Array] = ()) -> Array:
        """Compute the scores (1, channels out, D, H, W) of one input (1, channels in, D, H, W).

        Without the values of its `masks` the dropout of a network is off. The result may be memory that the next run of
        the same thread overwrites, and of no other thread.
        """
        ...

    def release(self) -> None:
        """Drop what a later run can make again. The last result stays valid."""
        ...


class ResidentEngine:
    """Base of engines that stay ready until they are deleted."""

    lean: bool = False
    masks: Sequence[DropoutMask] = ()

    def prepare(self) -> None:
        """Do nothing: it is ready."""

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
        that those kept stay evenly spread. The first run is always kept.
    only : collection of int or None
        Runs to keep, counted from 0; all if None.
    keeps_inputs : bool
        Whether inputs are kept too.
    sample : callable
        What is kept of the output of a run, given its number and the output; a copy of all of it by default.
    inputs, outputs : list of ndarray
        In the order of the runs.
    drawn : list of sequence of ndarray
        Values of the masks of each run whose input is kept.
    runs : list of int
        Number of each run that is kept.
    """

    engine: Engine
    most: int | None = None
    only: Collection[int] | None = None
    keeps_inputs: bool = True
    sample: Callable[[int, Array], Array] = lambda _, output: output.copy()
    inputs: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    drawn: list[Sequence[Array]] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    _count: int = 0
    _step: int = 1

    @property
    def lean(self) -> bool:
        """As the other engine."""
        return self.engine.lean

    @property
    def masks(self) -> Sequence[DropoutMask]:
        """As the other engine."""
        return self.engine.masks

    def prepare(self) -> None:
        """Prepare the other engine."""
        self.engine.prepare()

    def run(self, x: Array, masks: Sequence[Array] = ()) -> Array:
        """Run the other engine, and keep copies of its input and output."""
        run = self._count
        self._count += 1
        if run % self._step or (self.only is not None and run not in self.only):
            return self.engine.run(x, masks)
        if self.keeps_inputs:
            self.inputs.append(x.copy())  # before the run, which may overwrite it
            self.drawn.append(masks)
        result = self.engine.run(x, masks)
        self.outputs.append(self.sample(run, result))
        self.runs.append(run)
        if self.most is not None and len(self.runs) > self.most:
            del self.inputs[1::2], self.drawn[1::2], self.outputs[1::2], self.runs[1::2]
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

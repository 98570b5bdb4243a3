"""Accuracy control: which layers must keep their precision, found with few full segmentations.

Plain INT8 is judged first. If it misses the gate and there are several stages, each is reverted whole in turn: where
one alone carries the loss, that is found in as many segmentations as there are stages, and no layer of the others is
touched. Otherwise layers are ranked by what they cost in agreement with fp32 for
each millisecond that they save, on windows and without segmenting anything. Then ever more of the worst ones are
reverted, starting with as many as the windows say are needed, until the gate is met; and then fewer, as long as it
still is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from lowres_seg.quantize.gate import Verdict

Names = tuple[str, ...]
Judge = Callable[[Names], Verdict]


class OutOfTimeError(Exception):
    """The budget does not reach for another attempt; caught where the search is started."""


@dataclass(frozen=True)
class Ranked:
    """A layer and what it is worth.

    Attributes
    ----------
    name : str
        ``network/layer``.
    harm : float
        Share of the foreground that agrees with fp32 again when this layer alone is reverted.
    saved_ms : float
        What INT8 saves on it.
    """

    name: str
    harm: float
    saved_ms: float

    @property
    def cost(self) -> float:
        """Harm for each millisecond saved."""
        return self.harm / self.saved_ms


@dataclass(frozen=True)
class Attempt:
    """One candidate that was judged."""

    reverted: Names
    verdict: Verdict


@dataclass(frozen=True)
class Found:
    """What the search came to.

    Attributes
    ----------
    attempts : tuple of Attempt
        In the order in which they were judged.
    best : Attempt or None
        The one with the fewest layers reverted that met the gate.
    out_of_time : bool
        Whether the budget ended the search.
    """

    attempts: tuple[Attempt, ...]
    best: Attempt | None
    out_of_time: bool


class Clock:
    """A time budget that is asked before each attempt."""

    def __init__(self, budget_s: float | None) -> None:
        self._end = None if budget_s is None else monotonic() + budget_s
        self._longest = 0.0

    def expect(self, seconds: float) -> None:
        """Take an attempt to last at least this long."""
        self._longest = max(self._longest, seconds)

    def run(self, attempt: Callable[[], Verdict]) -> Verdict:
        """Run an attempt if the budget reaches for one as long as the longest so far.

        Raises
        ------
        OutOfTimeError
            If it does not.
        """
        start = monotonic()
        if self._end is not None and start + self._longest > self._end:
            raise OutOfTimeError
        verdict = attempt()
        self.expect(monotonic() - start)
        return verdict


def search(
    judge: Judge,
    rank: Callable[[], list[Ranked]],
    lost: Callable[[Sequence[str]], float],
    clock: Clock,
    stages: Callable[[], Sequence[Names]] = lambda: (),
) -> Found:
    """Find the fewest layers to revert.

    Parameters
    ----------
    judge : callable
        Verdict on a candidate with the named layers reverted; expensive.
    rank : callable
        Every layer with its harm; called only if plain INT8 misses the gate.
    lost : callable
        What the windows lose with the named layers reverted; cheap. Windows are not whole scans: what they say is
        scaled to what plain INT8 lost when it was judged.
    clock : Clock
    stages : callable
        Layers of each stage, the one whose layers are worth least first; called only if plain INT8 misses the gate.
    """
    attempts: list[Attempt] = []

    def met(names: Names) -> bool:
        attempts.append(Attempt(names, clock.run(lambda: judge(names))))
        return attempts[-1].verdict.met

    out_of_time = False
    try:
        if not met(()) and not any(met(names) for names in stages()):
            order = [layer.name for layer in sorted(rank(), key=lambda r: (-r.cost, r.name))]
            # Half of what is allowed is kept for windows that promise too much.
            enough = 0.5 * lost(()) / attempts[0].verdict.overshoot()
            _narrow(met, order, lambda names: lost(names) <= enough)
    except OutOfTimeError:
        out_of_time = True
    good = [attempt for attempt in attempts if attempt.verdict.met]
    best = min(good, key=lambda attempt: len(attempt.reverted), default=None)
    return Found(tuple(attempts), best, out_of_time)


def _narrow(met: Callable[[Names], bool], order: list[str], enough: Callable[[Sequence[str]], bool]) -> None:
    """Judge prefixes of `order`: from the predicted length up until one is met, then down between."""
    most = len(order) - 1  # with every layer reverted nothing is left to gain
    lengths = [n for n in dict.fromkeys([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]) if n <= most]
    n = next((n for n in lengths if enough(order[:n])), most)
    failed = 0
    while not met(tuple(order[:n])):
        failed = n
        if n >= most:
            return
        n = min(most, 2 * n)
    for _ in range(3):
        middle = (failed + n) // 2
        if middle <= failed:
            return
        if met(tuple(order[:middle])):
            n = middle
        else:
            failed = middle

"""Accuracy control: find the layers that must keep their precision, with few full segmentations.

1. The candidate without reverted layers is judged.
2. If it misses the gate and there are several stages, each stage is reverted whole in turn. Where one stage alone
   carries the loss, this finds it in as many segmentations as there are stages.
3. Otherwise layers are ranked by the agreement with fp32 that reverting them gives, for each millisecond that their
   INT8 saves. Ranking runs on windows and segments no scan.
4. The worst layers are reverted together: as many as the windows predict, then twice as many until the gate is met, and
   then fewer as long as it still is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from lowres_seg.quantize.judging import Judgement
from lowres_seg.quantize.layer import LayerId, Reverted

Judge = Callable[[Reverted], Judgement]


class OutOfTimeError(Exception):
    """The time budget has no room for another attempt. It never leaves this package."""


@dataclass(frozen=True)
class Ranked:
    """A layer with what reverting it gains and costs.

    Attributes
    ----------
    layer : LayerId
    harm : float
        Share of the foreground that agrees with fp32 again when this layer alone is reverted.
    saved_ms : float
        Milliseconds that INT8 saves on it.
    """

    layer: LayerId
    harm: float
    saved_ms: float

    @property
    def cost(self) -> float:
        """Harm for each millisecond saved."""
        return self.harm / self.saved_ms


@dataclass(frozen=True)
class Attempt:
    """One candidate that was judged."""

    reverted: Reverted
    verdict: Judgement


@dataclass(frozen=True)
class SearchResult:
    """Result of the search.

    Attributes
    ----------
    attempts : tuple of Attempt
        In the order in which they were judged.
    best : Attempt or None
        The attempt with the fewest reverted layers that met the gate.
    out_of_time : bool
        True if the time budget ended the search.
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
        """Expect an attempt to last at least this long."""
        self._longest = max(self._longest, seconds)

    def run(self, attempt: Callable[[], Judgement]) -> Judgement:
        """Run an attempt if the budget has room for one as long as the longest so far.

        Raises
        ------
        OutOfTimeError
            If it has not.
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
    loss: Callable[[Sequence[LayerId]], float],
    clock: Clock,
    stages: Callable[[], Sequence[Reverted]] = lambda: (),
) -> SearchResult:
    """Find the fewest layers to revert.

    Parameters
    ----------
    judge : callable
        Judges a candidate with the given layers reverted. Expensive.
    rank : callable
        Every layer with its harm; none if no layer can be reverted. Called only if the first attempt misses the gate.
    loss : callable
        Loss on windows with the given layers reverted. Cheap. Windows are not whole scans, so it is scaled to the loss
        of the first attempt when it was judged.
    clock : Clock
    stages : callable
        Layers of each stage, the stage whose layers save least first. Called only if the first attempt misses the gate.
    """
    attempts: list[Attempt] = []

    def met(layers: Reverted) -> bool:
        attempts.append(Attempt(layers, clock.run(lambda: judge(layers))))
        return attempts[-1].verdict.met

    out_of_time = False
    try:
        if not met(()) and not any(met(layers) for layers in stages()):
            order = [ranked.layer for ranked in sorted(rank(), key=lambda r: (-r.cost, str(r.layer)))]
            if order:
                # Half of what is allowed is a margin, because windows may promise too much.
                enough = 0.5 * loss(()) / attempts[0].verdict.overshoot()
                _narrow(met, order, lambda layers: loss(layers) <= enough)
    except OutOfTimeError:
        out_of_time = True
    good = [attempt for attempt in attempts if attempt.verdict.met]
    best = min(good, key=lambda attempt: len(attempt.reverted), default=None)
    return SearchResult(tuple(attempts), best, out_of_time)


def _narrow(met: Callable[[Reverted], bool], order: list[LayerId], enough: Callable[[Sequence[LayerId]], bool]) -> None:
    """Judge prefixes of `order`: longer ones from the predicted length until one is met, then shorter ones between."""
    most = len(order) - 1  # with every layer reverted nothing is gained
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

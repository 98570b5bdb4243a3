"""The caller's eye on a prediction: progress, a request to cancel it, a deadline."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from time import monotonic

from lowres_seg.arguments import described
from lowres_seg.errors import CancelledError, DeadlineError, InputError, shown

#: Called with the name of a stage, the number of windows that its networks have seen, and the number of all.
Progress = Callable[[str, int, int], object]


class Watch:
    """What the caller of a prediction wants to know of it, and when it shall end.

    Parameters
    ----------
    progress : callable, optional
        Called with the stage, the windows that are done, and the number of all.
    cancelled : callable, optional
        Asked between windows; if it gives something true, the prediction ends.
    deadline_s : float, optional
        Seconds from now until the prediction ends, of any type of real numbers. Infinity is no deadline. Zero and less
        are one that is over.

    Raises
    ------
    InputError
        If one is of another kind.
    """

    def __init__(
        self,
        progress: Progress | None = None,
        cancelled: Callable[[], object] | None = None,
        deadline_s: float | None = None,
    ) -> None:
        for name, value in (("progress", progress), ("cancelled", cancelled)):
            if value is not None and not callable(value):
                raise InputError(f"{name}: found {shown(value)}, expected something to call")
        self._progress = progress
        self._cancelled = cancelled
        self._deadline_s = math.inf if deadline_s is None else _seconds(deadline_s)
        self._end = None if self._deadline_s == math.inf else monotonic() + self._deadline_s
        self._where = "segmenting"
        self._waits = False
        #: The error that `progress` or `cancelled` ended with, which is the caller's own.
        self.raised: BaseException | None = None

    @property
    def waits_for_ever(self) -> bool:
        """True if nothing can end the prediction but its result."""
        return self._cancelled is None and self._end is None

    def at(self, where: str) -> None:
        """Note what is going on, for messages, and end the prediction if it shall end."""
        self._where, self._waits = where, False
        self.check()

    def waits(self, name: str) -> None:
        """Note that the scan of a name waits for its turn, and end the prediction if it shall end."""
        if self._deadline_s <= 0:
            raise DeadlineError(f"{name}: deadline_s is {self._deadline_s:g}, and so over before it begins; allow more")
        self._where, self._waits = f"{name}: waits for its turn", True
        self.check()

    def check(self) -> None:
        """End the prediction if it shall end.

        Raises
        ------
        CancelledError
        DeadlineError
        """
        if self._cancelled is not None and self._ask():
            raise CancelledError(f"{self._where}: cancelled by the caller; there is no result")
        if self._end is not None and monotonic() >= self._end:
            cure = "let fewer predictions run at once" if self._waits else "use a bundle in INT8"
            begun = "not begun" if self._waits else "not done"
            raise DeadlineError(f"{self._where}: {begun} within {self._deadline_s:g} s; allow more time, or {cure}")

    def done(self, stage: str, done: int, total: int) -> None:
        """Tell how many windows of a stage are done."""
        if self._progress is None:
            return
        try:
            self._progress(stage, done, total)
        except BaseException as error:
            self.raised = error
            raise

    def _ask(self) -> object:
        assert self._cancelled is not None  # noqa: S101 - its caller has looked
        try:
            return self._cancelled()
        except BaseException as error:
            self.raised = error
            raise


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        seconds = math.inf
    if math.isnan(seconds):
        raise InputError(f"deadline_s: found {described(value)}, expected a number of seconds")
    return seconds

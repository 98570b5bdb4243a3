"""The caller's eye on a prediction: progress, a request to cancel it, a deadline."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

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
        Seconds from now until the prediction ends.

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
        if deadline_s is not None and not _is_seconds(deadline_s):
            raise InputError(f"deadline_s: found {shown(deadline_s)}, expected a positive number of seconds")
        self._progress = progress
        self._cancelled = cancelled
        self._deadline_s = deadline_s
        self._end = None if deadline_s is None else monotonic() + deadline_s
        self._where = "segmenting"
        #: The error that `progress` or `cancelled` ended with, which is the caller's own.
        self.raised: BaseException | None = None

    @property
    def waits_for_ever(self) -> bool:
        """True if nothing can end the prediction but its result."""
        return self._cancelled is None and self._end is None

    def at(self, where: str) -> None:
        """Note what is going on, for messages, and end the prediction if it shall end."""
        self._where = where
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
        if self._end is not None and monotonic() > self._end:
            raise DeadlineError(
                f"{self._where}: not done within {self._deadline_s:g} s; allow more time, or use a bundle in INT8"
            )

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


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0

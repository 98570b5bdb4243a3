"""Turns of the predictions that threads ask of one segmenter."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from lowres_seg import linux
from lowres_seg.errors import InputError
from lowres_seg.runtime.watch import Watch

#: Seconds between two looks at what may end the wait.
_LOOK_S = 0.05


class Turns:
    """Lets as many predictions run at once as there is room for, in the order in which they were asked for.

    Parameters
    ----------
    most : int
        Largest number that run at once.
    room_bytes : int, optional
        Memory that all of them may take together. One by itself always runs.
    """

    def __init__(self, most: int, room_bytes: int | None = None) -> None:
        self._most = most
        self._room_bytes = room_bytes
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        #: Bytes of each prediction that runs, by its thread.
        self._running: dict[int, int] = {}

    @contextmanager
    def turn(self, need_bytes: int, watch: Watch) -> Iterator[None]:
        """Wait until a prediction that needs so many bytes may run, and hold its place.

        What the prediction has freed is given back to the system when it ends.

        Raises
        ------
        CancelledError, DeadlineError
            If the wait shall end before.
        InputError
            If this thread runs a prediction already, which would wait for itself.
        """
        thread = threading.get_ident()
        if thread in self._running:
            raise InputError(
                "predict: called by a callback of a prediction with the same Segmenter, expected one prediction at a "
                "time in a thread; start the second one in another thread, or when the first one has ended"
            )
        self._wait(thread, need_bytes, watch)
        try:
            yield
        finally:
            with self._changed:
                self._running.pop(thread, None)  # a child that was forked meanwhile has none
                self._changed.notify_all()
            linux.give_back_memory()

    def _wait(self, thread: int, need_bytes: int, watch: Watch) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
        try:
            while True:
                with self._changed:
                    if self._waiting[0] is ticket and self._has_room(need_bytes):
                        self._running[thread] = need_bytes
                        return
                    self._changed.wait(None if watch.waits_for_ever else _LOOK_S)
                watch.check()
        finally:
            with self._changed:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _has_room(self, need_bytes: int) -> bool:
        if not self._running:
            return True
        taken = sum(self._running.values()) + need_bytes
        return len(self._running) < self._most and (self._room_bytes is None or taken <= self._room_bytes)


_all: weakref.WeakSet[Turns] = weakref.WeakSet()


def _after_fork() -> None:
    """Forget the threads of the parent, which the child does not have."""
    for turns in list(_all):
        turns._reset()  # noqa: SLF001 - its own class


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

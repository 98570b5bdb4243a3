"""Infer requests of a compiled network that several threads share, and what a fork or an exit leaves of them.

A network is compiled for one stream, so one inference runs at a time, and others wait for it. Each result lies in the
memory of its own request. That request is used again when nothing refers to the result any more.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.errors import EngineError, last_line

Array = NDArray[np.float32]

#: One entry for each thread that is inside of OpenVINO now.
_inside: set[object] = set()
#: Networks that were not to be let go any more.
_left: list[Any] = []
#: Seconds between two looks at it when the process ends.
_LOOK_S = 0.005


@dataclass
class _Process:
    """What a process has of its parents."""

    #: Number of forks from the process that began.
    generation: int = 0
    #: Generations of the processes that compiled the networks which were dropped.
    dropped: set[int] = field(default_factory=set)
    #: Whether another thread was inside of OpenVINO at the fork. Its locks stay locked.
    torn: bool = False
    #: The thread that ends the process, which alone may go on.
    ended_by: int | None = None


_process = _Process()


def _after_fork() -> None:
    _process.generation += 1
    _process.torn = _process.torn or bool(_inside)
    _inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _wait_for_those_inside() -> None:
    """Let no other thread in any more, and wait for those that are inside: one inference or one compilation at most.

    The interpreter ends daemon threads, and those that it was told not to wait for, when they come back to Python. From
    inside of OpenVINO that aborts the process.
    """
    _process.ended_by = threading.get_ident()
    while _inside:
        try:
            time.sleep(_LOOK_S)
        except (KeyboardInterrupt, SystemExit):  # asks once more for what is under way
            continue


@contextmanager
def inside() -> Iterator[None]:
    """Mark this thread as inside of OpenVINO.

    Raises
    ------
    EngineError
        If this process was forked while another thread was inside: OpenVINO would wait for that thread for ever; or as
        of `check_going_on`.
    """
    if _process.torn:
        raise EngineError(
            "this process was forked while another thread ran a network, and OpenVINO would wait for that thread; "
            "fork while no prediction runs, or start processes with spawn"
        )
    mark = object()
    _inside.add(mark)
    try:
        check_going_on()
        yield
    finally:
        _inside.discard(mark)


def check_going_on() -> None:
    """Check that this process is not about to end.

    Raises
    ------
    EngineError
        If it is, and this is another thread than the one that ends it.
    """
    if _process.ended_by not in (None, threading.get_ident()):
        raise EngineError("this process is ending, and no thread may begin to run a network; wait for threads before")


def compiled_by(compile_network: Callable[[], Any]) -> Any:
    """Compile a network, in a thread of its own.

    OpenVINO has the thread that compiles take denormal numbers for zero from then on. The caller's arithmetic stays as
    it is. A network gets the threads of one that was dropped, and a fork leaves them behind.

    Raises
    ------
    EngineError
        If these would be threads of a parent process: OpenVINO would wait for them for ever; or if no thread can start.
    """
    if any(generation < _process.generation for generation in _process.dropped):
        raise EngineError(
            "this process was forked from one that had dropped networks of OpenVINO, and a further one would wait for "
            "their threads; load a Segmenter in no process that forks, or start processes with spawn"
        )
    compiled = _apart(compile_network)
    weakref.finalize(compiled, _process.dropped.add, _process.generation).atexit = False
    return compiled


def _apart(work: Callable[[], Any]) -> Any:
    """Do something inside of OpenVINO in a thread that ends with it, and give what comes of it."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with inside():
                results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="lowres-seg compiles a network")
    try:
        thread.start()
    except RuntimeError as error:
        raise EngineError(
            f"this process: may start no further thread to compile a network ({last_line(error)}); raise its limit of "
            "processes or threads"
        ) from error
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


class Requests:
    """Infer requests of one compiled network, for any number of threads. The network goes with them.

    Parameters
    ----------
    compiled : openvino.CompiledModel
        Nothing else refers to it for longer, because it must not be let go anywhere else.
    kept : int
        Number of idle requests that stay ready. Each holds its last input and output.
    """

    def __init__(self, compiled: Any, *, kept: int = 1) -> None:
        self.compiled = compiled
        self._kept = kept
        self._idle: deque[Any] = deque()
        self._turn = threading.Lock()
        self._last: weakref.ref[Any] | None = None
        #: What puts a request back when nothing refers to its result any more.
        self._lent: set[weakref.finalize[..., Any]] = set()

    def infer(self, *inputs: NDArray[Any]) -> Array:
        """Run the network once, when the runs of other threads have ended.

        The result stays as it is for as long as something refers to it. It is the request's own memory if requests are
        kept, and a copy if not.
        """
        with inside(), self._turn:
            check_going_on()
            request = self._idle.pop() if self._idle else self.compiled.create_infer_request()
            result = np.asarray(request.infer(list(inputs), share_inputs=True, share_outputs=self._kept > 0)[0])
            self._last = weakref.ref(request)
        if not self._kept:
            return result
        owner: Array = result
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        # Every view of the result refers to the array that owns it, or borrows it from OpenVINO.
        lent = weakref.finalize(owner, _put_back, self._idle, request, self._kept)
        lent.atexit = False
        self._lent = {one for one in self._lent if one.alive} | {lent}
        return result

    def drop(self) -> None:
        """Let the requests go, whose memory is far more than that of their results. The results stay as they are."""
        for lent in self._lent:
            lent.detach()
        self._lent.clear()
        self._idle.clear()

    def __del__(self) -> None:
        """Let the network go inside of OpenVINO, which leaves the interpreter meanwhile: an exit waits for it."""
        try:
            with inside():
                self.drop()
                self.compiled = None
        except EngineError:  # of a process that ends, or that cannot go on after a fork
            _left.append(self.compiled)

    def profile(self) -> list[Any]:
        """Counters of each node in the last run, of a network that was compiled with them."""
        request = None if self._last is None else self._last()
        return [] if request is None else list(request.get_profiling_info())


def _put_back(idle: deque[Any], request: Any, kept: int) -> None:
    if len(idle) < kept:
        idle.append(request)

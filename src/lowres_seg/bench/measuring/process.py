"""A child process as the parent sees it: started on its cores, asked for values, ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lowres_seg import host
from lowres_seg.bench.axes import ISA_LIMITS, Isa
from lowres_seg.bench.spec import Spec
from lowres_seg.errors import BenchmarkError

#: Seconds from one look at the memory of a process to the next, and at that of all that it started.
_LOOK_S, _ALL_S = 0.05, 0.5


class ChildError(Exception):
    """A child process cannot go on. It becomes a result, and never leaves this package."""


class Child:
    """One child process.

    Parameters
    ----------
    spec : Spec
    processors : sequence of int
        Processors that it may run on; empty if the system does not let a process choose.
    isa : str
    folder : pathlib.Path
        Folder for its spec and its messages.
    timeout_s : float
        Longest time for each of its answers.

    Attributes
    ----------
    peak_rss_bytes : int
        Largest resident set that was seen of the process and all that it started.
    memory : list of (float, int)
        Seconds since its start, and its resident set then, in bytes.
    """

    def __init__(self, spec: Spec, *, processors: Sequence[int], isa: Isa, folder: Path, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        handle, name = tempfile.mkstemp(suffix=".json", dir=folder)
        os.close(handle)
        spec.write(Path(name))
        self._log = Path(name).with_suffix(".log")
        self._buffer = b""
        self.peak_rss_bytes = 0
        self.memory: list[tuple[float, int]] = []
        self.started = self._next_tree = 0.0
        with self._log.open("wb") as log, _on(processors):
            self.started = time.monotonic()
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-m", "lowres_seg.bench.measuring.child", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(spec, isa),
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def answer(self, *, watch: bool = True) -> dict[str, Any]:
        """Wait for its next answer.

        Parameters
        ----------
        watch : bool
            Whether to look at its memory meanwhile, which `memory` keeps. Looking takes time, so not while it measures.

        Raises
        ------
        ChildError
            If it ends, says that it cannot go on, or takes too long.
        """
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self._timeout_s
        pause = _LOOK_S if watch else _ALL_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, min(pause, end - time.monotonic())))
            if ready:
                read = os.read(descriptor, 1 << 20)
                if not read:
                    raise ChildError(self._end())
                self._buffer += read
            elif time.monotonic() >= end:
                self.kill()
                raise ChildError(f"gave no answer within {self._timeout_s:g} s and was ended")
            elif watch:
                self._look()
        line, _, self._buffer = self._buffer.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        if "error" in content:
            raise ChildError(str(content["error"]))
        return content

    def ask(self, word: str) -> dict[str, Any]:
        """Send a word, and wait for the answer.

        Raises
        ------
        ChildError
            As `answer`.
        """
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ChildError(self._end()) from error
        return self.answer(watch=False)

    def watch(self) -> None:
        """Look at the memory of the process and of all that it started."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, host.tree_rss_bytes(self.pid))

    def _look(self) -> None:
        """Look at the memory of the process, and now and then at that of all that it started, which takes longer."""
        now = time.monotonic()
        self.memory.append((now - self.started, host.rss_bytes(self.pid)))
        if now >= self._next_tree:
            self._next_tree = now + _ALL_S
            self.watch()

    def kill(self) -> None:
        """End it, and all that it started."""
        if self._process.poll() is None:
            host.kill_tree(self.pid)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # A word that the process did not live to read is still held, and closing the pipe tries to write it.
                with suppress(BrokenPipeError):
                    pipe.close()

    def _end(self) -> str:
        """How the process ended."""
        code = self._process.wait()
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = f" ({lines[-1].strip()[:200]})" if lines else ""
        if code == -signal.SIGKILL:
            return f"was killed (signal 9), most likely because memory ran out{last}"
        return f"died of signal {-code}{last}" if code < 0 else f"ended with exit code {code}{last}"


#: Starts a child process; a test may start another kind. Its arguments are those of `Child`.
StartChild = Callable[..., Child]


@contextmanager
def _on(processors: Sequence[int]) -> Iterator[None]:
    """Let processes that are started within the block run on these processors only."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_answer(child: Child, task: str) -> dict[str, Any]:
    """The answer of a child that does one task. `task` begins the message if it fails.

    Raises
    ------
    BenchmarkError
        If the child cannot do it.
    """
    try:
        return child.answer()
    except ChildError as error:
        raise BenchmarkError(f"{task}: {error}") from error
    finally:
        child.kill()


#: Environment variables of the caller that a child does not inherit.
REPLACED = frozenset({*host.ISA_VARIABLES, "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "MKL_NUM_THREADS"})


def _environment(spec: Spec, isa: Isa) -> dict[str, str]:
    """Environment of a child: threads and instruction sets as the spec says, whatever the caller's are."""
    environment = {name: value for name, value in os.environ.items() if name not in REPLACED}
    environment |= {"OMP_NUM_THREADS": str(spec.threads), "MKL_NUM_THREADS": str(spec.threads)}
    limit = ISA_LIMITS[isa][0]
    if limit:
        environment["ONEDNN_MAX_CPU_ISA"] = limit
        if limit.startswith("AVX2"):
            environment["ATEN_CPU_CAPABILITY"] = "avx2"
    return environment


@contextmanager
def fixed_workload() -> Iterator[None]:
    """Turn the end of the fixed workload into an error of the suite: without it nothing else can be compared.

    Raises
    ------
    BenchmarkError
        If its process cannot go on.
    """
    try:
        yield
    except ChildError as error:
        raise BenchmarkError(f"the fixed workload {error}") from error

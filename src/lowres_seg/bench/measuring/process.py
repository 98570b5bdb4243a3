"""A child process, seen from the parent: started on its cores, asked for values, ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lowres_seg import host
from lowres_seg.bench.axes import ISA_LIMITS, Isa
from lowres_seg.bench.spec import Spec
from lowres_seg.errors import BenchmarkError


class ChildError(Exception):
    """A child could not go on; the message says why. It is a result, and never leaves this package."""


class Child:
    """One child process.

    Parameters
    ----------
    spec : Spec
    processors : list of int
        That it may run on; empty where the system does not let one choose.
    isa : str
    folder : pathlib.Path
        For its spec and what it prints.
    timeout_s : float
        For each of its answers.
    """

    def __init__(self, spec: Spec, *, processors: list[int], isa: Isa, folder: Path, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        handle, name = tempfile.mkstemp(suffix=".json", dir=folder)
        os.close(handle)
        spec.write(Path(name))
        self._log = Path(name).with_suffix(".log")
        self._buffer = b""
        self.peak_rss_bytes = 0
        self.started = 0.0
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
        """Wait for its next answer, and watch its memory meanwhile; not while it takes a value, as looking takes time.

        Raises
        ------
        ChildError
            If it ends, says that it cannot go on, or takes too long.
        """
        assert self._process.stdout is not None  # noqa: S101 - a pipe was asked for
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self._timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, min(0.5, end - time.monotonic())))
            if ready:
                read = os.read(descriptor, 1 << 20)
                if not read:
                    raise ChildError(self._epitaph())
                self._buffer += read
            elif time.monotonic() >= end:
                self.kill()
                raise ChildError(f"gave no answer within {self._timeout_s:g} s and was ended")
            elif watch:
                self.watch()
        line, _, self._buffer = self._buffer.partition(b"\n")
        content: dict[str, Any] = json.loads(line)
        if "error" in content:
            raise ChildError(str(content["error"]))
        return content

    def ask(self, word: str) -> dict[str, Any]:
        """Say a word and wait for the answer.

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
            raise ChildError(self._epitaph()) from error
        return self.answer(watch=False)

    def watch(self) -> None:
        """Look at the memory of the process and of all that it started."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, host.tree_rss_bytes(self.pid))

    def kill(self) -> None:
        """End it, and what it started."""
        if self._process.poll() is None:
            host.kill_tree(self.pid)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()

    def _epitaph(self) -> str:
        """Why it is no more."""
        code = self._process.wait()
        lines = [line for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = f" ({lines[-1].strip()[:200]})" if lines else ""
        if code == -signal.SIGKILL:
            return f"was killed (signal 9), most likely because memory ran out{last}"
        return f"died of signal {-code}{last}" if code < 0 else f"ended with exit code {code}{last}"


class _on:  # noqa: N801 - reads as a word
    """What is started within runs on these processors."""

    def __init__(self, processors: list[int]) -> None:
        self._processors = processors

    def __enter__(self) -> None:
        if self._processors:
            self._before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self._processors)

    def __exit__(self, *_: object) -> None:
        if self._processors:
            os.sched_setaffinity(0, self._before)


def one_answer(child: Child, what: str) -> dict[str, Any]:
    """What a child that does one thing gives; `what` it does, for the message if it fails.

    Raises
    ------
    BenchmarkError
        If it cannot.
    """
    try:
        return child.answer()
    except ChildError as error:
        raise BenchmarkError(f"{what}: {error}") from error
    finally:
        child.kill()


#: Settings of the caller that a child does not take over.
REPLACED = frozenset({"ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "MKL_NUM_THREADS"})


def _environment(spec: Spec, isa: Isa) -> dict[str, str]:
    """Environment of a child: threads and instruction sets as asked for, whatever the caller's says."""
    environment = {name: value for name, value in os.environ.items() if name not in REPLACED}
    environment |= {"OMP_NUM_THREADS": str(spec.threads), "MKL_NUM_THREADS": str(spec.threads)}
    limit = ISA_LIMITS[isa][0]
    if limit:
        environment["ONEDNN_MAX_CPU_ISA"] = limit
        if limit.startswith("AVX2"):
            environment["ATEN_CPU_CAPABILITY"] = "avx2"
    return environment

"""Bundles with faults, and what must come of them: one line, in about a second."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lowres_seg import LowresSegError

#: Seconds of this thread within which a bundle is refused; by the clock, a busy machine may take longer.
SECONDS, CLOCK = 1.0, 10.0


@contextmanager
def refused(*, seconds: float = SECONDS, match: str = "") -> Iterator[pytest.ExceptionInfo[LowresSegError]]:
    """The block must end with an error of this project, of one printable line, within the time."""
    began, clock = time.thread_time(), time.perf_counter()
    with pytest.raises(LowresSegError, match=match) as caught:
        yield caught
    took = time.thread_time() - began
    told = str(caught.value)
    assert took < seconds, f"{took:.2f} s: {told[:200]}"
    assert time.perf_counter() - clock < CLOCK
    assert told.isprintable()
    assert len(told) < 1500


def write_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change a bundle's manifest in place."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return bundle


def write_file(bundle: Path, name: str, content: bytes) -> Path:
    """Replace a listed file, and its digest in the manifest: what a hostile author can do."""
    (bundle / name).write_bytes(content)
    return write_manifest(bundle, lambda m: m["files"].update({name: hashlib.sha256(content).hexdigest()}))

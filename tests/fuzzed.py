"""Mutated manifests: what comes out of opening a bundle with one. A test runs few, ``scripts/fuzz_manifests`` many."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lowres_seg import LowresSegError, Segmenter

#: Seconds of this thread within which a bundle is opened or refused.
SECONDS = 1.0
#: Values that are odd in the place of any other.
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 255, 256, 2**31, 2**53, 2**64, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"),
    "", "x", "a" * 70, "a" * 20_000, "../x", "/etc/passwd", "reports/run.json", "\x00", "\ud800", "é\u2028\n", [], [[]], {}, {"": {}},
    [0, 0, 0], [1, 2, 3], [1e9] * 3, [0] * 5000, {"kind": "argmax", "labels": [0, 1]}, {"kind": "box-of", "stage": "only"},
]  # fmt: skip
Place = tuple[str | int, ...]


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every place within a manifest: keys and indices from the top."""
    yield here
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield from places(below, (*here, key))


def _parent(content: Any, place: Place) -> Any:
    for key in place[:-1]:
        content = content[key]
    return content


def mutated(content: Any, draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    """Text of a manifest with one to four changes of values, keys, items or bytes."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 4))):
        all_places = [place for place in places(content) if place]
        if not all_places:
            break
        place = draw(st.sampled_from(all_places))
        parent, key = _parent(content, place), place[-1]
        kind = draw(st.sampled_from(["odd", "delete", "twice", "swap", "rename", "number", "wrap"]))
        if kind == "odd":
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif kind == "delete":
            del parent[key]
        elif kind == "twice" and isinstance(parent, list):
            parent.extend([copy.deepcopy(parent[key])] * draw(st.integers(1, 40)))
        elif kind == "swap":
            other = draw(st.sampled_from(all_places))
            try:
                parent[key] = copy.deepcopy(_parent(content, other)[other[-1]])
            except (KeyError, IndexError, TypeError):
                continue
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=20))] = parent.pop(key)
        elif kind == "number":
            # A library may have this thread flush subnormal numbers to zero, and hypothesis then has none to draw.
            parent[key] = draw(st.one_of(st.integers(), st.floats(allow_subnormal=False)))
        elif kind == "wrap":
            parent[key] = [parent[key]]
    text = json.dumps(content)
    raw = bytearray(text.encode())
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(raw) - 1))
        change = draw(st.sampled_from(["set", "delete", "insert"]))
        if change == "set":
            raw[at] = draw(st.integers(0, 255))
        elif change == "delete" and len(raw) > 1:
            del raw[at : at + draw(st.integers(1, 8))]
            raw = raw or bytearray(b" ")
        else:
            raw[at:at] = draw(st.binary(min_size=1, max_size=8))
    return raw.decode("latin-1")


def run(bundle: Path, count: int, *, first_seed: int = 0, took: list[float] | None = None) -> Counter[str]:
    """Open a bundle with `count` mutated manifests, and count what comes out: opened, or the error's type.

    The seconds of each are added to `took`. An error that is not this project's, of more than one printable line, or that takes too long ends it.
    """
    path = bundle / "manifest.json"
    good = path.read_bytes()
    content = json.loads(good)
    came_out: Counter[str] = Counter()

    @seed(first_seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def one(data: st.DataObject) -> None:
        path.write_bytes(mutated(content, data.draw).encode("latin-1"))
        began, told = time.thread_time(), "opened"
        try:
            Segmenter.load(bundle, threads=1, lean=True)
            came_out["opened"] += 1
        except LowresSegError as error:
            came_out[type(error).__name__] += 1
            told = str(error)
        seconds = time.thread_time() - began
        if took is not None:
            took.append(seconds)
        assert seconds < SECONDS, told
        assert told.isprintable()
        assert len(told) < 1500

    try:
        one()
    finally:
        path.write_bytes(good)
    return came_out

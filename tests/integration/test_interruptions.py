"""`benchmarks/interruptions.py` in short, with other seeds: kills at random moments."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from .conftest import module_of


@pytest.fixture(scope="module")
def interruptions(checkout: Path) -> Any:
    return module_of(checkout / "benchmarks" / "interruptions.py", "interruptions")


@pytest.fixture(scope="module")
def subjects(interruptions: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return interruptions.prepare(tmp_path_factory.mktemp("subjects"))


@pytest.mark.parametrize(("command", "kills"), [("predict", 6), ("export", 2), ("quantize", 1), ("bench", 1)])
def test_kills(interruptions: Any, subjects: Any, tmp_path: Path, command: str, kills: int) -> None:
    row = interruptions.measure(subjects[command], tmp_path, kills, random.Random())
    assert row.kills == kills
    assert (row.half_written, row.left_after_next, row.processes_left) == (0, 0, 0)
    assert row.completed == row.identical > 0

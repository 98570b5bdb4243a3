"""Mutated scans, a share of each kind with a new seed; `benchmarks/fuzz.py` tries all of them with the same code."""

from __future__ import annotations

from pathlib import Path

import fuzz
import numpy as np
import pytest


@pytest.mark.parametrize("kind", fuzz.SCANS)
def test_a_mutated_scan_is_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    row, odd = fuzz.scans(kind, 0.01, seed, tmp_path)
    assert odd == []
    assert row.anything_else == 0
    assert row.inputs == row.read + row.refused.total() > 20


def test_what_comes_out_wrong_would_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = fuzz.good()
    others = {"other voxels": content[:-1] + b"\xff", "no scan": b"x", "sound": content}

    monkeypatch.setitem(fuzz.SCANS, "three", lambda random, share: iter(("b.nii", c, True) for c in others.values()))
    row, odd = fuzz.scans("three", 1, 0, tmp_path)
    assert (row.inputs, row.read, row.refused.total(), row.anything_else) == (3, 2, 1, 1)
    assert odd == ["three, input 1 of seed 0: read, with other voxels"]

"""An uncompressed scan that is truncated while `predict` reads it costs one line, and the other scans are done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lowres_seg import Volume

MB = 10**6


def is_within(process: int, path: Path, first: int) -> bool:
    """Tell whether a process has read on from byte `first` of a file, or has the file mapped into its memory."""
    try:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            if descriptor.readlink() == path:
                place = Path(f"/proc/{process}/fdinfo/{descriptor.name}").read_text().split()[1]
                return int(place) >= first
        return str(path) in Path(f"/proc/{process}/maps").read_text()
    except FileNotFoundError:  # the process has closed it, or has ended
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("left", [0, 352, 4 * MB])
def test_a_scan_that_is_truncated_while_it_is_read_is_one_line(
    tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume], left: int
) -> None:
    scans = [tmp_path / f"{name}.nii.gz" for name in "ab"]
    for seed, scan in enumerate(scans):
        lopsided(seed=seed).save(scan)
    large = tmp_path / "large.nii"
    Volume.from_array(np.random.default_rng(0).random((360, 360, 360), np.float32), np.eye(4)).save(large)
    words = ["predict", tiny, scans[0], large, scans[1], "-o", tmp_path / "out", "--volume-table", tmp_path / "t.csv"]
    command = [sys.executable, "-m", "lowres_seg", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while child.poll() is None and not is_within(child.pid, large, 8 * MB):
            time.sleep(0.0002)
        os.truncate(large, left)
        said = child.communicate()[1]
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {large}: ")
    assert "truncated" in error or "changed while it was read" in error
    assert "Traceback" not in said
    assert child.returncode == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["a_mask.nii.gz", "b_mask.nii.gz"]
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 4

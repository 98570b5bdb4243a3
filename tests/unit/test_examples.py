"""The examples of the docs run, each as a process of its own."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowres_seg import Segmenter, Volume


@pytest.fixture
def examples(checkout: Path) -> Path:
    return checkout / "docs" / "examples"


@pytest.fixture
def scans(tmp_path: Path, lopsided: Callable[..., Volume]) -> list[Path]:
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"head-{seed}.nii.gz" for seed in range(3)]
    for seed, path in enumerate(paths):
        lopsided((16 + seed, 16, 18), seed=seed).save(path)
    return paths


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, **options)


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_service_with_a_pool(examples: Path, tiny: Path, scans: list[Path]) -> None:
    bad = scans[0].with_name("bad.nii.gz")
    bad.write_bytes(b"no scan")
    said = run(examples / "service_pool.py", tiny, *scans, bad, "--max-ram-bytes", 10**9).stdout.splitlines()
    assert len(said) == 4
    assert [line for line in said if line.startswith("failed") and str(bad) in line]
    assert all("brain" in line for line in said if line.startswith("head"))


def test_a_folder_watcher(examples: Path, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, examples / "folder_watcher.py", tiny, tmp_path / "in", out, "--seconds", "60"]
    watcher = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 50
    while len(list(out.glob("head-*.nii.gz"))) < len(scans) and time.monotonic() < end:
        time.sleep(0.05)
    watcher.send_signal(signal.SIGTERM)
    said, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert sorted(said.split()[1::2]) == [scan.name for scan in scans]
    segmenter = Segmenter.load(tiny, threads=1)
    for scan in scans:
        assert np.array_equal(Volume.load(out / scan.name).data, segmenter.predict(scan).labels.data)
    assert sorted(path.name for path in out.iterdir()) == [scan.name for scan in scans]


def test_a_subprocess_with_json(examples: Path, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    segment = module_of(examples / "subprocess_json.py").segment
    case = segment(tiny, scans[0], tmp_path / "mask.nii.gz")
    found = Segmenter.load(tiny, threads=1).predict(scans[0])
    assert case["voxels"] == found.voxels()
    assert np.array_equal(Volume.load(tmp_path / "mask.nii.gz").data, found.labels.data)
    with pytest.raises(RuntimeError, match=r"absent.nii.gz"):
        segment(tiny, tmp_path / "absent.nii.gz", tmp_path / "other.nii.gz")


def test_made_heads_have_their_brains(examples: Path, tmp_path: Path) -> None:
    run(examples / "made_heads.py", "--heads", 2, cwd=tmp_path)
    for number in (1, 2):
        scan, label = (Volume.load(tmp_path / folder / f"head-{number}.nii.gz") for folder in ("scans", "labels"))
        assert scan.grid.same_space(label.grid)
        brain = label.data > 0
        assert 800 < brain.sum() * 4.0**3 / 1000 < 1500  # millilitres
        assert scan.data[brain].mean() > 2 * scan.data[~brain].mean()

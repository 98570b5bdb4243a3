"""The examples of the docs run, each as a process of its own."""

from __future__ import annotations

import errno
import importlib.util
import shutil
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


def test_a_folder_watcher_goes_on(examples: Path, tiny: Path, scans: list[Path], tmp_path: Path) -> None:
    """After links that lead nowhere, uploads that pause, and a folder of masks that is not there or cannot be one."""
    inbox, out = tmp_path / "in", tmp_path / "new" / "out"
    (inbox / "dangling.nii.gz").symlink_to("nowhere")
    whole = scans[0].read_bytes()
    scans[0].write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, examples / "folder_watcher.py", tiny, inbox, out, "--seconds", "60"]
    watcher = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    said: list[str] = []
    assert watcher.stdout is not None

    def until(word: str) -> None:
        while not said or word not in said[-1]:
            line = watcher.stdout.readline()
            assert line, said
            said.append(line)

    try:
        until(f"done {scans[2].name}")
        assert said[0].startswith(f"failed {scans[0]}")
        assert (out / scans[1].name).is_file()
        scans[0].write_bytes(whole)  # the upload goes on
        until(f"done {scans[0].name}")
        shutil.rmtree(out)
        out.write_text("in the way")
        until(f"not written [Errno {errno.EEXIST}]")
        out.unlink()
        until(f"done {scans[0].name}")
    finally:
        watcher.send_signal(signal.SIGTERM)
        watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    words = [*map(str, command[:3]), str(tmp_path / "none"), str(out)]
    none = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (none.returncode, "none: is no folder" in none.stderr) == (2, True)


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

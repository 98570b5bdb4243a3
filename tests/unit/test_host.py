from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lowres_seg import host


def test_sees_this_machine() -> None:
    found = host.inspect()
    assert 1 <= found.threads <= found.logical_cores
    assert 0 < found.memory_limit_bytes <= found.memory_bytes


@pytest.mark.parametrize(
    ("affinity", "quota", "physical", "threads"),
    [(8, None, 8, 8), (8, None, 4, 4), (2, None, 8, 2), (8, 3.0, 8, 3), (8, 2.5, 8, 2), (8, 0.5, 8, 1), (1, 16.0, 8, 1)],
)  # fmt: skip
def test_threads_keep_affinity_and_quota(affinity: int, quota: float | None, physical: int, threads: int) -> None:
    assert (
        replace(host.inspect(), affinity=affinity, quota=quota, physical_cores=physical, omp_threads=None).threads
        == threads
    )


@pytest.mark.parametrize(
    ("text", "threads"), [("1", 1), ("2,4", 2), (" 3 ", 3), ("64", 8), ("", 8), ("0", 8), ("-1", 8), ("many", 8)]
)
def test_omp_num_threads_is_obeyed_if_it_is_a_number(monkeypatch: pytest.MonkeyPatch, text: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    found = replace(host.inspect(), affinity=8, quota=None, physical_cores=8)
    assert found.threads == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_pinned_to_one_core_uses_one_thread() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); from lowres_seg import host; print(host.inspect().threads)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(
    ("files", "quota", "memory"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "4096"}, 1.5, 4096),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "8192"}, 2.0, 8192),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None, None),
        ({}, None, None),
    ],
)
def test_reads_both_versions_of_cgroups(
    tmp_path: Path, files: dict[str, str], quota: float | None, memory: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert host._quota([tmp_path]) == quota
    assert host._memory_limit([tmp_path]) == memory


def test_the_tightest_parent_binds(tmp_path: Path) -> None:
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text("100000 100000\n")
    (inner / "cpu.max").write_text("400000 100000\n")
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    folders = host._cgroup_folders(tmp_path, own)
    assert folders[:2] == [inner, tmp_path / "job"]
    assert host._quota(folders) == 1.0


def test_peak_rss_is_this_process_own() -> None:
    ballast = bytearray(400 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from lowres_seg import host; print(host.peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert host.peak_rss_bytes() > len(ballast)
    assert int(done.stdout) < len(ballast)

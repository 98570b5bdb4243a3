from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lowres_seg import Volume, atomic, host, linux
from lowres_seg.runtime import openvino_engine


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
    assert linux.quota([tmp_path]) == quota
    assert linux.memory_limit([tmp_path]) == memory


def test_the_tightest_parent_binds(tmp_path: Path) -> None:
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text("100000 100000\n")
    (inner / "cpu.max").write_text("400000 100000\n")
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    folders = linux.cgroup_folders(tmp_path, own)
    assert folders[:2] == [inner, tmp_path / "job"]
    assert linux.quota(folders) == 1.0


def test_peak_rss_is_this_process_own() -> None:
    ballast = bytearray(400 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from lowres_seg import host; print(host.peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert host.peak_rss_bytes() > len(ballast)
    assert int(done.stdout) < len(ballast)


#: Runs the command line on a system that has none of Linux's files.
ELSEWHERE = """
import sys
from pathlib import Path
from lowres_seg import linux
linux.ROOT = Path("/gone")
sys.argv = ["lowres-seg", *sys.argv[1:]]
from lowres_seg.cli import main
main()
"""


#: Frees every second of many blocks, so that none of them borders on another free one or on the end of the heap.
FREES = """
from lowres_seg import linux
def resident():
    return int(open("/proc/self/statm").read().split()[1])
blocks = [bytes([1]) * 50_000 for _ in range(4000)]
del blocks[::2]
before = resident()
linux.give_back_memory()
print(before - resident())
"""


def test_freed_memory_is_given_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREES], capture_output=True, text=True, check=True)
    assert int(done.stdout) * os.sysconf("SC_PAGE_SIZE") > 70_000_000


def test_files_of_linux_are_read_in_one_place(modules: dict[str, Path]) -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in modules.values()}
    assert [name for name, text in sources.items() if re.search(r"[\"'/](proc|sys)/", text)] == ["linux.py"]


def test_without_files_of_linux_the_rest_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = host.inspect()
    monkeypatch.setattr(linux, "ROOT", tmp_path)
    found = host.inspect()
    assert (found.features, found.quota, found.cpu != "") == ((), None, True)
    assert (found.physical_cores, found.affinity) == (known.physical_cores, known.affinity)
    assert found.threads == min(found.affinity, found.physical_cores, found.omp_threads or found.affinity)
    assert host.peak_rss_bytes() > 1 << 24
    assert sorted(host.processors()) == sorted(os.sched_getaffinity(0))
    assert host.governor() is None
    assert host.load().throttled == 0
    with atomic.file(tmp_path / "a.txt") as staged:
        staged.write_text("whole", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_command_line_needs_no_file_of_linux(tiny: Path, tmp_path: Path, lopsided: Callable[..., Volume]) -> None:
    lopsided().save(tmp_path / "a.nii")
    for words in (["doctor"], ["verify", tiny], ["predict", tiny, tmp_path / "a.nii", "-o", tmp_path / "m.nii"]):
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), words
        assert words[0] != "doctor" or "unknown on this system" in done.stdout


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("abc", "OMP_NUM_THREADS=abc is ignored, expected a positive number"),
        ("0", "OMP_NUM_THREADS=0 is ignored, expected a positive number"),
        ("-2", "OMP_NUM_THREADS=-2 is ignored, expected a positive number"),
        ("a\nb", r"OMP_NUM_THREADS=a\nb is ignored, expected a positive number"),
        ("640", "OMP_NUM_THREADS=640 is more than this process may use, and changes nothing"),
        ("1", "OMP_NUM_THREADS=1 is obeyed"),
        ("1" * 5000, f"OMP_NUM_THREADS={'1' * 78} is ignored, expected a positive number"),
        ("0" * 5000 + "1", f"OMP_NUM_THREADS={'0' * 78} is obeyed"),
        ("1,4", "OMP_NUM_THREADS=1,4 is obeyed"),
        ("", ""),
        (None, ""),
    ],
)
def test_what_becomes_of_omp_num_threads_is_told(
    monkeypatch: pytest.MonkeyPatch, text: str | None, verdict: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    machine = host.inspect()
    assert host.about_omp(machine) == verdict
    assert machine.threads == (1 if verdict.endswith("obeyed") else machine.cores)


def test_both_names_of_the_limit_of_instruction_sets_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in host.ISA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert host.instruction_set_limit() is None
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert host.instruction_set_limit() == "AVX2"
    assert "BF16" not in openvino_engine.cpu_capabilities()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")  # oneDNN looks for this one first
    assert host.instruction_set_limit() == "SSE41"

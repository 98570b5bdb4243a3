"""What Linux tells in files and its C library does, and the only place where both are asked.

Other systems have none of them. What is told here is then unknown: the instruction sets of the CPU (`doctor` says so),
limits of a cgroup and throttling by one, which threads share a core, the frequency governor, and the identity of a
boot, so that what a killed run left is judged by its process number alone. Freed memory is given back as the C library
sees fit.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

#: Where the files of the system begin; a test looks at a system without them.
ROOT = Path("/")


def cpuinfo() -> dict[str, str]:
    """First entry of each key about the CPU; empty if the system does not tell."""
    entries: dict[str, str] = {}
    for line in _text("proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return entries


def peak_rss_bytes() -> int | None:
    """Largest resident set of this process so far; None if the system does not tell.

    On Linux getrusage is no answer: a process inherits the peak of its parent there.
    """
    peak = [line for line in _text("proc/self/status").splitlines() if line.startswith("VmHWM:")]
    return int(peak[0].split()[1]) * 1024 if peak else None


def first_sibling(processor: int) -> str:
    """First of the processors that share a core with this one; itself if the system does not tell."""
    siblings = _words(ROOT / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    return siblings[0] if siblings else str(processor)


def governor() -> str | None:
    """Frequency governor of the first processor; None if the system does not tell."""
    words = _words(ROOT / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return words[0] if words else None


def boot() -> str:
    """Identity of this boot; empty if the system does not tell."""
    return _text("proc/sys/kernel/random/boot_id").strip()


def unmapped_user() -> int | None:
    """Number under which a container sees users of the host that it does not know; None if the system does not tell."""
    words = _words(ROOT / "proc/sys/kernel/overflowuid")
    return int(words[0]) if words else None


def die_first() -> None:
    """Make the kernel end this process before others if memory runs out, if the system can."""
    path = ROOT / "proc/self/oom_score_adj"
    if os.access(path, os.W_OK):
        path.write_text("800", encoding="utf-8")


def give_back_memory() -> None:
    """Give freed memory back to the system, if the C library can.

    glibc keeps what was freed between blocks that are in use, and the next large arrays are put elsewhere.
    """
    if (trim := _trim()) is not None:
        trim(0)


def cgroup_folders(root: Path | None = None, own: Path | None = None) -> list[Path]:
    """Folders of the cgroups that limit this process: its own and every parent, in versions 1 and 2."""
    root = ROOT / "sys/fs/cgroup" if root is None else root
    own = ROOT / "proc/self/cgroup" if own is None else own
    if not own.is_file():
        return []
    folders: list[Path] = []
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            base = root / controller if controller else root
            # In a container the path may be that of the host. Then only the root folder is visible.
            folder = base / path.lstrip("/")
            folders += [f for f in (folder, *folder.parents) if f.is_dir() and f.is_relative_to(base)]
    return list(dict.fromkeys(folders))


def quota(folders: list[Path] | None = None) -> float | None:
    """Smallest CPU quota, in processors, of the cgroups that limit this process; None if there is none."""
    quotas: list[float] = []
    for folder in cgroup_folders() if folders is None else folders:
        v2 = _words(folder / "cpu.max")
        if len(v2) == 2 and v2[0] != "max":
            quotas.append(int(v2[0]) / int(v2[1]))
        v1, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if v1 and period and int(v1[0]) > 0:
            quotas.append(int(v1[0]) / int(period[0]))
    return min(quotas, default=None)


def memory_limit(folders: list[Path] | None = None) -> int | None:
    """Smallest limit of memory, in bytes, of the cgroups that limit this process; None if there is none."""
    limits: list[int] = []
    for folder in cgroup_folders() if folders is None else folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            if words and words[0] != "max":
                limits.append(int(words[0]))
    return min(limits, default=None)


def throttled() -> int:
    """Number of periods in which a cgroup of this process ran out of its CPU quota."""
    counts = [0]
    for folder in cgroup_folders():
        words = _words(folder / "cpu.stat")
        counts += [int(value) for key, value in pairwise(words) if key == "nr_throttled"]
    return max(counts)


@cache
def _trim() -> Any:
    """``malloc_trim`` of glibc; None where there is none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _text(name: str) -> str:
    path = ROOT / name
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _words(path: Path) -> list[str]:
    # A limit that this process may not read is unknown, and counts as no limit.
    return path.read_text(encoding="utf-8").split() if os.access(path, os.R_OK) and path.is_file() else []

"""What this process may really use: cores, memory, and what the CPU can do.

A container or a batch scheduler often grants less than the machine has. The cores counted here are those of
the affinity mask, bounded by the CPU quota of the cgroup; the memory is bounded by the cgroup's limit.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

#: CPU flags that decide which kernels run, in the order in which they appeared.
FEATURES = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
)


@dataclass(frozen=True)
class Host:
    """The machine and what this process may use of it.

    Attributes
    ----------
    cpu : str
        Name of the processor.
    physical_cores, logical_cores : int
        Of the machine.
    affinity : int
        Processors this process may run on.
    quota : float or None
        Processors' worth of time that the cgroup grants, None if unlimited.
    memory_bytes, memory_limit_bytes : int
        Of the machine, and what the cgroup grants of it.
    features : tuple of str
        CPU flags out of `FEATURES`; empty where the system does not tell.
    """

    cpu: str
    physical_cores: int
    logical_cores: int
    affinity: int
    quota: float | None
    memory_bytes: int
    memory_limit_bytes: int
    features: tuple[str, ...]
    system: str
    python: str

    @property
    def threads(self) -> int:
        """Threads worth starting: no more than the affinity mask and the quota allow, at least one."""
        allowed = self.affinity if self.quota is None else min(self.affinity, max(1, math.floor(self.quota)))
        return max(1, min(allowed, self.physical_cores))


def inspect() -> Host:
    """Look at the machine and at the limits of this process."""
    logical = psutil.cpu_count() or 1
    memory = int(psutil.virtual_memory().total)
    cpuinfo = _cpuinfo()
    return Host(
        cpu=cpuinfo.get("model name", platform.processor() or "unknown"),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        affinity=_affinity(logical),
        quota=_quota(),
        memory_bytes=memory,
        memory_limit_bytes=min(memory, _memory_limit() or memory),
        features=tuple(flag for flag in FEATURES if flag in cpuinfo.get("flags", "").split()),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
    )


def peak_rss_bytes() -> int:
    """Largest resident set that this process has had so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux a process inherits there the peak of the one that started it.
        peak = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def processors() -> list[int]:
    """Processors this process may run on, one for each core first, then their hyper-threads.

    Empty where the system does not let a process choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    first: list[int] = []
    second: list[int] = []
    seen: set[str] = set()
    for number in sorted(os.sched_getaffinity(0)):
        siblings = _words(Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"))
        core = siblings[0] if siblings else str(number)
        (second if core in seen else first).append(number)
        seen.add(core)
    return first + second


def governor() -> str | None:
    """How the first processor's frequency is governed, None where the system does not tell."""
    words = _words(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    return words[0] if words else None


def load_average() -> float:
    """Processes that ran or wanted to, on average over the last minute."""
    return float(psutil.getloadavg()[0])


@dataclass(frozen=True)
class Load:
    """What the machine has done so far, beside this process and what it started.

    Attributes
    ----------
    others : dict of int to (str, float)
        Name and processor seconds of every process that can be seen and is not of this one's tree.
    stolen_s : float
        Processor seconds that a hypervisor gave to somebody else.
    throttled : int
        Periods in which the cgroup of this process was out of its CPU quota.
    at_s : float
        When, on a clock that only goes forward.
    """

    others: dict[int, tuple[str, float]]
    stolen_s: float
    throttled: int
    at_s: float


def load() -> Load:
    """Look at what else goes on."""
    own = {process.pid for process in _tree(os.getpid())}
    others = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in own:
                t = process.cpu_times()
                others[process.pid] = (process.name(), float(t.user + t.system))
    throttled = [0]
    for folder in _cgroup_folders():
        words = _words(folder / "cpu.stat")
        throttled += [int(value) for key, value in pairwise(words) if key == "nr_throttled"]
    stolen = float(getattr(psutil.cpu_times(), "steal", 0.0))
    return Load(others, stolen, max(throttled), time.monotonic())


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and all that it started, now; pages that they share count for each."""
    total = 0
    for process in _tree(pid):
        with suppress(psutil.Error):
            total += int(process.memory_info().rss)
    return total


def kill_tree(pid: int) -> None:
    """End a process and all that it started."""
    for process in _tree(pid):
        with suppress(psutil.Error):
            process.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _affinity(logical: int) -> int:
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else logical


def _cpuinfo() -> dict[str, str]:
    """First entry of each key of /proc/cpuinfo, empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    entries: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return entries


def _cgroup_folders(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Path]:
    """Folders whose limits bind this process: its own cgroup and every parent of it, in v1 and v2."""
    if not own.is_file():
        return []
    folders: list[Path] = []
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            base = root / controller if controller else root
            # In a container the path may be the host's: then only the root folder is visible.
            folder = base / path.lstrip("/")
            folders += [f for f in (folder, *folder.parents) if f.is_dir() and f.is_relative_to(base)]
    return list(dict.fromkeys(folders))


def _quota(folders: list[Path] | None = None) -> float | None:
    """Smallest CPU quota, in processors, of the cgroups that bind this process."""
    quotas: list[float] = []
    for folder in _cgroup_folders() if folders is None else folders:
        v2 = _words(folder / "cpu.max")
        if len(v2) == 2 and v2[0] != "max":
            quotas.append(int(v2[0]) / int(v2[1]))
        v1, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if v1 and period and int(v1[0]) > 0:
            quotas.append(int(v1[0]) / int(period[0]))
    return min(quotas, default=None)


def _memory_limit(folders: list[Path] | None = None) -> int | None:
    limits: list[int] = []
    for folder in _cgroup_folders() if folders is None else folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            words = _words(folder / name)
            if words and words[0] != "max":
                limits.append(int(words[0]))
    return min(limits, default=None)


def _words(path: Path) -> list[str]:
    # Unreadable is not unlimited, but a process that may not read its own cgroup has nothing else to go by.
    return path.read_text(encoding="utf-8").split() if os.access(path, os.R_OK) and path.is_file() else []

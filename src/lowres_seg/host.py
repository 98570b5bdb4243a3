"""Cores and memory that this process may use, and the instruction sets of the CPU.

A container or a batch scheduler often grants less than the machine has. Cores are counted by the affinity mask and the
CPU quota of the cgroup. Memory is bounded by the limit of the cgroup.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from lowres_seg import linux
from lowres_seg.errors import shown
from lowres_seg.wording import counted

#: CPU flags that decide which kernels run, from the oldest to the newest.
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


#: Environment variables that limit the instruction sets of kernels. The first that is set counts.
ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
#: Digits of the largest OMP_NUM_THREADS that is taken for a number of threads.
_OMP_DIGITS = 9
#: Beyond this share of a processor, other work disturbs a measurement.
_BUSY = 0.10
#: Processes that may run beside the threads of a measurement before its processors are shared.
_BESIDE = 0.5


@dataclass(frozen=True)
class Host:
    """The machine, and what this process may use of it.

    Attributes
    ----------
    cpu : str
        Name of the processor.
    physical_cores, logical_cores : int
        Of the machine.
    affinity : int
        Number of processors that this process may run on.
    quota : float or None
        Number of processors whose time the cgroup grants; None if it is unlimited.
    memory_bytes, memory_limit_bytes : int
        Memory of the machine, and the part of it that the cgroup grants.
    features : tuple of str
        CPU flags out of `FEATURES`; empty if the system does not tell.
    omp_threads : int or None
        OMP_NUM_THREADS; None if it is not set, or no positive number.
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
    omp_threads: int | None = None

    @property
    def threads(self) -> int:
        """Number of threads to compute with, at least one: what mask, quota, cores and OMP_NUM_THREADS allow."""
        return min(self.cores, self.omp_threads or self.cores)

    @property
    def cores(self) -> int:
        """Number of cores that this process may be given, at least one: what mask, quota and cores allow."""
        allowed = self.affinity if self.quota is None else min(self.affinity, max(1, math.floor(self.quota)))
        return max(1, min(allowed, self.physical_cores))


def inspect() -> Host:
    """Look at the machine and at the limits of this process."""
    logical = psutil.cpu_count() or 1
    cpuinfo = linux.cpuinfo()
    return Host(
        cpu=cpuinfo.get("model name", platform.processor() or "unknown"),
        physical_cores=psutil.cpu_count(logical=False) or logical,
        logical_cores=logical,
        affinity=_affinity(logical),
        quota=linux.quota(),
        memory_bytes=int(psutil.virtual_memory().total),
        memory_limit_bytes=memory_limit_bytes(),
        features=tuple(flag for flag in FEATURES if flag in cpuinfo.get("flags", "").split()),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        omp_threads=_omp_threads(os.environ.get("OMP_NUM_THREADS", "")),
    )


@lru_cache(maxsize=1)
def memory_limit_bytes() -> int:
    """Memory of the machine, or the part of it that the cgroup grants."""
    memory = int(psutil.virtual_memory().total)
    return min(memory, linux.memory_limit() or memory)


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    if (peak := linux.peak_rss_bytes()) is not None:
        return peak
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # In kilobytes, but for macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cache_folder() -> Path:
    """Folder of this package among those that the user's programs keep what they can make again in.

    Raises
    ------
    RuntimeError
        If the user has no home.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        named = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return base / "lowres-seg"


def processors() -> list[int]:
    """Processors that this process may run on: first one of each core, then their hyper-threads.

    Empty if the system does not let a process choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    first: list[int] = []
    second: list[int] = []
    seen: set[str] = set()
    for number in sorted(os.sched_getaffinity(0)):
        core = linux.first_sibling(number)
        (second if core in seen else first).append(number)
        seen.add(core)
    return first + second


def about_omp(machine: Host) -> str:
    """What becomes of OMP_NUM_THREADS, in words; empty if it is not set."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if not text.strip():
        return ""
    said = f"OMP_NUM_THREADS={shown(text)[1:-1]}"
    if machine.omp_threads is None:
        return f"{said} is ignored, expected a positive number"
    if machine.omp_threads > machine.cores:
        return f"{said} is more than this process may use, and changes nothing"
    return f"{said} is obeyed"


def instruction_set_limit() -> str | None:
    """Instruction set that the environment limits kernels to; None if it does not."""
    return next((os.environ[name] for name in ISA_VARIABLES if os.environ.get(name)), None)


def governor() -> str | None:
    """Frequency governor of the first processor; None if the system does not tell."""
    return linux.governor()


def load_average() -> float:
    """Mean number of processes that ran or waited to run over the last minute."""
    return float(psutil.getloadavg()[0])


@dataclass(frozen=True)
class Load:
    """Other work of the machine so far, apart from this process and its children.

    Attributes
    ----------
    others : dict of int to (str, float)
        Name and processor seconds of every visible process outside of this process's tree.
    stolen_s : float
        Processor seconds that the hypervisor gave to other machines.
    throttled : int
        Number of periods in which the cgroup of this process ran out of its CPU quota.
    at_s : float
        Time of the look, on a monotonic clock.
    """

    others: dict[int, tuple[str, float]]
    stolen_s: float
    throttled: int
    at_s: float


def load() -> Load:
    """Look at the other work of the machine."""
    own = {process.pid for process in _tree(os.getpid())}
    others = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in own:
                t = process.cpu_times()
                others[process.pid] = (process.name(), float(t.user + t.system))
    stolen = float(getattr(psutil.cpu_times(), "steal", 0.0))
    return Load(others, stolen, linux.throttled(), time.monotonic())


def busy(before: Load, after: Load) -> list[str]:
    """Reasons to doubt what was measured between two looks at the machine: its other work."""
    seconds = after.at_s - before.at_s
    found = []
    spent = {
        pid: (name, (total - before.others.get(pid, ("", 0.0))[1]) / seconds)
        for pid, (name, total) in after.others.items()
    }
    if sum(share for _, share in spent.values()) > _BUSY:
        name, share = max(spent.values(), key=lambda one: one[1])
        found.append(f"busy host: other work, most of it {name} ({share:.1f} processors); stop it and measure again")
    if (after.stolen_s - before.stolen_s) / seconds > _BUSY:
        found.append("busy host: the hypervisor gave processors to others; measure when it is idle")
    throttled = after.throttled - before.throttled
    if throttled:
        periods = counted(throttled, "period")
        found.append(f"the CPU quota ran out in {periods}: measure with fewer cores, or raise the quota")
    return found


def crowded(machine: Host, average: float) -> list[str]:
    """Reasons to doubt what is measured now: a load average that leaves too few processors."""
    if average + machine.threads <= machine.logical_cores + _BESIDE:
        return []
    processors, threads = counted(machine.logical_cores, "processor"), counted(machine.threads, "thread")
    doubt = (
        f"busy host: {average:.1f} processes ran over the last minute on {processors}, and this tool takes {threads}"
    )
    return [f"{doubt}; measure when it is idle"]


def rss_bytes(pid: int) -> int:
    """Resident memory of a process now; 0 if it has ended."""
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children now. Shared pages count for each of them."""
    total = 0
    for process in _tree(pid):
        with suppress(psutil.Error):
            total += int(process.memory_info().rss)
    return total


def kill_tree(pid: int) -> None:
    """End a process and its children."""
    for process in _tree(pid):
        with suppress(psutil.Error):
            process.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _omp_threads(text: str) -> int | None:
    """Threads of the outermost level in an OMP_NUM_THREADS such as ``4`` or ``4,2``."""
    first = text.split(",", maxsplit=1)[0].strip()
    if not (first.isascii() and first.isdigit()) or len(first.lstrip("0")) > _OMP_DIGITS:
        return None
    return int(first.lstrip("0") or "0") or None


def _affinity(logical: int) -> int:
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else logical

"""Facts about the machine, for a suite."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence

from lowres_seg import host
from lowres_seg.bench.backends import Backend
from lowres_seg.bench.measuring.process import REPLACED
from lowres_seg.bench.suite import HostFacts
from lowres_seg.runtime.openvino_engine import version

_SETTINGS = ("OMP_", "MKL_", "ONEDNN_", "DNNL_", "KMP_", "GOMP_", "TBB_", "OV_")


def host_facts(machine: host.Host, backends: Sequence[Backend]) -> HostFacts:
    """The machine, and the versions of the packages that are measured on it."""
    versions = {"python": machine.python, "openvino": version(), "numpy": importlib.metadata.version("numpy")}
    for backend in backends:
        versions |= backend.versions()
    return HostFacts(
        cpu=machine.cpu,
        features=machine.features,
        cores=machine.threads,
        physical_cores=machine.physical_cores,
        logical_cores=machine.logical_cores,
        quota=machine.quota,
        memory_bytes=machine.memory_bytes,
        memory_limit_bytes=machine.memory_limit_bytes,
        governor=host.governor(),
        system=machine.system,
        versions=versions,
        thread_settings={
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_SETTINGS) and name not in REPLACED
        },
        load_average=host.load_average(),
    )

"""Which backend can serve which bundle, and with which files; and on what machine."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lowres_seg import host
from lowres_seg.bench.measuring.plan import Cell, Contestant, Plan
from lowres_seg.bench.measuring.process import REPLACED
from lowres_seg.bench.suite import HostFacts
from lowres_seg.bundle.bundle import Bundle, file_sha256
from lowres_seg.errors import BenchmarkError
from lowres_seg.export import recipe as recipes
from lowres_seg.runtime import engine

_SETTINGS = ("OMP_", "MKL_", "ONEDNN_", "KMP_", "GOMP_", "TBB_", "OV_")
_BELOW_BF16 = ("avx2", "avx2-vnni", "avx512", "avx512-vnni")


def check_recipes(plan: Plan, bundles: Mapping[str, Bundle]) -> None:
    """Check that torch would run the weights that each bundle holds.

    Raises
    ------
    BenchmarkError
        If a recipe is not the one that its bundle was exported from, or its weights are others.
    """
    for contestant in plan.bundles:
        if contestant.recipe is None:
            continue
        bundle = bundles[contestant.name]
        if not contestant.recipe.exists():
            raise BenchmarkError(f"{contestant.recipe}: does not exist, expected the recipe of {contestant.name}")
        if not any("torch" in backend for backend in plan.backends):
            continue
        if recipes.digest(contestant.recipe) != bundle.manifest.lineage.recipe:
            raise BenchmarkError(
                f"{contestant.recipe}: is not the recipe that {contestant.path} was exported from; name that one, or "
                "export the bundle again"
            )
        for source, expected in bundle.manifest.lineage.sources.items():
            file = _weights(contestant, source)
            if not file.is_file():
                raise BenchmarkError(f"{file}: not found; name the folder of the weights of {contestant.name}")
            if file_sha256(file) != expected:
                raise BenchmarkError(f"{file}: holds other weights than {contestant.path} was exported from")


def reason_against(cell: Cell, bundle: Bundle, features: Sequence[str]) -> str:
    """Why a backend cannot serve a cell; empty if it can."""
    networks = bundle.manifest.networks.values()
    int8 = any(network.precision == "int8" for network in networks)
    bf16 = any(stage.inference_precision == "bf16" for stage in bundle.manifest.stages)
    if cell.backend == "onnxruntime" and cell.isa != "native":
        return "ONNX Runtime heeds no limit on instruction sets"
    if cell.backend in ("onnxruntime", "openvino-plain"):
        if int8 or bf16:
            return "the ONNX graph is that of the network in fp32: it is measured beside the fp32 bundle"
        if any(network.onnx is None for network in networks):
            return "the bundle holds no ONNX graph: export it with --onnx"
    if "torch" in cell.backend:
        if int8 or bf16:
            return "torch runs what was trained, in fp32: it is measured beside the fp32 bundle"
        if cell.bundle.recipe is None:
            return "torch needs the recipe that the bundle comes from: name it with --recipe and --weights"
    if (
        cell.backend == "openvino"
        and bf16
        and (cell.isa in _BELOW_BF16 or not {"avx512_bf16", "amx_bf16"} & set(features))
    ):
        return "the bundle computes in bf16, which this CPU, so limited, has not"
    return ""


def _weights(contestant: Contestant, source: str) -> Path:
    """File of weights for an entry of a lineage: NETWORK/FILE."""
    folder = contestant.weights or _home(contestant)
    return folder / source.partition("/")[2]


def _home(contestant: Contestant) -> Path:
    """Folder in which weights are looked for."""
    if contestant.recipe is None:
        return contestant.path
    return contestant.recipe if contestant.recipe.is_dir() else contestant.recipe.parent


def precisions(cell: Cell, bundle: Bundle) -> tuple[Literal["fp32", "int8"], str]:
    """Precision of the weights, and what the CPU computes in."""
    int8 = any(network.precision == "int8" for network in bundle.manifest.networks.values())
    inference = (
        sorted({s.inference_precision for s in bundle.manifest.stages}) if cell.backend == "openvino" else ["f32"]
    )
    return "int8" if int8 else "fp32", "+".join(inference)


def files(cell: Cell, bundle: Bundle) -> dict[str, Any]:
    """What a child needs to load the networks of a cell: fields of its spec."""
    manifest = bundle.manifest
    return {
        "precisions": {n: s.inference_precision for s in manifest.stages for n in s.networks},
        "xml": {name: str(bundle.file(network.xml)) for name, network in manifest.networks.items()},
        "onnx": {n: str(bundle.file(network.onnx)) for n, network in manifest.networks.items() if network.onnx},
        "recipe": str(cell.bundle.recipe or ""),
        "weights": {s.partition("/")[0]: str(_weights(cell.bundle, s)) for s in manifest.lineage.sources},
    }


def host_facts(plan: Plan, machine: host.Host) -> HostFacts:
    """The machine, and the versions of what is measured on it."""
    versions = {"python": machine.python, "openvino": engine.version(), "numpy": importlib.metadata.version("numpy")}
    if "onnxruntime" in plan.backends:
        versions["onnxruntime"] = importlib.metadata.version("onnxruntime")
    if any("torch" in backend for backend in plan.backends):
        versions["torch"] = importlib.metadata.version("torch")
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

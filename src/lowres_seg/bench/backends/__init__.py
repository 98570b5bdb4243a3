"""What runs the networks of a bundle while they are measured: OpenVINO, ONNX Runtime, torch.

One module and one entry of a table for each backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.cohort.cases import Case
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.segmenter import Segmenter

#: Module of each backend.
BACKENDS = {
    "openvino": "openvino_bundle",
    "openvino-plain": "openvino_plain",
    "onnxruntime": "onnx_runtime",
    "onnxruntime-int8": "onnx_runtime_int8",
    "torch": "torch_eager",
    "torch-compile": "torch_compiled",
}


@dataclass(frozen=True)
class Subject:
    """A bundle that is measured, and what it was exported from.

    Attributes
    ----------
    bundle : Bundle
    recipe : pathlib.Path or None
        Recipe or folder that the bundle was exported from.
    weights : pathlib.Path or None
        Folder of the recipe's files of weights.
    calibrate : tuple of Case
        Cases that a backend takes ranges of activations from.
    """

    bundle: Bundle
    recipe: Path | None = None
    weights: Path | None = None
    calibrate: tuple[Case, ...] = ()

    @property
    def is_fp32(self) -> bool:
        """True if no network is quantized and none computes in bf16."""
        manifest = self.bundle.manifest
        return all(n.precision == "fp32" for n in manifest.networks.values()) and not self.has_bf16

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes among which the bundle decides; none if it gives masks."""
        manifest = self.bundle.manifest
        return () if manifest.labels else manifest.classes

    @property
    def has_bf16(self) -> bool:
        """True if a stage computes in bf16."""
        return any(stage.inference_precision == "bf16" for stage in self.bundle.manifest.stages)


class Backend(Protocol):
    """What the module of a backend offers, as its object `BACKEND`.

    Attributes
    ----------
    extra : str or None
        Extra that it needs.
    """

    extra: str | None

    def check(self, subject: Subject) -> None:
        """Raise BenchmarkError if it would run other weights than the bundle holds."""
        ...

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:
        """Why it cannot run a bundle on a host with these CPU features; empty if it can."""
        ...

    def inference_precision(self, bundle: Bundle) -> str:
        """Precision that the CPU computes in, apart from what is quantized."""
        ...

    def networks(self, subject: Subject) -> dict[str, Any]:
        """What a child process needs to load the networks: plain values, by name of the network."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the packages that run the networks."""
        ...

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Load the networks, by name. It imports only what it needs: imports are part of what is measured."""
        ...

    def segmenter(self, spec: Spec) -> Segmenter:
        """Make a segmenter whose networks this backend runs."""
        ...


@runtime_checkable
class Quantizing(Backend, Protocol):
    """A backend that quantizes the networks of an fp32 bundle itself, on calibration cases."""

    def quantize(self, spec: Spec) -> dict[str, Any]:
        """Quantize the networks that `networks` tells of, into the spec's folder; what a child needs to load them."""
        ...


def backend(name: str) -> Backend:
    """Backend of this name."""
    module: Any = import_module(f"{__name__}.{BACKENDS[name]}")
    found: Backend = module.BACKEND
    return found


def segmenter_of(networks: Mapping[str, Engine], spec: Spec) -> Segmenter:
    """Segmenter of a bundle whose networks are loaded already."""
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.runtime.segmenter import Segmenter

    manifest = Bundle.open(spec.bundle).manifest
    engines = {stage.name: [networks[name] for name in stage.networks] for stage in manifest.stages}
    return Segmenter(manifest, engines, threads=spec.threads)

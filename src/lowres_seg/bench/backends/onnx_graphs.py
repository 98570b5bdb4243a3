"""Common ground of the backends that run the ONNX graphs of a bundle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject, segmenter_of
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.segmenter import Segmenter


class OnnxGraphs(ABC):
    """ONNX graphs of an fp32 bundle, in f32. A backend adds `load` and `versions`."""

    extra: str | None = "bench"

    def check(self, subject: Subject) -> None:  # noqa: B027 - there is nothing to check
        """It runs the graphs of the bundle."""

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:  # noqa: ARG002
        """It needs the ONNX graphs of an fp32 bundle."""
        if not subject.is_fp32:
            return "the ONNX graph is that of the network in fp32: it is measured beside the fp32 bundle"
        if any(network.onnx is None for network in subject.bundle.manifest.networks.values()):
            return "the bundle holds no ONNX graph: export it with --onnx, or see onnx_failed in reports/export.json"
        return ""

    def inference_precision(self, bundle: Bundle) -> str:  # noqa: ARG002 - the same for all
        """Always f32."""
        return "f32"

    def networks(self, subject: Subject) -> dict[str, Any]:
        """Path and digest of each network's graph."""
        manifest = subject.bundle.manifest
        named = {name: network.onnx for name, network in manifest.networks.items() if network.onnx is not None}
        return {
            name: {"path": str(subject.bundle.file(file)), "sha256": manifest.files[file]}
            for name, file in named.items()
        }

    @abstractmethod
    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Load the graphs."""

    def segmenter(self, spec: Spec) -> Segmenter:
        """Segmenter on the graphs."""
        return segmenter_of(self.load(spec), spec)


def read(spec: Spec) -> dict[str, bytes]:
    """Read the graphs, and check that they are those of the bundle.

    Raises
    ------
    IntegrityError
        If one has changed since its bundle was opened.
    """
    from lowres_seg.bundle.bundle import checked_bytes

    return {name: checked_bytes(Path(given["path"]), given["sha256"]) for name, given in spec.networks.items()}

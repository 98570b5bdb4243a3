"""The ONNX graphs of a bundle in ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject, onnx_graphs, segmenter_of
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.segmenter import Segmenter


class OnnxRuntime:
    """ONNX graphs in f32 by ONNX Runtime."""

    extra: str | None = "bench"

    def check(self, subject: Subject) -> None:
        """Nothing to check: it runs the graphs of the bundle."""

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:  # noqa: ARG002
        """It needs the ONNX graphs of an fp32 bundle, and cannot be limited to an instruction set."""
        if isa != "native":
            return "ONNX Runtime cannot be limited to an instruction set"
        return onnx_graphs.reason_against(subject)

    def inference_precision(self, bundle: Bundle) -> str:  # noqa: ARG002 - the same for all
        """Always f32."""
        return "f32"

    def networks(self, subject: Subject) -> dict[str, Any]:
        """Paths and digests of the graphs."""
        return onnx_graphs.files(subject)

    def versions(self) -> dict[str, str]:
        """Version of ONNX Runtime."""
        return {"onnxruntime": importlib.metadata.version("onnxruntime")}

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Load the graphs."""
        from lowres_seg.export.frameworks.onnx_graph import OrtNetwork

        return {
            name: OrtNetwork(Path(spec.networks[name]["path"]), threads=spec.threads, content=content)
            for name, content in onnx_graphs.read(spec).items()
        }

    def segmenter(self, spec: Spec) -> Segmenter:
        """Segmenter on the graphs."""
        return segmenter_of(self.load(spec), spec)


BACKEND = OnnxRuntime()

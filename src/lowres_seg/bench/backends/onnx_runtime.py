"""The ONNX graphs of a bundle in ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject
from lowres_seg.bench.backends.onnx_graphs import OnnxGraphs, read
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.runtime.engine import Engine


class OnnxRuntime(OnnxGraphs):
    """ONNX graphs in f32 by ONNX Runtime."""

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:
        """It needs the ONNX graphs of an fp32 bundle, and cannot be limited to an instruction set."""
        if isa != "native":
            return "ONNX Runtime cannot be limited to an instruction set"
        return super().reason_against(subject, isa, features)

    def versions(self) -> dict[str, str]:
        """Version of ONNX Runtime."""
        return {"onnxruntime": importlib.metadata.version("onnxruntime")}

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Load the graphs."""
        from lowres_seg.bundle.bundle import Bundle
        from lowres_seg.export.frameworks.onnx_graph import OrtNetwork

        manifest = Bundle.open(spec.bundle).manifest
        return {
            name: OrtNetwork(
                Path(spec.networks[name]["path"]),
                threads=spec.threads,
                content=content,
                dropout=manifest.networks[name].dropout,
            )
            for name, content in read(spec).items()
        }


BACKEND = OnnxRuntime()

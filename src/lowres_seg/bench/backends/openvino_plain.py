"""The ONNX graphs of a bundle as OpenVINO itself reads them, without the rewrites of `export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject, onnx_graphs, segmenter_of
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.segmenter import Segmenter


class OpenVinoPlain:
    """ONNX graphs in f32 by OpenVINO."""

    extra: str | None = "bench"

    def check(self, subject: Subject) -> None:
        """Nothing to check: it runs the graphs of the bundle."""

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:  # noqa: ARG002
        """It needs the ONNX graphs of an fp32 bundle."""
        return onnx_graphs.reason_against(subject)

    def inference_precision(self, bundle: Bundle) -> str:  # noqa: ARG002 - the same for all
        """Always f32."""
        return "f32"

    def networks(self, subject: Subject) -> dict[str, Any]:
        """Paths and digests of the graphs."""
        return onnx_graphs.files(subject)

    def versions(self) -> dict[str, str]:
        """Version of OpenVINO."""
        from lowres_seg.runtime.openvino_engine import version

        return {"openvino": version()}

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Compile the graphs."""
        from lowres_seg.runtime.openvino_engine import OpenVinoEngine, core

        return {
            name: OpenVinoEngine.of_model(core().read_model(content), threads=spec.threads)
            for name, content in onnx_graphs.read(spec).items()
        }

    def segmenter(self, spec: Spec) -> Segmenter:
        """Segmenter on the graphs."""
        return segmenter_of(self.load(spec), spec)


BACKEND = OpenVinoPlain()

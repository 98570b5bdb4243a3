"""The ONNX graphs of a bundle as OpenVINO itself reads them, without the rewrites of `export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowres_seg.bench.backends.onnx_graphs import OnnxGraphs, read
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.runtime.engine import Engine


class OpenVinoPlain(OnnxGraphs):
    """ONNX graphs in f32 by OpenVINO."""

    def versions(self) -> dict[str, str]:
        """Version of OpenVINO."""
        from lowres_seg.runtime.openvino_engine import version

        return {"openvino": version()}

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Compile the graphs."""
        from lowres_seg.runtime.openvino_engine import OpenVinoEngine, core

        return {
            name: OpenVinoEngine.of_model(core().read_model(content), threads=spec.threads)
            for name, content in read(spec).items()
        }


BACKEND = OpenVinoPlain()

"""The ONNX graphs of a bundle in ONNX Runtime, quantized by ONNX Runtime itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject
from lowres_seg.bench.backends.onnx_graphs import read
from lowres_seg.bench.backends.onnx_runtime import OnnxRuntime
from lowres_seg.bench.spec import Spec


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX graphs in INT8 by ONNX Runtime, calibrated on cases of the plan."""

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:
        """It needs what ONNX Runtime needs, and calibration cases."""
        reason = super().reason_against(subject, isa, features)
        if not reason and not subject.calibrate:
            return "ONNX Runtime's INT8 takes its ranges from calibration cases: name a table of them with --calibrate"
        return reason

    def quantize(self, spec: Spec) -> dict[str, Any]:
        """Quantize the graphs, and give path and digest of each new one.

        Raises
        ------
        IntegrityError
            If a graph has changed since its bundle was opened.
        InputError, QuantizationError
            If a case cannot be used, or ONNX Runtime fails.
        """
        from lowres_seg.bundle.bundle import Bundle, file_sha256
        from lowres_seg.cohort.cases import Case
        from lowres_seg.export.frameworks import onnx_int8
        from lowres_seg.quantize import calibration

        cases = [Case(case["id"], {c: Path(p) for c, p in case["scan"].items()}) for case in spec.calibrate]
        bundle = Bundle.open(spec.bundle)
        inputs = calibration.inputs(bundle, cases, threads=spec.threads)
        made = {}
        for name, graph in read(spec).items():
            target = Path(spec.folder) / f"{name}.onnx"
            onnx_int8.quantized(
                graph,
                inputs[name],
                target,
                name=name,
                reduce_range=not spec.has_vnni,
                threads=spec.threads,
                dropout=bundle.manifest.networks[name].dropout,
            )
            made[name] = {"path": str(target), "sha256": file_sha256(target)}
        return made


BACKEND = OnnxRuntimeInt8()

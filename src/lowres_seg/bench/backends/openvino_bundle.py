"""The bundle as the runtime runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowres_seg.bench.axes import Isa
from lowres_seg.bench.backends import Subject
from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.runtime.engine import Engine
    from lowres_seg.runtime.segmenter import Segmenter


class OpenVinoBundle:
    """The networks of the bundle, in its own precision."""

    extra: str | None = None

    def check(self, subject: Subject) -> None:
        """Nothing to check: it runs the bundle itself."""

    def reason_against(self, subject: Subject, isa: Isa, features: Sequence[str]) -> str:
        """A bundle in bf16 needs a CPU that computes in bf16, and no limit below it."""
        if subject.has_bf16 and (isa != "native" or not {"avx512_bf16", "amx_bf16"} & set(features)):
            return "the bundle computes in bf16, which this CPU does not support under this limit"
        return ""

    def inference_precision(self, bundle: Bundle) -> str:
        """As the manifest says."""
        return "+".join(sorted({stage.inference_precision for stage in bundle.manifest.stages}))

    def networks(self, subject: Subject) -> dict[str, Any]:
        """Files with their digests, and precision."""
        manifest = subject.bundle.manifest
        precisions = {name: stage.inference_precision for stage in manifest.stages for name in stage.networks}
        return {
            name: {
                "xml": str(files.xml),
                "bin": str(files.bin),
                "sha256": files.sha256,
                "inference_precision": precisions[name],
            }
            for name, files in subject.bundle.network_files().items()
        }

    def versions(self) -> dict[str, str]:
        """Version of OpenVINO."""
        from lowres_seg.runtime.openvino_engine import version

        return {"openvino": version()}

    def load(self, spec: Spec) -> Mapping[str, Engine]:
        """Compile the networks, and check the digests of their files."""
        from lowres_seg.bundle.bundle import NetworkFiles
        from lowres_seg.runtime.openvino_engine import OpenVinoEngine

        return {
            name: OpenVinoEngine(
                NetworkFiles(Path(given["xml"]), Path(given["bin"]), tuple(given["sha256"])),
                threads=spec.threads,
                inference_precision=given["inference_precision"],
            )
            for name, given in spec.networks.items()
        }

    def segmenter(self, spec: Spec) -> Segmenter:
        """Load the bundle as `predict` does."""
        from lowres_seg.runtime.segmenter import Segmenter

        return Segmenter.load(spec.bundle, threads=spec.threads)


BACKEND = OpenVinoBundle()

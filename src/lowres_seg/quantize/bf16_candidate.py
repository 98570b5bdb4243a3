"""bf16: the networks as they are, computed in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.quantize.candidate import LayerReport, Request, WrittenNetworks
from lowres_seg.quantize.layer import LayerId, Reverted
from lowres_seg.quantize.search import Ranked
from lowres_seg.runtime.openvino_engine import version


class Bf16:
    """Every network computed in bf16. No layer can be reverted."""

    #: The largest difference of a score, and the largest share of voxels that flip, between CPUs.
    reference_bound = (0.1, 0.005)

    def __init__(self, request: Request) -> None:
        self._bundle = request.bundle

    def needed_bytes(self) -> int:
        """No memory: nothing is gathered."""
        return 0

    def write(self, folder: Path, reverted: Reverted) -> WrittenNetworks:  # noqa: ARG002 - none can be
        """Write the networks below `folder`, unchanged."""
        manifest = self._bundle.manifest
        for network in manifest.networks.values():
            for name in (network.xml, network.bin):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self._bundle.read(name))
        stages = tuple(s.model_copy(update={"inference_precision": "bf16"}) for s in manifest.stages)
        pipeline = Pipeline(channels=manifest.channels, labels=manifest.labels, regions=manifest.regions, stages=stages)
        networks = {name: network.model_copy(update={"onnx": None}) for name, network in manifest.networks.items()}
        return WrittenNetworks(pipeline, networks)

    def stages(self) -> list[Reverted]:
        """No layer can be reverted."""
        return []

    def rank(self) -> list[Ranked]:
        """No layer can be reverted."""
        return []

    def loss(self, reverted: Sequence[LayerId]) -> float:  # noqa: ARG002 - none can be
        """No layer can be reverted, so there is nothing to predict."""
        return 0.0

    def layers(self) -> list[LayerReport]:
        """No layer is changed by itself."""
        return []

    def tools(self) -> dict[str, str]:
        """Version of OpenVINO, which computes in bf16."""
        return {"openvino": version()}


CANDIDATE = Bf16

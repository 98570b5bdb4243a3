"""INT8: every network calibrated by NNCF, apart from the layers that are reverted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowres_seg.bundle.pipeline import Pipeline
from lowres_seg.bundle.stage import Classes
from lowres_seg.quantize import int8, running, sensitivity
from lowres_seg.quantize.candidate import LayerReport, Request, WrittenNetworks
from lowres_seg.quantize.layer import LayerId, Reverted, operators_of
from lowres_seg.quantize.norm_nodes import norms
from lowres_seg.quantize.search import Ranked
from lowres_seg.runtime.exact_norms import as_one
from lowres_seg.runtime.openvino_engine import read_graph


class Int8:
    """Every network in INT8, apart from the layers that are reverted."""

    #: INT8 sums are exact. But CPUs without VNNI saturate, and the operators in f32 differ as they do in fp32.
    reference_bound = (0.25, 0.01)

    def __init__(self, request: Request) -> None:
        self._bundle = request.bundle
        self._settings = request.settings
        self._inputs = request.inputs
        self._threads = request.threads
        self._max_ram_bytes = request.max_ram_bytes
        self._notify = request.notify
        self._files = request.bundle.network_files()
        self._models: dict[str, dict[tuple[str, ...], Any]] = {}
        self._left_out: dict[str, list[int8.Layer]] = {}
        self._probes: list[sensitivity.Probe] = []

    def needed_bytes(self) -> int:
        """Least memory in which the statistics of each network can be gathered."""
        return max(int8.needed_bytes(self._fp32(name)) for name in self._files)

    def model(self, network: str, reverted: Sequence[str] = ()) -> Any:
        """Quantized openvino.Model of one network. Plain INT8 and the last candidate of each are kept."""
        names = tuple(sorted(reverted))
        kept = self._models.setdefault(network, {})
        if names not in kept:
            for other in [other for other in kept if other]:
                del kept[other]
            kept[names] = self._quantized(network, names)
        return kept[names]

    def _quantized(self, network: str, reverted: Sequence[str]) -> Any:
        """Quantize a network. Layers that would run in f32 are found when plain INT8 is made, and left out of all."""
        model, inputs = self._fp32(network), self._inputs()[network]

        def quantize(model: Any, inputs: Sequence[Any], left_out: Sequence[str]) -> Any:
            return int8.quantize_network(
                network,
                model,
                inputs,
                dropout=self._files[network].dropout,
                preset=self._settings.preset,
                reverted=[*reverted, *left_out],
                max_ram_bytes=self._max_ram_bytes,
                classifies=isinstance(self._bundle.manifest.stage_of(network).decode, Classes),
            )

        if network in self._left_out:
            return quantize(model, inputs, [layer.name for layer in self._left_out[network]])
        found = quantize(model, inputs, [])
        self._left_out[network] = []
        if running.in_f32(found, self._threads):
            self._left_out[network] = running.left_out(model, inputs[0], quantize, self._threads)
            found = quantize(model, inputs, [layer.name for layer in self._left_out[network]])
        return found

    def write(self, folder: Path, reverted: Reverted) -> WrittenNetworks:
        """Write the networks below `folder`, with some layers in fp32."""
        (folder / "networks").mkdir(parents=True, exist_ok=True)
        manifest = self._bundle.manifest
        for name, network in manifest.networks.items():
            int8.save(self.model(name, operators_of(name, reverted)), folder / network.xml)
        networks = {
            name: network.model_copy(update={"precision": "int8", "onnx": None})
            for name, network in manifest.networks.items()
        }
        pipeline = Pipeline(
            channels=manifest.channels, labels=manifest.labels, regions=manifest.regions, stages=manifest.stages
        )
        return WrittenNetworks(pipeline, networks)

    def stages(self) -> list[Reverted]:
        """Layers of each stage, the stage whose layers save least first; empty if there are not several stages."""
        found: list[tuple[float, Reverted]] = []
        for stage in self._bundle.manifest.stages:
            layers = [(name, layer) for name in stage.networks for layer in int8.layers(self.model(name))]
            ids = tuple(LayerId(name, layer.name) for name, layer in layers)
            found.append((sum(layer.saved_ms for _, layer in layers), ids))
        found = [(saved, ids) for saved, ids in found if ids]
        return [ids for _, ids in sorted(found)] if len(found) > 1 else []

    def rank(self) -> list[Ranked]:
        """Rank every layer by the agreement with fp32 that reverting it gives on windows."""
        probes = self._cut_windows()
        self._notify("ranking layers on windows")
        return sensitivity.rank(probes)

    def loss(self, reverted: Sequence[LayerId]) -> float:
        """Share of the foreground of a window that disagrees with fp32, in the network where it is largest."""
        return max(probe.loss(operators_of(probe.network, reverted))[0] for probe in self._cut_windows())

    def layers(self) -> list[LayerReport]:
        """Precision in which every layer runs, and every norm, which is not quantized."""
        models = {name: self.model(name) for name in self._bundle.manifest.networks}
        found = []
        for name, model in models.items():
            in_f32 = running.in_f32(model, self._threads)
            for layer in int8.layers(model):
                why = (running.WHY,) if layer in in_f32 else ()
                found.append(LayerReport(LayerId(name, layer.name), layer.type, "fp32" if why else "int8", *why))
            left_out = self._left_out[name]
            found += [LayerReport(LayerId(name, layer.name), layer.type, "fp32", running.WHY) for layer in left_out]
        return found + [
            LayerReport(LayerId(name, norm), "norm", "fp32", "norms compute in f32")
            for name, model in models.items()
            for norm in norms(model)
        ]

    def tools(self) -> dict[str, str]:
        """Versions of NNCF and OpenVINO."""
        return int8.versions()

    def _fp32(self, network: str) -> Any:
        """The network to quantize. INT8 rounds far more than OpenVINO's norms, which take less time and memory."""
        model = read_graph(self._files[network])
        as_one(model)
        return model

    def _cut_windows(self) -> list[sensitivity.Probe]:
        if not self._probes:
            self._notify("cutting windows")
            for stage in self._bundle.manifest.stages:
                for name in stage.networks:
                    fp32 = self._fp32(name)
                    x = self._inputs()[name][0]
                    probe = sensitivity.Probe.build(name, fp32, self.model(name), x, stage.decode, self._threads)
                    self._probes.append(probe)
        return self._probes


CANDIDATE = Int8

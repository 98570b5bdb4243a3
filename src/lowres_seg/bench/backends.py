"""The same weights in several hands: OpenVINO, ONNX Runtime, torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bench.spec import Spec

if TYPE_CHECKING:
    from lowres_seg.runtime.segmenter import Segmenter

Array = NDArray[np.float32]


class Network(Protocol):
    """What each backend makes of a network."""

    def run(self, x: Array) -> Array:
        """Scores (1, C, D, H, W) of one input."""
        ...


def load(spec: Spec) -> Mapping[str, Network]:
    """Networks of a bundle, by name, ready to run.

    Only what the backend needs is imported: it is part of the process's start and of its memory.

    Raises
    ------
    EngineError, ExportError
        If one cannot be loaded.
    """
    loaders: dict[str, Callable[[Spec], Mapping[str, Network]]] = {
        "openvino": _openvino,
        "openvino-plain": _openvino_plain,
        "onnxruntime": _onnxruntime,
        "torch": _torch,
        "torch-compile": _torch,
    }
    return loaders[spec.backend](spec)


def segmenter(spec: Spec) -> Segmenter:
    """The bundle, with its networks in the hands of the backend.

    Raises
    ------
    BundleError, EngineError, ExportError
        If it cannot be loaded.
    """
    from lowres_seg.bundle.bundle import Bundle
    from lowres_seg.runtime.segmenter import Segmenter

    if spec.backend == "openvino":
        return Segmenter.load(spec.bundle, threads=spec.threads)
    networks = load(spec)
    manifest = Bundle.open(spec.bundle).manifest
    engines = {stage.name: [networks[name] for name in stage.networks] for stage in manifest.stages}
    return Segmenter(manifest, engines, threads=spec.threads)


def _openvino(spec: Spec) -> Mapping[str, Network]:
    from lowres_seg.runtime.engine import OpenVinoEngine

    return {
        name: OpenVinoEngine(
            Path(xml), threads=spec.threads, inference_precision="bf16" if spec.precisions[name] == "bf16" else "f32"
        )
        for name, xml in spec.xml.items()
    }


def _openvino_plain(spec: Spec) -> Mapping[str, Network]:
    """The ONNX graphs as OpenVINO itself reads them: what one has of it without `export`'s rewrites."""
    from lowres_seg.runtime.engine import OpenVinoEngine

    return {
        name: OpenVinoEngine(Path(path), threads=spec.threads, inference_precision="f32")
        for name, path in spec.onnx.items()
    }


def _onnxruntime(spec: Spec) -> Mapping[str, Network]:
    from lowres_seg.export.frameworks.onnx_graph import OrtNetwork

    return {name: OrtNetwork(Path(path), threads=spec.threads) for name, path in spec.onnx.items()}


def _torch(spec: Spec) -> Mapping[str, Network]:
    from lowres_seg.export import sources
    from lowres_seg.export.frameworks import torch_network
    from lowres_seg.export.loading import load_network

    torch_network.set_threads(spec.threads)
    source = sources.of_bundle(Path(spec.recipe), list(spec.weights))
    networks = {}
    for name, file in spec.weights.items():
        # The file that the bundle was exported from, which need not be the one that the recipe names.
        entry, weights = source.recipe.networks[name], Path(file)
        if torch_network.kind_of(weights) == "torchscript":
            networks[name] = torch_network.load_torchscript(weights)
        else:
            networks[name] = load_network(entry, weights, source.home)
    if (norms := Path(spec.bundle) / torch_network.NORMS_NAME).is_file():
        arrays = torch_network.checkpoint(norms)
        for name, network in networks.items():
            mine = {key.partition("/")[2]: a for key, a in arrays.items() if key.startswith(f"{name}/")}
            network.adopt(mine)
    if spec.backend == "torch-compile":
        return {name: network.compiled() for name, network in networks.items()}
    return networks

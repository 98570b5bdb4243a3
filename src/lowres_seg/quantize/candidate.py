"""Candidates: a bundle's networks in another precision, ready to segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import host
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Manifest
from lowres_seg.errors import QuantizationError
from lowres_seg.quantize import int8
from lowres_seg.quantize.int8 import Preset
from lowres_seg.runtime.segmenter import Segmenter, compile_networks
from lowres_seg.volumes.volume import Volume

Array = NDArray[np.float32]
Scan = Mapping[str, Volume]
#: What a network is calibrated on at the most: more change ranges little and cost memory and time.
MAX_INPUTS = 8


class Int8:
    """Every network in INT8, apart from the layers that are reverted.

    Parameters
    ----------
    bundle : Bundle
        In fp32.
    inputs : mapping of str to sequence of (1, C, D, H, W) ndarray
        What the runtime feeds each network for the calibration scans.
    preset, max_ram_bytes
        As for `int8.quantize_network`.
    """

    def __init__(
        self, bundle: Bundle, inputs: Mapping[str, Sequence[Array]], preset: Preset, max_ram_bytes: int
    ) -> None:
        self._bundle = bundle
        self._inputs = inputs
        self._preset: Preset = preset
        self._max_ram_bytes = max_ram_bytes
        self._models: dict[str, dict[tuple[str, ...], Any]] = {}

    def model(self, network: str, reverted: Sequence[str] = ()) -> Any:
        """One network; plain INT8 and the last candidate of each are kept."""
        names = tuple(sorted(reverted))
        kept = self._models.setdefault(network, {})
        if names not in kept:
            for other in [other for other in kept if other]:
                del kept[other]
            kept[names] = int8.quantize_network(
                self._bundle.file(self._bundle.network(network).xml),
                self._inputs[network],
                preset=self._preset,
                reverted=names,
                max_ram_bytes=self._max_ram_bytes,
            )
        return kept[names]

    def write(self, folder: Path, reverted: Sequence[str]) -> Manifest:
        """Write the networks below `folder`; return a manifest to run them with."""
        (folder / "networks").mkdir(parents=True, exist_ok=True)
        old = self._bundle.manifest
        for name, network in old.networks.items():
            model = self.model(name, [r.partition("/")[2] for r in reverted if r.partition("/")[0] == name])
            int8.save(model, folder / network.xml)
        networks = {
            name: network.model_copy(update={"precision": "int8", "onnx": None})
            for name, network in old.networks.items()
        }
        return old.model_copy(update={"networks": networks})


def in_bf16(bundle: Bundle, folder: Path) -> Manifest:
    """Write a bundle's networks below `folder` unchanged; the manifest says that they are computed in bf16."""
    for network in bundle.manifest.networks.values():
        for name in (network.xml, network.bin):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(bundle.file(name).read_bytes())
    stages = tuple(s.model_copy(update={"inference_precision": "bf16"}) for s in bundle.manifest.stages)
    networks = {n: network.model_copy(update={"onnx": None}) for n, network in bundle.manifest.networks.items()}
    return bundle.manifest.model_copy(update={"stages": stages, "networks": networks})


def segmenter(manifest: Manifest, folder: Path, *, lean: bool = True) -> Segmenter:
    """The runtime on networks in `folder`."""
    threads = host.inspect().threads
    return Segmenter(manifest, compile_networks(manifest, folder, threads=threads, lean=lean), threads=threads)


def prepared_inputs(bundle: Bundle, scans: Sequence[Scan]) -> dict[str, list[Array]]:
    """What the runtime feeds each network for some scans; of many windows, some from all over.

    The one with most contrast comes first.

    Raises
    ------
    QuantizationError
        If a network sees nothing of them.
    """
    manifest = bundle.manifest
    collected: dict[str, list[Array]] = {name: [] for name in manifest.networks}
    runtime = segmenter(manifest, bundle.path)
    for scan in scans:
        _, recorders = runtime.recorded(scan, most=max(1, MAX_INPUTS // len(scans)))
        for stage in manifest.stages:
            for name, recorder in zip(stage.networks, recorders[stage.name], strict=True):
                collected[name] += recorder.inputs
    empty = [name for name, arrays in collected.items() if not arrays]
    if empty:
        raise QuantizationError(
            f"network {empty[0]} saw nothing of the calibration scans: "
            "the stage before it found no foreground; use others"
        )
    for arrays in collected.values():
        arrays.sort(key=lambda x: -float(x.std()))
    return collected

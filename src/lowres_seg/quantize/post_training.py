"""Plain post-training quantization: calibrated, not judged. This is the home of NNCF.

The inputs that a network is calibrated on are those that the runtime itself prepares for it. Nothing here
looks at accuracy: that is for whoever uses the bundle to measure.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg import bundle as bundles
from lowres_seg import host, reference
from lowres_seg.bundle import Bundle
from lowres_seg.engine import Recorder
from lowres_seg.errors import InputError, QuantizationError
from lowres_seg.manifest import MANIFEST_NAME, Manifest
from lowres_seg.segmenter import Scan, Segmenter, compile_networks

# After lowres_seg.engine, which keeps OpenVINO's and NNCF's usage events out.
import nncf  # isort: skip
import openvino  # isort: skip

Notify = Callable[[str], None]
#: INT8 sums are exact, but CPUs without VNNI saturate and the f32 operators between differ.
_MAX_ABS_DIFF, _MAX_FLIPPED = 0.25, 0.01


def quantize(
    source: Path,
    target: Path,
    calibration: Sequence[Scan | Mapping[str, Scan]],
    *,
    force: bool = False,
    notify: Notify = lambda _: None,
) -> Bundle:
    """Quantize every network of a bundle to INT8.

    Parameters
    ----------
    source : pathlib.Path
        An fp32 bundle.
    target : pathlib.Path
        The bundle to write.
    calibration : sequence of scans, or of mappings of channel to scan
        What activations are measured on; no labels are needed.
    force : bool
        Replace `target` if it exists.
    notify : callable
        Called with a line of text as each step begins.

    Raises
    ------
    InputError
        If there is nothing to calibrate on, or a scan or `target` is unusable.
    QuantizationError
        If the bundle is INT8 already, a stage finds nothing to look at, or NNCF fails.
    BundleError
        If `source` is no bundle.
    """
    began = perf_counter()
    bundle = Bundle.open(source)
    already = [name for name, network in bundle.manifest.networks.items() if network.precision != "fp32"]
    if already:
        raise QuantizationError(
            f"{source}: network {already[0]} is INT8 already; quantize the fp32 bundle it was made from"
        )
    if not calibration:
        raise InputError("no scan to calibrate on; name at least one")
    with bundles.staged(target, force=force) as folder:
        notify(f"preparing {len(calibration)} calibration scan(s)")
        inputs = _inputs(bundle, calibration)
        (folder / "networks").mkdir()
        layers = {}
        for name in bundle.manifest.networks:
            notify(f"quantizing {name}")
            layers[name] = _quantize_network(bundle, name, inputs[name], folder)
        manifest = _manifest(bundle, folder)
        notify("recording the reference case")
        engines = compile_networks(manifest, folder, threads=host.inspect().threads)
        case = reference.read(bundle.file(manifest.reference.file), manifest.channels)
        Segmenter(manifest, engines).record_reference(case.scan, folder / manifest.reference.file)
        (folder / "reports").mkdir()
        shutil.copyfile(bundle.file("reports/export.json"), folder / "reports" / "export.json")
        report = {
            "method": "post-training quantization, not accuracy-aware",
            "calibration_scans": len(calibration),
            "operators": layers,
            "tools": {"nncf": nncf.__version__, "openvino": str(openvino.__version__)},
            "seconds": round(perf_counter() - began, 2),
        }
        (folder / "reports" / "quantize.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (folder / MANIFEST_NAME).write_text(_manifest(bundle, folder).to_json(), encoding="utf-8")
    return Bundle.open(target)


def _inputs(bundle: Bundle, calibration: Sequence[Scan | Mapping[str, Scan]]) -> dict[str, list[NDArray[np.float32]]]:
    """What the runtime feeds each network for the calibration scans."""
    manifest = bundle.manifest
    collected: dict[str, list[NDArray[np.float32]]] = {name: [] for name in manifest.networks}
    engines = compile_networks(manifest, bundle.path, threads=host.inspect().threads)
    recorders = {name: [Recorder(engine) for engine in group] for name, group in engines.items()}
    segmenter = Segmenter(manifest, recorders)
    for scan in calibration:
        segmenter.predict(scan)
        for stage in manifest.stages:
            for name, recorder in zip(stage.networks, recorders[stage.name], strict=True):
                collected[name] += recorder.inputs
                recorder.inputs.clear()
                recorder.outputs.clear()
    empty = [name for name, arrays in collected.items() if not arrays]
    if empty:
        raise QuantizationError(
            f"network {empty[0]} saw nothing of the calibration scans: "
            "the stage before it found no foreground; use others"
        )
    return collected


def _quantize_network(bundle: Bundle, name: str, inputs: list[NDArray[np.float32]], folder: Path) -> dict[str, int]:
    """Write the INT8 network; return how many operators of each kind read quantized input."""
    network = bundle.network(name)
    try:
        model = openvino.Core().read_model(bundle.file(network.xml))
        with _quiet():
            quantized: Any = nncf.quantize(
                model, nncf.Dataset(inputs), subset_size=len(inputs), target_device=nncf.TargetDevice.CPU
            )
    except (RuntimeError, ValueError, nncf.InternalError, nncf.ValidationError) as error:
        raise QuantizationError(
            f"network {name}: NNCF cannot quantize it ({' '.join(str(error).split())[:300]})"
        ) from error
    openvino.save_model(quantized, folder / network.xml, compress_to_fp16=False)
    counts: dict[str, int] = {}
    for node in quantized.get_ops():
        kinds = [node.input_value(i).get_node().get_type_name() for i in range(node.get_input_size())]
        if "FakeQuantize" in kinds and node.get_type_name() != "FakeQuantize":
            counts[node.get_type_name()] = counts.get(node.get_type_name(), 0) + 1
    return dict(sorted(counts.items()))


def _manifest(bundle: Bundle, folder: Path) -> Manifest:
    old = bundle.manifest
    files = bundles.digests(folder)
    # Before it is written, the reference case needs a manifest to be made with.
    files.setdefault(old.reference.file, "0" * 64)
    content = old.model_dump()
    for network in content["networks"].values():
        network.update(precision="int8", onnx=None)
    content["files"] = files
    content["reference"] |= {"max_abs_diff": _MAX_ABS_DIFF, "max_flipped": _MAX_FLIPPED}
    content["lineage"] |= {"parent": bundle.digest, "tools": old.lineage.tools | {"nncf": nncf.__version__}}
    return Manifest.model_validate(content)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's notes and bars off the user's screen; the command that runs this has its own."""
    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        nncf.set_log_level(level or logging.INFO)

"""Tasks of a child process beside measuring: prepare inputs, quantize, judge a case, find the peak of this CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lowres_seg.bench.backends import Quantizing, backend
from lowres_seg.bench.spec import Spec
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.cases import Case, left_out
from lowres_seg.errors import InputError
from lowres_seg.metrics import agreement
from lowres_seg.runtime import probe, reference
from lowres_seg.runtime.openvino_engine import macs, read_graph
from lowres_seg.runtime.segmenter import Segmenter
from lowres_seg.volumes.volume import Volume


def prepare(spec: Spec) -> dict[str, Any]:
    """Segment the scan once, and write the inputs of each network; and the scan, if it is the reference case."""
    bundle = Bundle.open(spec.bundle)
    folder = Path(spec.folder)
    scan = {channel: Volume.load(path) for channel, path in spec.scan.items()}
    paths = dict(spec.scan)
    if not scan:
        scan = dict(reference.read(bundle).scan)
        for channel, volume in scan.items():
            paths[channel] = str(folder / f"{channel}.nii.gz")
            volume.save(Path(paths[channel]))
    segmenter = Segmenter.load(bundle, threads=spec.threads)
    start = perf_counter()
    _, recorders = segmenter.recorded(scan)
    once_s = perf_counter() - start
    feeds: list[dict[str, str]] = []
    for stage in bundle.manifest.stages:
        for name, recorder in zip(stage.networks, recorders[stage.name], strict=True):
            for x in recorder.inputs:
                file = folder / f"{len(feeds)}.npy"
                np.save(file, x)
                # Each member of an ensemble is a step of its own.
                step = f"{stage.name}.network" if len(stage.networks) == 1 else f"{stage.name}.network.{name}"
                feeds.append({"step": step, "network": name, "file": str(file)})
    unused = [name for name in bundle.manifest.networks if name not in {feed["network"] for feed in feeds}]
    if unused:
        raise InputError(
            f"network {unused[0]} of {spec.bundle} sees nothing of the scan: the stage before it finds no foreground; "
            "name another scan"
        )
    work = {name: macs(read_graph(files)) for name, files in bundle.network_files().items()}
    return {"feeds": feeds, "scan": paths, "macs": sum(work[feed["network"]] for feed in feeds), "once_s": once_s}


def quantize(spec: Spec) -> dict[str, Any]:
    """Let the backend quantize the networks of the bundle."""
    served_by = backend(spec.backend)
    assert isinstance(served_by, Quantizing)  # noqa: S101 - the parent asks no other
    return {"networks": served_by.quantize(spec)}


def judge(spec: Spec) -> dict[str, Any]:
    """Dice and HD95 of each region of one case, and pictures of it; of a bundle that classifies each class's value."""
    manifest = Bundle.open(spec.bundle).manifest
    label = spec.case["label"]
    case = Case(spec.case["id"], {c: Path(p) for c, p in spec.scan.items()}, None if label is None else Path(label))
    scan = case.load()
    if not manifest.labels:
        result = backend(spec.backend).segmenter(spec).predict(scan)
        missing = [name for name in manifest.numbers if name not in result.numbers]
        if missing:
            raise InputError(f"it has no value for class {missing[0]} ({'; '.join(result.doubts)}); leave it out")
        return {"numbers": result.numbers}
    first = next(iter(scan.values()))
    truth = case.load_label(manifest.known_labels, first, ignore=spec.case["ignore"])
    assert truth is not None  # noqa: S101 - the parent has checked that every case has a label
    found = backend(spec.backend).segmenter(spec).predict(scan).labels.data
    unjudged = left_out(manifest.known_labels)
    scores = agreement.score(
        found,
        truth,
        manifest.evaluated,
        first.grid.spacing_mm,
        spec.case["hd95"],
        left_out=unjudged,
        threads=spec.threads,
    )
    drawn: dict[str, str] = {}
    if spec.case["pictures"]:
        from lowres_seg.bench.html.pictures import three_planes

        drawn = three_planes(first, found, truth * (truth != unjudged))
    return {"scores": {name: list(score) for name, score in scores.items()}, "pictures": drawn}


def peak(spec: Spec) -> dict[str, Any]:
    """Multiply-accumulates a second of the fastest of some convolutions, by precision."""
    best: dict[str, float] = {}
    for channels, size in ((64, 32), (128, 16)):
        work = probe.convolution_macs(channels, size)
        for name, seconds in probe.convolution_seconds(threads=spec.threads, channels=channels, size=size).items():
            best[name] = max(best.get(name, 0.0), work / seconds)
    return {"macs_per_s": best}


#: Each task by its name in a spec.
TASKS: dict[str, Callable[[Spec], dict[str, Any]]] = {
    "prepare": prepare,
    "quantize": quantize,
    "judge": judge,
    "peak": peak,
}

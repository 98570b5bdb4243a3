"""What a run leaves in its bundle: the report, and a manifest that says what was done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowres_seg import host
from lowres_seg.bundle import bundle as bundles
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.bundle.manifest import Manifest
from lowres_seg.quantize import int8
from lowres_seg.quantize.int8 import Layer
from lowres_seg.quantize.search import Found
from lowres_seg.quantize.settings import Precision, Settings

REPORT, TABLE = "reports/quantize.json", "reports/quantize.txt"
#: Time, memory and latency: not in the manifest, so not in the bundle's digest.
RUN = "reports/run.json"
#: Bounds of the reference case, of scores and of the share of voxels that may flip. INT8 sums are exact, but CPUs
#: without VNNI saturate, and the other operators differ as they do in f32.
_BOUNDS: dict[Precision, tuple[float, float]] = {"int8": (0.25, 0.01), "bf16": (0.1, 0.005)}


def of_run(
    settings: Settings,
    found: Found,
    layers: Mapping[str, Sequence[Layer]],
    norms: Mapping[str, Sequence[str]],
    prints: Mapping[str, str],
    *,
    judged: bool,
) -> dict[str, Any]:
    """Everything that was decided, and on what: the same for the same run on the same CPU."""
    reverted = set(found.best.reverted) if found.best is not None else set()
    return {
        "precision": settings.precision,
        "judged": judged,
        "limits": asdict(settings.limits),
        "preset": settings.preset,
        "seed": settings.seed,
        "instruction_sets": {"cpu": list(host.inspect().features), "limited_to": os.environ.get("ONEDNN_MAX_CPU_ISA")},
        "cases": dict(prints),
        "result": None if found.best is None else found.best.verdict.as_dict(),
        "attempts": [
            {"reverted": list(a.reverted), "labels": a.verdict.labels(), "breaches": a.verdict.breaches()}
            for a in found.attempts
        ],
        "out_of_time": found.out_of_time,
        "layers": [
            {
                "network": network,
                "layer": layer.name,
                "type": layer.type,
                "precision": "fp32" if f"{network}/{layer.name}" in reverted else "int8",
                "why": "reverted, it costs most for what it saves"
                if f"{network}/{layer.name}" in reverted
                else "within the limits"
                if judged
                else "not judged",
            }
            for network, group in layers.items()
            for layer in group
        ]
        + [
            {"network": network, "layer": name, "type": "norm", "precision": "fp32", "why": "norms compute in f32"}
            for network, names in norms.items()
            for name in names
        ],
        "tools": int8.versions(),
    }


def manifest(parent: Bundle, new: Manifest, folder: Path, precision: Precision) -> Manifest:
    """Manifest of what lies in `folder`."""
    content = new.model_dump()
    content["files"] = bundles.digests(folder)
    scores, flips = _BOUNDS[precision]
    content["reference"] |= {"max_abs_diff": scores, "max_flipped": flips}
    content["lineage"] |= {"parent": parent.digest, "tools": parent.manifest.lineage.tools | int8.versions()}
    return Manifest.model_validate(content)

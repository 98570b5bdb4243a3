"""The report of a quantization, and the manifest of its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lowres_seg import host
from lowres_seg.bundle.bundle import Bundle, digests
from lowres_seg.bundle.manifest import Manifest, Reference
from lowres_seg.bundle.reports import QUANTIZE_REPORT
from lowres_seg.quantize.candidate import Candidate, LayerReport, WrittenNetworks
from lowres_seg.quantize.class_gate import ClassLimits
from lowres_seg.quantize.gate import Limits
from lowres_seg.quantize.layer import as_text
from lowres_seg.quantize.search import SearchResult
from lowres_seg.quantize.settings import Settings

REPORT, TABLE = QUANTIZE_REPORT, "reports/quantize.txt"


def content(
    settings: Settings,
    limits: Limits | ClassLimits,
    result: SearchResult,
    layers: Sequence[LayerReport],
    prints: Mapping[str, str],
    tools: Mapping[str, str],
    *,
    judged: bool,
) -> dict[str, Any]:
    """Every decision and its reasons: the same for the same run on the same CPU."""
    reverted = set(result.best.reverted) if result.best is not None else set()
    return {
        "precision": settings.precision,
        "judged": judged,
        "limits": asdict(limits),
        "preset": settings.preset,
        "seed": settings.seed,
        **({"ignore_labels": settings.ignore_labels} if settings.ignore_labels else {}),
        "instruction_sets": {"cpu": list(host.inspect().features), "limited_to": host.instruction_set_limit()},
        "cases": dict(prints),
        "result": None if result.best is None else result.best.verdict.as_dict(),
        "attempts": [{"reverted": as_text(a.reverted), **a.verdict.summary()} for a in result.attempts],
        "out_of_time": result.out_of_time,
        "layers": [
            {
                "network": layer.layer.network,
                "layer": layer.layer.operator,
                "type": layer.type,
                "precision": "fp32" if layer.layer in reverted else layer.precision,
                "why": _why(layer, reverted=layer.layer in reverted, judged=judged),
            }
            for layer in layers
        ],
        "tools": dict(tools),
    }


def _why(layer: LayerReport, *, reverted: bool, judged: bool) -> str:
    if reverted:
        return "reverted: it costs most agreement for the time that it saves"
    return layer.why or ("within the limits" if judged else "not judged")


def manifest(
    parent: Bundle, written: WrittenNetworks, candidate: Candidate, bound: Reference, folder: Path
) -> Manifest:
    """Manifest of the files in `folder`, with a bound of the reference case."""
    old = parent.manifest
    tools = old.lineage.tools | candidate.tools()
    changes = {
        **written.pipeline.model_dump(),
        "networks": {name: network.model_dump() for name, network in written.networks.items()},
        "reference": bound.model_dump(),
        "lineage": old.lineage.model_dump() | {"parent": parent.digest, "tools": tools},
        "files": digests(folder),
    }
    return Manifest.model_validate(old.model_dump() | changes)

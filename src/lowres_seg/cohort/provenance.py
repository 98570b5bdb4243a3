"""The provenance of a run: what ran, on what, with what, and what came out, so that an auditor can trace a mask.

Two runs of one bundle on the same scans, with the same machine, versions, threads and options, give the same provenance
but for ``created`` and ``timings``. Whether networks were taken from the cache of compiled ones differs between a first
run and a second, so it stands in ``timings``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lowres_seg import atomic, host
from lowres_seg.bundle.bundle import Bundle
from lowres_seg.cohort.anonymous import without_paths
from lowres_seg.cohort.jobs import Outcome
from lowres_seg.runtime import openvino_engine

#: Version of the format.
FORMAT = 1


def written(
    bundle: Bundle,
    outcomes: Sequence[Outcome],
    *,
    threads: int,
    networks_from_cache: bool,
    options: Mapping[str, Any],
    tool: str,
    anonymous: bool = False,
    brain: Bundle | None = None,
) -> dict[str, Any]:
    """Provenance of a run.

    Parameters
    ----------
    bundle : Bundle
    outcomes : sequence of Outcome
        Of `run_jobs` with `digests`.
    threads : int
        Threads that the run computed with. Each case has its own number: an earlier run may have done it.
    networks_from_cache : bool
        Whether this run took networks from the cache of compiled networks.
    options : mapping of str to value
        What else the user chose.
    tool : str
        Version of this tool.
    anonymous : bool
        Leave out the paths of scans and bundle, and the name of the machine.
    brain : Bundle, optional
        That of the brain mask.
    """
    machine = host.inspect()
    manifest = bundle.manifest
    return {
        "provenance": FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **({} if anonymous else {"host": platform.node()}),
        "bundle": _named(bundle, anonymous=anonymous),
        **({} if brain is None else {"brain_mask": _named(brain, anonymous=anonymous)}),
        "versions": {
            "lowres-seg": tool,
            "openvino": openvino_engine.version(),
            **{name: version(name) for name in ("numpy", "nibabel")},
            "python": machine.python,
        },
        "machine": {
            "cpu": machine.cpu,
            "system": machine.system,
            "instruction_sets": list(machine.features),
            "instruction_set_limit": host.instruction_set_limit(),
        },
        "threads": threads,
        "precision": {
            stage.name: {
                "inference": stage.inference_precision,
                "networks": {name: manifest.networks[name].precision for name in stage.networks},
            }
            for stage in manifest.stages
        },
        "options": dict(options),
        "cases": [_case(number, outcome, anonymous=anonymous) for number, outcome in enumerate(outcomes, start=1)],
        "timings": [
            {**outcome.timings_s, **({} if outcome.skipped else {"networks_from_cache": networks_from_cache})}
            for outcome in outcomes
        ],
    }


def write(path: Path, content: Mapping[str, Any], *, force: bool) -> None:
    """Write a provenance as JSON. The file appears whole or not at all.

    Raises
    ------
    InputError
        If it exists and not `force`, or cannot be written.
    """
    with atomic.file(path, force=force) as staged:
        staged.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_provenance(path: Path) -> bool:
    """Tell whether a file is a provenance that `write` wrote."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(_BEGIN)) == _BEGIN
    except OSError:
        return False


def _named(bundle: Bundle, *, anonymous: bool) -> dict[str, Any]:
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "digest": bundle.digest,
        "signed_by": bundle.signed_by,
        **({} if anonymous else {"path": str(bundle.path)}),
    }


_BEGIN = b'{\n  "provenance": '


def _case(number: int, outcome: Outcome, *, anonymous: bool) -> dict[str, Any]:
    job = outcome.job

    def told(text: str) -> str:
        return without_paths(text, job) if anonymous else text

    return {
        "case": number,
        **({} if anonymous else {"scan": {channel: str(path) for channel, path in job.scan.items()}}),
        "outcome": outcome.status,
        "threads": outcome.threads,
        "error": None if outcome.error is None else told(str(outcome.error)),
        "inputs": outcome.inputs,
        "outputs": outcome.outputs,
        "voxels": outcome.voxels,
        "volumes_ml": outcome.volumes_ml,
        "numbers": outcome.numbers,
        "doubts": [
            {"name": name, "text": told(text)} for name, text in zip(outcome.doubt_names, outcome.doubts, strict=True)
        ],
    }

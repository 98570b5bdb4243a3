"""Export, quantize, segment, compare: the commands in the order in which a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowres_seg.bundle.rules import FillHoles
from lowres_seg.cohort.cases import Case
from lowres_seg.demo.assets import Assets, fetch
from lowres_seg.errors import LowresSegError
from lowres_seg.export import export
from lowres_seg.metrics.agreement import dice, hd95_mm
from lowres_seg.quantize import quantize
from lowres_seg.runtime.cleanup import fill_holes
from lowres_seg.volumes.volume import Volume

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """Measurements of one bundle on the scan, which a process of its own segmented."""

    bundle: str
    dice: float
    hd95_mm: float
    dice_with_fp32: float
    timings_s: dict[str, float]
    wall_s: float
    peak_rss_bytes: int
    bundle_bytes: int


@dataclass(frozen=True)
class Tour:
    """Measurements of the demo, and the paths of its files."""

    rows: tuple[Row, ...]
    files: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def run(output: Path, *, threads: int | None = None, notify: Notify = lambda _: None) -> Tour:
    """Do the main job on the template head.

    Parameters
    ----------
    output : pathlib.Path
        Folder for bundles and masks; made if missing. What an earlier run left there is replaced.
    threads : int, optional
        Threads to segment with.
    notify : callable
        Called with a line of text as each step begins.

    Raises
    ------
    InputError
        If the downloads fail.
    LowresSegError
        If any step fails.
    """
    notify("weights and a head: taken from the cache, or downloaded once (26 MB)")
    assets = fetch()
    output.mkdir(parents=True, exist_ok=True)
    fp32, int8 = output / "deepbet-1.0.2-fp32", output / "deepbet-1.0.2-int8"
    export(
        assets.recipe,
        fp32,
        weights=assets.weights,
        volume=assets.head,
        force=True,
        notify=lambda s: notify(f"export: {s}"),
    )
    case = Case("template", {"t1": assets.head})
    quantize(fp32, int8, [case], None, force=True, notify=lambda s: notify(f"quantize: {s}"))
    rows: list[Row] = []
    files = {"scan": str(assets.head), "its brain mask": str(assets.mask)}
    reference = None
    for bundle in (fp32, int8):
        notify(f"segmenting with {bundle.name}")
        mask = output / f"{bundle.name}_mask.nii.gz"
        row, reference = _segment(bundle, assets, mask, reference, threads)
        rows.append(row)
        files[f"{bundle.name}"] = str(bundle)
        files[f"mask of {bundle.name}"] = str(mask)
    return Tour(tuple(rows), files)


def _without_cavities(mask: Volume) -> NDArray[np.bool_]:
    return fill_holes((mask.data > 0).astype(np.uint8), FillHoles()) > 0


def _segment(bundle: Path, assets: Assets, mask: Path, reference: Any, threads: int | None) -> tuple[Row, Any]:
    command = [
        sys.executable,
        "-m",
        "lowres_seg",
        "predict",
        str(bundle),
        str(assets.head),
        "-o",
        str(mask),
        "--force",
        "--json",
    ]
    if threads is not None:
        command += ["--threads", str(threads)]
    start = perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no input of others
    wall = perf_counter() - start
    if done.returncode:
        raise LowresSegError(f"{' '.join(command[2:5])} failed: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    found, truth = Volume.load(mask), Volume.load(assets.mask)
    reference = found.data > 0 if reference is None else reference
    row = Row(
        bundle=bundle.name,
        dice=dice(found.data > 0, truth.data > 0),
        # The template's mask has cavities inside the brain, whose walls no brain extraction has a surface near.
        hd95_mm=hd95_mm(found.data > 0, _without_cavities(truth), truth.grid.spacing_mm),
        dice_with_fp32=dice(found.data > 0, reference),
        timings_s=result["cases"][0]["timings_s"],
        wall_s=wall,
        peak_rss_bytes=result["peak_rss_bytes"],
        bundle_bytes=sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()),
    )
    return row, reference

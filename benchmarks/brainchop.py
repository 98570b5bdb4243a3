"""Networks of brainchop on a real head: masks of their bundles against those of their own frameworks.

    .venv-dev/bin/python benchmarks/brainchop.py [--work FOLDER] [--side VOXELS] [NAME ...]

Exports each recipe with the published weights, segments a conformed head, and compares the mask, voxel by voxel, with
that of torch or of ONNX Runtime on the array of the file itself, which this script turns and scales by its own numpy.
Needs lowres-seg[export], the weights and the head (LOWRES_SEG_REALDATA, or ../shared/realdata beside the checkout), and
16 GB of memory. A network takes some minutes on 2 cores, the one of 50 regions half an hour. With --side all is done in
a cube about the centre of the head, which the ONNX file does not take.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from lowres_seg.export.frameworks.checkpoints import checkpoint

CHECKOUT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LOWRES_SEG_REALDATA", CHECKOUT.parent / "shared" / "realdata"))
HEAD = DATA / "heads" / "T1_256_conformed.nii.gz"
Array = NDArray[np.float32]
#: Recipe: folder of the weights, order of the LIA array's axes, and percentiles that become 0 and 1.
NETWORKS = {
    "meshnet_gwm": ("meshnet_gwm_onnx", (0, 1, 2), (0, 100)),
    "sae_robust_tissue": ("sae_robust_tissue", (2, 1, 0), (2, 98)),
    "meshnet_50": ("meshnet_50", (0, 1, 2), (2, 98)),
}
COMMAND = (sys.executable, "-m", "lowres_seg")


def main() -> None:
    """Export, segment, compare; print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lowres-seg-brainchop")
    parser.add_argument("--side", type=int, default=256, help="voxels of a side, a multiple of 32")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = [
        "| network | route | equal voxels | voxels that differ | labels found | export | predict |",
        "|---" * 8 + "|",
    ]
    for name in given.names:
        rows.append(row(name, given.work, given.side))
        print(rows[-1], flush=True)
    print("\n".join(rows))


def row(name: str, work: Path, side: int) -> str:
    """Export and segment with one recipe, and compare with its source."""
    folder, axes, percentiles = NETWORKS[name]
    bundle, mask = work / name, work / f"{name}.nii.gz"
    weights = DATA / "networks" / folder
    recipe = work / "recipes" / name
    shutil.copytree(CHECKOUT / "export" / name, recipe, dirs_exist_ok=True)
    text = (recipe / "recipe.toml").read_text(encoding="utf-8").replace("256, 256, 256", f"{side}, {side}, {side}")
    (recipe / "recipe.toml").write_text(text, encoding="utf-8")
    exporting = timed("export", recipe / "recipe.toml", "--weights", weights, "-o", bundle, "--force", "-q")
    predicting = timed("predict", bundle, HEAD, "-o", mask, "--force", "-q")
    part = (slice((256 - side) // 2, (256 + side) // 2),) * 3
    found = np.asarray(nib.load(mask).dataobj)[part]
    expected = by_source(recipe, weights, part, axes, percentiles)
    differ = int(np.count_nonzero(found != expected))
    route = {one["route"] for one in json.loads((bundle / "reports" / "export.json").read_text())["networks"].values()}
    labels = len(np.unique(expected)) - 1
    return (
        f"| {name} | {side} | {', '.join(route)} | {1 - differ / found.size:.6f} | {differ} | {labels} | "
        f"{exporting:.0f} s | {predicting:.0f} s |"
    )


def by_source(
    recipe: Path, weights: Path, part: tuple[slice, ...], axes: tuple[int, int, int], percentiles: tuple[int, int]
) -> NDArray[np.integer]:
    """Labels of a part of the head, in the order of its file, by the framework of the network."""
    head = nib.load(HEAD)
    if nib.aff2axcodes(head.affine) != ("L", "I", "A") or head.shape != (256, 256, 256):
        raise SystemExit(f"{HEAD}: expected 256³ in LIA")
    values = np.asarray(head.dataobj, dtype=np.float32)[part]
    low, high = np.percentile(values, percentiles)
    x = np.clip((values - low) / (high - low), 0, 1).transpose(axes).astype(np.float32)[None, None]
    scores = of(recipe, weights)(np.ascontiguousarray(x))
    return scores[0].argmax(0).transpose(np.argsort(axes))


def of(recipe: Path, weights: Path) -> Callable[[Array], Array]:
    """The network in its own framework."""
    if (weights / "model.onnx").is_file():
        session = onnxruntime.InferenceSession(weights / "model.onnx")
        return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]
    spec = importlib.util.spec_from_file_location("network", recipe / "network.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.build().eval()
    network.load_state_dict({name: torch.as_tensor(value) for name, value in checkpoint(weights / "model.pth").items()})

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return run


def timed(*words: object) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run([*COMMAND, *map(str, words)], check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""Dice and HD95 against MedPy, MONAI and surface-distance: the same numbers, and how long each takes.

    .venv-dev/bin/python benchmarks/hd95_speed.py [--rounds 3]

Whole masks of brains and tumors, in turn, on one thread each, each package under its own definition. Needs
lowres-seg[all,oracle] and the real heads and masks (LOWRES_SEG_REALDATA, or ../shared/realdata beside the checkout).
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import nibabel as nib
import numpy as np
import torch
from medpy.metric import binary
from scipy import ndimage

from lowres_seg.demo import fetch
from lowres_seg.metrics.agreement import dice, hd95_mm, hd95s_mm

REALDATA = Path(os.environ.get("LOWRES_SEG_REALDATA", Path(__file__).parents[2] / "shared" / "realdata"))
PAIRS = {
    "BraTS-MET-00132-000-seg": "00132-000",
    "BraTS-MET-00217-000-seg": "SEG-00217-000",
    "BraTS-MET-00630-001-seg": "BraTS-MET-00630-001",
    "BraTS-MET-01325-000-seg": "BraTS-MET_01325-000",
}
Mask = np.ndarray
Spacing = tuple[float, float, float]


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    others = packages()
    for name, (a, b, spacing) in masks().items():
        mine = hd95s_mm(a, b, spacing)
        worst = max(
            abs(mine[package] - run(a, b, spacing)[1]) / max(mine[package], 1e-9) for package, run in others.items()
        )
        seconds: dict[str, list[float]] = {}
        contestants: dict[str, Callable[[Mask, Mask, Spacing], object]] = {"lowres-seg": ours, "all five": all_five}
        for turn in range(rounds + 1):
            for package, run in (contestants | others).items():
                start = perf_counter()
                run(a, b, spacing)
                if turn:
                    seconds.setdefault(package, []).append(perf_counter() - start)
        middle = {package: statistics.median(values) for package, values in seconds.items()}
        fastest = min(middle[package] for package in others)
        times = ", ".join(f"{package} {1000 * s:.0f} ms" for package, s in middle.items())
        print(f"{name}: largest relative difference {worst:.1e}; {times}; ", end="")
        print(f"{fastest / middle['lowres-seg']:.1f} times as fast as the fastest of the others", flush=True)


def ours(a: Mask, b: Mask, spacing: Spacing) -> tuple[float, float]:
    """Dice and the default HD95."""
    return dice(a, b), hd95_mm(a, b, spacing)


def all_five(a: Mask, b: Mask, spacing: Spacing) -> object:
    """Dice, and HD95 under every definition."""
    return dice(a, b), hd95s_mm(a, b, spacing)


def packages() -> dict[str, Callable[[Mask, Mask, Spacing], tuple[float, float]]]:
    """Dice and HD95 of each package."""
    # surface-distance 0.1 uses names that SciPy has moved since.
    ndimage.filters, ndimage.morphology = ndimage, ndimage
    import surface_distance
    from monai.metrics import compute_dice, compute_hausdorff_distance

    def monai(a: Mask, b: Mask, spacing: Spacing) -> tuple[float, float]:
        x, y = (torch.from_numpy(mask[None, None]) for mask in (a, b))
        found = compute_hausdorff_distance(x, y, include_background=True, percentile=95, spacing=spacing)
        return float(compute_dice(x, y, include_background=True)), float(found)

    def deepmind(a: Mask, b: Mask, spacing: Spacing) -> tuple[float, float]:
        distances = surface_distance.compute_surface_distances(a, b, spacing)
        overlap = surface_distance.compute_dice_coefficient(a, b)
        return float(overlap), float(surface_distance.compute_robust_hausdorff(distances, 95))

    def medpy(a: Mask, b: Mask, spacing: Spacing) -> tuple[float, float]:
        return float(binary.dc(a, b)), float(binary.hd95(a, b, spacing))

    return {"medpy": medpy, "monai": monai, "surface-distance": deepmind}


def masks() -> dict[str, tuple[Mask, Mask, Spacing]]:
    """Pairs of masks on one grid."""
    found = {}
    for name, other in PAIRS.items():
        image = nib.load(REALDATA / "metrics" / "ref" / f"{name}.nii.gz")
        second = nib.load(REALDATA / "metrics" / "pred" / f"{other}.nii.gz")
        a, b = (np.asanyarray(one.dataobj) > 0 for one in (image, second))
        found[f"{name}, whole tumor"] = (a, b, tuple(float(s) for s in image.header.get_zooms()[:3]))
    brain = np.asanyarray(nib.load(fetch().mask).dataobj) > 0
    found["template's brain, and that moved by 2 voxels"] = (brain, np.roll(brain, 2, axis=1), (1.0, 1.0, 1.0))
    return found


if __name__ == "__main__":
    main()

"""Made heads to try the commands with: scans with the contrast of a T1, and label maps of their brains.

    python made_heads.py [--heads 8]

It writes scans/head-1.nii.gz, labels/head-1.nii.gz and so on, at 4 mm. They have no anatomy, so a network that is
trained on them knows nothing of a person's head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

SHAPE, SPACING_MM = (48, 56, 52), 4.0


def made(number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw a head and its brain, of a size, place and contrast that follow from its number."""
    rng = np.random.default_rng(number)
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * SPACING_MM for n in SHAPE), indexing="ij")
    middle, scale = rng.uniform(-8, 8, 3), rng.uniform(0.85, 1.0, 3)

    def ellipsoid(half_mm: tuple[float, float, float], up_mm: float = 0) -> NDArray[np.bool_]:
        places = zip(axes, middle + np.array([0, 0, up_mm]), scale * half_mm, strict=True)
        inside: NDArray[np.bool_] = sum(((axis - at) / half) ** 2 for axis, at, half in places) <= 1
        return inside

    scan = np.zeros(SHAPE)
    brain = ellipsoid((62, 80, 62), 14)
    for part, value in (
        (ellipsoid((80, 100, 92)), 700.0),  # scalp
        (ellipsoid((72, 92, 84)), 120.0),  # skull
        (brain, 480.0),
        (ellipsoid((50, 68, 50), 14), 720.0),  # white matter
    ):
        scan[part] = value
    scan = scan * rng.uniform(0.7, 1.3) + rng.normal(0, 25, SHAPE)
    return scan.astype(np.float32), brain.astype(np.uint8)


def main() -> None:
    """Write as many heads as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=8)
    heads = parser.parse_args().heads
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1])
    for folder in ("scans", "labels"):
        Path(folder).mkdir(exist_ok=True)
    for number in range(1, heads + 1):
        for folder, data in zip(("scans", "labels"), made(number), strict=True):
            nibabel.save(nibabel.Nifti1Image(data, affine), Path(folder) / f"head-{number}.nii.gz")
    print(f"{heads} heads in scans/, their brains in labels/")


if __name__ == "__main__":
    main()

"""Synthetic heads: labels first, then images of them, from a seed.

The labels are those of the phantom of `lowres_seg.export.phantom`, deformed, with a tumor or with lesions. The images
have random intensities by tissue, whose order is that of the contrast; a bias field, blur and noise are added. That is
how SynthStrip and SynthSeg make what they train on. The heads have no anatomy: what a network scores on them says how
well it learned them, and nothing about patients.

    .venv-dev/bin/python benchmarks/heads.py tumors heads/

writes four heads with a tumor, and a table of cases beside them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lowres_seg import Volume
from lowres_seg.export import phantom

Shape = tuple[int, int, int]
Field = NDArray[np.float32]

CONTRASTS = ("t1", "t1c", "t2", "flair")
NECROSIS, EDEMA, ENHANCING = 1, 2, 4
#: Labels of the regions of BraTS.
REGIONS = {"wt": (NECROSIS, EDEMA, ENHANCING), "tc": (NECROSIS, ENHANCING), "et": (ENHANCING,)}
RATERS = 3
#: By how much of the tumor's radius each rater draws the border further out.
_GENEROSITY = (-0.08, 0.0, 0.08)

_SCALP, _SKULL, _CSF, _GREY, _WHITE, _LEFT, _RIGHT, _FOLDS = range(1, 9)
_TISSUE_OF = {_SCALP: "scalp", _SKULL: "skull", _CSF: "csf", _GREY: "grey", _WHITE: "white", _FOLDS: "grey"}
_TISSUE_OF |= {_LEFT: "csf", _RIGHT: "csf"}
#: Bounds of the intensity of each tissue.
_T1 = {
    "scalp": (0.90, 1.20),
    "skull": (0.05, 0.20),
    "csf": (0.15, 0.28),
    "grey": (0.56, 0.66),
    "white": (0.82, 0.95),
    "edema": (0.42, 0.52),
    "necrosis": (0.26, 0.36),
    "enhancing": (0.54, 0.64),
}
_INTENSITIES = {
    "t1": _T1,
    "t1c": {**_T1, "enhancing": (1.25, 1.60)},
    "t2": {
        "scalp": (0.60, 0.90),
        "skull": (0.05, 0.20),
        "csf": (1.15, 1.35),
        "grey": (0.60, 0.70),
        "white": (0.42, 0.50),
        "edema": (0.80, 0.92),
        "necrosis": (1.00, 1.14),
        "enhancing": (0.60, 0.74),
    },
    "flair": {
        "scalp": (0.60, 0.90),
        "skull": (0.05, 0.20),
        "csf": (0.10, 0.22),
        "grey": (0.60, 0.68),
        "white": (0.48, 0.56),
        "edema": (1.00, 1.20),
        "necrosis": (0.30, 0.44),
        "enhancing": (0.78, 0.92),
    },
}
#: How much brighter the core of a low grade is after contrast: not at all, or faintly.
_FAINT = (1.0, 1.25)
#: Mean of a scan of the data of SPiN, whose recipe takes intensities as they are.
_MEAN_OF_STROKES = 30.2
#: Share of the grid's half axes that the head takes.
_FILLED = 0.85


@dataclass(frozen=True)
class Head:
    """A head, RAS.

    Attributes
    ----------
    images : mapping of str to (I, J, K) ndarray of float32
        By contrast. Where the head is skull-stripped, 0 is outside of the brain and nowhere else.
    labels : (I, J, K) ndarray of uint8
        Those of BraTS; 1 for a lesion.
    annotators : (I, J, K) ndarray of uint8
        How many of `RATERS` mark the voxel.
    high_grade : bool
    """

    images: Mapping[str, Field]
    labels: NDArray[np.uint8]
    annotators: NDArray[np.uint8]
    high_grade: bool


def tumor(shape: Shape, seed: int, *, high_grade: bool) -> Head:
    """A skull-stripped head with one tumor, in the four contrasts.

    Parameters
    ----------
    shape : tuple of 3 int
        Voxels to the right, to the front and up. The head fills the grid.
    seed : int
    high_grade : bool
        True for a ring that enhances around necrosis. The core of a low grade does not enhance, or faintly.
    """
    rng = np.random.default_rng((0, seed))
    x, y, z = _points(rng, shape, _CSF)
    tissue = phantom.tissues(x, y, z)
    body = np.isin(tissue, (_GREY, _WHITE, _FOLDS))
    radius = rng.uniform(22, 36)
    distance = _distance(rng, (x, y, z), radius)
    core, necrosis = rng.uniform(0.55, 0.75), rng.uniform(0.4, 0.6)
    whole = body & (distance < 1)
    inner = whole & (distance * (1 + _irregular(rng, shape, 0.1)) < core)
    dead = inner & (distance * (1 + _irregular(rng, shape, 0.1)) < necrosis * core)
    labels = np.zeros(shape, np.uint8)
    labels[whole] = EDEMA
    labels[inner] = ENHANCING if high_grade else NECROSIS
    labels[dead] = NECROSIS
    annotators = np.zeros(shape, np.uint8)
    for further in _GENEROSITY:
        annotators += body & (distance < 1 + further + _irregular(rng, shape, 0.04))
    inside = tissue >= _CSF
    images = {}
    for contrast in CONTRASTS:
        values = _values(rng, contrast)
        if contrast == "t1c" and not high_grade:
            values["necrosis"] *= np.float32(rng.uniform(*_FAINT))
        painted = _painted(tissue, values)
        for label, name in ((EDEMA, "edema"), (NECROSIS, "necrosis"), (ENHANCING, "enhancing")):
            painted[labels == label] = values[name]
        image = _imaged(rng, painted) * np.float32(rng.uniform(300, 1500))
        images[contrast] = np.where(inside, np.maximum(image, 1), np.float32(0))
    return Head(images, labels, annotators, high_grade)


def stroke(shape: Shape, seed: int) -> Head:
    """A whole head with one to three chronic lesions, on T1. Parameters are those of `tumor`."""
    rng = np.random.default_rng((1, seed))
    x, y, z = _points(rng, shape, _SCALP)
    tissue = phantom.tissues(x, y, z)
    body = np.isin(tissue, (_GREY, _WHITE, _FOLDS))
    labels = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(1, 4)):
        labels[body & (_distance(rng, (x, y, z), rng.uniform(14, 30)) < 1)] = 1
    values = _values(rng, "t1")
    painted = _painted(tissue, values)
    painted[labels == 1] = values["necrosis"]
    image = np.maximum(_imaged(rng, painted), 0)
    image *= np.float32(_MEAN_OF_STROKES) / image.mean()
    return Head({"t1": image}, labels, labels, high_grade=False)


def _points(rng: np.random.Generator, shape: Shape, outermost: int) -> tuple[Field, Field, Field]:
    """Place of each voxel in the phantom, in mm: the grid is laid over a tissue, scaled and deformed."""
    _, half, middle, _ = phantom.TISSUES[outermost - 1]
    found = []
    for axis, count in enumerate(shape):
        along = np.linspace(-1, 1, count, dtype=np.float32) / _FILLED * rng.uniform(0.94, 1.06)
        place = (along * half[axis] + middle[axis]).reshape([-1 if other == axis else 1 for other in range(3)])
        found.append(place + rng.uniform(2, 4) * _smooth(rng, shape, 7))
    return found[0], found[1], found[2]


def _distance(rng: np.random.Generator, points: tuple[Field, Field, Field], radius_mm: float) -> Field:
    """Distance from a random place within the brain, where 1 is the irregular border of something of that radius."""
    _, half, middle, _ = phantom.TISSUES[_WHITE - 1]
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    centre = np.array(middle) + rng.uniform(0.3, 0.65) * direction * np.array(half)
    stretch = rng.uniform(0.85, 1.15, 3)
    squares = sum(((p - c) * s) ** 2 for p, c, s in zip(points, centre, stretch, strict=True))
    shape = points[0].shape
    return np.sqrt(squares, dtype=np.float32) / np.float32(radius_mm) * (1 + _irregular(rng, shape, 0.15, cells=12))


def _irregular(rng: np.random.Generator, shape: tuple[int, ...], size: float, cells: int = 16) -> Field:
    """A smooth field between plus and minus 1.5 times its size, so that borders of it keep their order."""
    return np.clip(_smooth(rng, shape, cells), -1.5, 1.5) * np.float32(size)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> Field:
    """Random field of deviation 1: a cubic B-spline of `cells` knots an axis."""
    found = rng.standard_normal((cells, cells, cells), dtype=np.float32)
    for count in shape:  # each turn takes the first axis away and puts the voxels' axis last
        found = np.tensordot(found, _basis(count, cells), axes=(0, 1))
    return found / found.std()


def _basis(count: int, cells: int) -> Field:
    """Weights (count, cells) of a cubic B-spline's knots at evenly spaced places."""
    place = np.linspace(0, cells - 3, count, endpoint=False)
    knot = place.astype(int)
    u = place - knot
    weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]) / 6
    found = np.zeros((count, cells), np.float32)
    for offset, weight in enumerate(weights):
        found[np.arange(count), knot + offset] = weight
    return found


def _values(rng: np.random.Generator, contrast: str) -> dict[str, np.float32]:
    return {name: np.float32(rng.uniform(*bounds)) for name, bounds in _INTENSITIES[contrast].items()}


def _painted(tissue: NDArray[np.uint8], values: Mapping[str, np.float32]) -> Field:
    table = [np.float32(0), *(values[_TISSUE_OF[number]] for number in sorted(_TISSUE_OF))]
    return np.array(table)[tissue]


def _imaged(rng: np.random.Generator, painted: Field) -> Field:
    """What a scanner makes of intensities: blurred, with a bias field of about 8% and noise of 2% to 4%."""
    blurred = gaussian_filter(painted, rng.uniform(0.3, 0.6), truncate=3)
    bias = np.exp(np.float32(0.08) * np.clip(_smooth(rng, painted.shape, 5), -2.5, 2.5))
    noise = rng.standard_normal(painted.shape, dtype=np.float32) * np.float32(rng.uniform(0.02, 0.04))
    return blurred * bias + noise


def write(folder: Path, task: str, seeds: range, shape: Shape, spacing_mm: float = 1.0) -> Path:
    """Write heads as NIfTI files, and their table of cases, and give the table's path.

    Parameters
    ----------
    folder : pathlib.Path
        Made if it is not there.
    task : str
        ``"tumors"``, ``"strokes"``, ``"annotators"`` or ``"grades"``, whose table has a column ``class`` and no labels.
    seeds : range
        A head each; even seeds have a high grade.
    shape : tuple of 3 int
    spacing_mm : float
        Of the files. The head fills the grid, whatever it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine = phantom.grid(shape, spacing_mm).affine
    rows = []
    for seed in seeds:
        head = stroke(shape, seed) if task == "strokes" else tumor(shape, seed, high_grade=seed % 2 == 0)
        files = dict(head.images)
        if task != "grades":
            files["label"] = head.annotators if task == "annotators" else head.labels
        row = {"id": f"head-{seed}"}
        for name, data in files.items():
            row[name] = f"head-{seed}-{name}.nii.gz"
            Volume.from_array(data, affine).save(folder / row[name], force=True)
        rows.append(row | ({"class": str(int(head.high_grade))} if task == "grades" else {}))
    table = folder / "cases.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return table


def main() -> None:
    """Write heads of one task."""
    parser = argparse.ArgumentParser(description="Synthetic heads as NIfTI files with a table of cases.")
    parser.add_argument("task", choices=("tumors", "grades", "annotators", "strokes"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", type=int, default=4, metavar="N")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 96, 96), metavar="VOXELS")
    parser.add_argument("--spacing-mm", type=float, default=1.0)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.heads)
    print(write(args.folder, args.task, seeds, tuple(args.shape), args.spacing_mm))


if __name__ == "__main__":
    main()

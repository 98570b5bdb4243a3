"""Masks of one scan stored in all 48 orders of its axes, and on random oblique grids, against the mask of the scan.

    .venv-dev/bin/python benchmarks/orientations.py [BUNDLE] [--grids 100] [--seed 0] [-o results/orientations.json]

Three things are counted:

- the scan in each of the 48 axis codes: its mask must be the mask of the scan in the same order, voxel for voxel,
  because axes are only permuted and flipped on their way to a network;
- its voxels on each of the oblique grids (of any direction, 0.7 to 3 mm, anisotropic), stored in two orders: again
  voxel for voxel;
- the scan resampled to each of as many grids that are turned by up to 15 degrees and have other spacings: the Dice
  between its mask and the scan's mask, resampled to that grid. The scan, the mask and the network's input are each
  interpolated, which moves a surface by a part of a voxel, so that a least Dice is stated and not equality.

BUNDLE takes one channel; by default it is the small one of the tests. Exit code 1 where a mask is another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path

import numpy as np
from nibabel.eulerangles import euler2mat
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy.ndimage import gaussian_filter, map_coordinates

from lowres_seg import Segmenter, Volume
from lowres_seg.export import phantom
from lowres_seg.metrics import dice

CHECKOUT = Path(__file__).resolve().parents[1]
BUNDLE = CHECKOUT / "tests" / "data" / "3b2aec7" / "bundle-fp32"
RESULTS = Path(__file__).parent / "results" / "orientations.json"
#: Least Dice of a mask of a turned grid.
LEAST_DICE = 0.95
TURN_DEGREES = 15.0
Order = np.ndarray


@dataclass
class Found:
    """Counts of masks.

    Attributes
    ----------
    codes, codes_equal : int
        Axis codes, and those whose mask is equal.
    oblique, oblique_equal : int
        Oblique grids, and those whose mask is equal in both orders.
    dices : list of float
        Of the turned grids.
    """

    codes: int = 0
    codes_equal: int = 0
    oblique: int = 0
    oblique_equal: int = 0
    dices: list[float] = field(default_factory=list)


def smooth(scan: Volume) -> Volume:
    """The scan without its noise, which a turned grid would sample at other places."""
    return Volume.from_array(gaussian_filter(scan.data.astype(np.float32), 3.0), scan.grid.affine)


def orders() -> Iterator[Order]:
    """The 48 orders of three axes, as nibabel has them: the new place and the direction of each."""
    for places in permutations(range(3)):
        for flips in product((1, -1), repeat=3):
            yield np.array(list(zip(places, flips, strict=True)), float)


def stored(volume: Volume, order: Order) -> Volume:
    """The same voxels in the same space, stored in another order."""
    data = np.ascontiguousarray(apply_orientation(volume.data, order))
    return Volume.from_array(data, volume.grid.affine @ inv_ornt_aff(order, volume.data.shape))


def is_same_mask(segmenter: Segmenter, scan: Volume, mask: Volume, order: Order) -> bool:
    """Tell whether the mask of a scan that is stored in another order is its mask in that order."""
    found = segmenter.predict(stored(scan, order)).labels
    return np.array_equal(found.data, apply_orientation(mask.data, order))


def oblique(scan: Volume, random: np.random.Generator) -> Volume:
    """The voxels of a scan on a grid of any direction."""
    matrix, _ = np.linalg.qr(random.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = matrix * random.uniform(0.7, 3.0, 3)
    affine[:3, 3] = random.uniform(-200, 200, 3)
    return Volume.from_array(scan.data, affine)


def turned(scan: Volume, random: np.random.Generator) -> Volume:
    """The scan resampled to a grid of the same centre and extent, turned, with other spacings."""
    shape = tuple(int(n) for n in np.round(np.array(scan.data.shape) * random.uniform(0.8, 1.25, 3)))
    limit = np.radians(TURN_DEGREES) / np.sqrt(3)
    turn = euler2mat(*random.uniform(-limit, limit, 3))
    affine = np.eye(4)
    extent = np.array(scan.data.shape) * scan.grid.spacing_mm
    affine[:3, :3] = turn @ np.diag(extent / shape)
    centre = scan.grid.affine[:3, :3] @ ((np.array(scan.data.shape) - 1) / 2) + scan.grid.affine[:3, 3]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return resampled(scan, Volume.from_array(np.zeros(shape, np.float32), affine))


def resampled(volume: Volume, like: Volume) -> Volume:
    """A volume on the grid of another one, linearly interpolated and 0 outside."""
    there = np.linalg.inv(volume.grid.affine) @ like.grid.affine
    places = np.indices(like.data.shape).reshape(3, -1)
    at = there[:3, :3] @ places + there[:3, 3:]
    data = map_coordinates(volume.data.astype(np.float32), at, order=1).reshape(like.data.shape)
    return Volume.from_array(data, like.grid.affine)


def measure(segmenter: Segmenter, scan: Volume, grids: int, seed: int) -> Found:
    """Count what is equal."""
    found, random = Found(), np.random.default_rng(seed)
    mask, all_orders = segmenter.predict(scan).labels, list(orders())
    assert 0 < np.count_nonzero(mask.data) < mask.data.size
    for order in all_orders:
        found.codes += 1
        found.codes_equal += is_same_mask(segmenter, scan, mask, order)
    for _ in range(grids):
        there = oblique(scan, random)
        first = segmenter.predict(there).labels
        found.oblique += 1
        found.oblique_equal += is_same_mask(segmenter, there, first, all_orders[random.integers(1, 48)])
        there = turned(scan, random)
        expected = resampled(Volume(mask.data.astype(np.float32), mask.grid), there).data > 0.5
        found.dices.append(dice(segmenter.predict(there).labels.data != 0, expected))
    return found


def is_sound(found: Found) -> bool:
    """Tell whether all masks are what they should be."""
    all_equal = (found.codes, found.oblique) == (found.codes_equal, found.oblique_equal)
    return all_equal and min(found.dices) >= LEAST_DICE


def main() -> None:
    """Count, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--scan", type=Path, help="in place of a phantom head")
    parser.add_argument("--grids", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    scan = smooth(phantom.head((64, 76, 70), 2.7, given.seed)) if given.scan is None else Volume.load(given.scan)
    segmenter = Segmenter.load(given.bundle)
    found = measure(segmenter, scan, given.grids, given.seed)
    low, middle = round(min(found.dices), 4), round(float(np.median(found.dices)), 4)
    print(f"{found.codes_equal} of {found.codes} axis codes and {found.oblique_equal} of {found.oblique} grids equal")
    print(f"Dice on grids turned by up to {TURN_DEGREES:g} degrees: median {middle}, least {low}")
    rows = json.loads(given.output.read_text(encoding="utf-8"))["bundles"] if given.output.exists() else {}
    counts = {key: value for key, value in vars(found).items() if key != "dices"}
    rows[segmenter.manifest.name] = {"seed": given.seed, **counts, "dice_least": low, "dice_median": middle}
    content = {"schema_version": 1, "least_dice": LEAST_DICE, "turn_degrees": TURN_DEGREES, "bundles": rows}
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(not is_sound(found))


if __name__ == "__main__":
    main()

"""What `reproducible` costs and gives: voxels that differ between 1 and 2 threads, and time, with and without it.

    .venv-dev/bin/python benchmarks/reproducible.py BUNDLE... --scan HEAD.nii.gz [--rounds 5]

Both take turns in one process, with 2 threads. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from lowres_seg import Segmenter, Volume


def main() -> None:
    """Compare each bundle, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    scan = Volume.load(arguments.scan)
    print("| bundle | voxels that differ, as it is | reproducible | time reproducible / as it is |")
    print("|---|---|---|---|")
    for bundle in arguments.bundles:
        differ = {}
        both = {}
        for reproducible in (False, True):
            one = Segmenter.load(bundle, threads=1, reproducible=reproducible).predict(scan).labels.data
            both[reproducible] = Segmenter.load(bundle, threads=2, reproducible=reproducible)
            differ[reproducible] = int(np.count_nonzero(one != both[reproducible].predict(scan).labels.data))
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            for reproducible, segmenter in both.items():
                start = perf_counter()
                segmenter.predict(scan)
                seconds[reproducible].append(perf_counter() - start)
        ratio = median(seconds[True]) / median(seconds[False])
        print(f"| {bundle.name} | {differ[False]} | {differ[True]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Many threads on one segmenter, with scans of several kinds: masks against the serial ones, memory against the bound.

    .venv-dev/bin/python benchmarks/threads.py BUNDLE --scans A.nii.gz B.nii.gz ... [--threads 32] [--seconds 120]

Scans are given as paths, so that reading is part of what threads share. Each scan is also given turned, which must give
the turned mask's own serial result. Writes benchmarks/results/threads.json; exits with 1 if a mask differs or the peak
of the memory is above the bound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic

import numpy as np

from lowres_seg import Segmenter, Volume, __version__, host
from lowres_seg.runtime.openvino_engine import version

RESULTS = Path(__file__).parent / "results" / "threads.json"


def main() -> None:
    """Run the threads, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--scans", type=Path, nargs="+", required=True)
    parser.add_argument("--threads", type=int, default=32, help="callers")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--bound", type=int, default=2_000_000_000, help="max_ram_bytes")
    arguments = parser.parse_args()
    segmenter = Segmenter.load(arguments.bundle, max_ram_bytes=arguments.bound)
    with tempfile.TemporaryDirectory() as folder:
        paths = [*arguments.scans, *(_turned(path, Path(folder)) for path in arguments.scans)]
        expected = [segmenter.predict(path).labels.data for path in paths]
        end = monotonic() + arguments.seconds
        lock, equal, different, errors = threading.Lock(), [0], [0], list[str]()

        def call(number: int) -> None:
            pick = np.random.default_rng(number)
            while monotonic() < end:
                at = int(pick.integers(len(paths)))
                try:
                    same = np.array_equal(segmenter.predict(paths[at]).labels.data, expected[at])
                except Exception as error:  # noqa: BLE001 - counted, and told at the end
                    errors.append(repr(error))
                    return
                with lock:
                    (equal if same else different)[0] += 1

        callers = [threading.Thread(target=call, args=(number,)) for number in range(arguments.threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    held = sum(mask.nbytes for mask in expected)
    peak = host.peak_rss_bytes()
    found = {
        "bundle": arguments.bundle.name,
        "scans": len(paths),
        "callers": arguments.threads,
        "seconds": arguments.seconds,
        "threads": segmenter.threads,
        "equal": equal[0],
        "different": different[0],
        "errors": errors,
        "bound_bytes": arguments.bound,
        "serial_masks_bytes": held,
        "peak_rss_bytes": peak,
        "within": peak <= arguments.bound + held,
        "load_average": os.getloadavg()[0],
        "versions": {"lowres-seg": __version__, "openvino": version()},
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    if different[0] or errors or not found["within"]:
        sys.exit(1)


def _turned(path: Path, folder: Path) -> Path:
    """Copy of a scan whose first two axes change places, on the grid that says so."""
    scan = Volume.load(path)
    swap = np.eye(4)[[1, 0, 2, 3]]
    turned = folder / f"turned-{path.name}"
    Volume.from_array(np.ascontiguousarray(scan.data.swapaxes(0, 1)), scan.grid.affine @ swap).save(turned)
    return turned


if __name__ == "__main__":
    main()

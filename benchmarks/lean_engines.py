"""Peak memory and time of one scan, with engines that stay and with engines that come and go.

    .venv-dev/bin/python benchmarks/lean_engines.py BUNDLE HEAD.nii.gz [RUNS]

Each value is a process of its own; the two take turns.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

ONE = """
import sys, time
start = time.perf_counter()
from lowres_seg import Segmenter, host
Segmenter.load(sys.argv[1], lean=sys.argv[3] == "lean").predict(sys.argv[2])
print(time.perf_counter() - start, host.peak_rss_bytes() / 2**20)
"""


def main() -> None:
    """Run and print."""
    bundle, head = sys.argv[1:3]
    values: dict[str, list[tuple[float, ...]]] = {"lean": [], "resident": []}
    for turn in range(int(sys.argv[3]) + 1 if len(sys.argv) > 3 else 6):
        for name, found in values.items():
            words = [sys.executable, "-c", ONE, bundle, head, name]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            if turn:
                found.append(tuple(map(float, done.stdout.split())))
    for name, found in values.items():
        seconds, mib = (median(column) for column in zip(*found, strict=True))
        print(f"{name:10} {seconds:.2f} s  {mib:.0f} MiB")


if __name__ == "__main__":
    main()

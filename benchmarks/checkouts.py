"""Time and peak memory of `predict` in two checkouts, whole processes in turn.

    .venv-dev/bin/python benchmarks/checkouts.py BEFORE AFTER BUNDLE SCAN [RUNS]

BEFORE and AFTER are folders of the two checkouts, for example a `git worktree` and this one. Both run in this Python.
Linux and macOS only, because the peak is the kernel's own figure.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

THREADS = "2"


def predict(checkout: Path, bundle: str, scan: str, mask: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one process."""
    words = ["predict", bundle, scan, "-o", str(mask), "--force", "--threads", THREADS, "-q"]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")}
    start = perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "lowres_seg", *words], env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{checkout}: predict failed")
    return perf_counter() - start, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    """Run both in turn, and print medians and the median ratio."""
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    before, after = Path(sys.argv[1]), Path(sys.argv[2])
    bundle, scan, runs = sys.argv[3], sys.argv[4], int(sys.argv[5]) if len(sys.argv) > 5 else 10
    found: dict[Path, list[tuple[float, float]]] = {before: [], after: []}
    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder) / "mask.nii.gz"
        for checkout in found:
            predict(checkout, bundle, scan, mask)  # files into the page cache, bytecode onto the disk
        for number in range(runs):
            for checkout in (before, after) if number % 2 == 0 else (after, before):
                found[checkout].append(predict(checkout, bundle, scan, mask))
    for place, unit in enumerate(("s", "MB")):
        old, new = ([run[place] for run in found[checkout]] for checkout in (before, after))
        ratio = statistics.median(b / a for a, b in zip(old, new, strict=True))
        print(f"{unit:2}  before {statistics.median(old):.3f}  after {statistics.median(new):.3f}  ratio {ratio:.3f}")


if __name__ == "__main__":
    main()

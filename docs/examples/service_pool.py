"""A service: one segmenter, a pool of threads, and a bound on the memory of all of them.

    python service_pool.py BUNDLE SCAN... [--max-ram-bytes 2000000000]

Predictions that have no room wait for their turn. A scan that fails does not stop the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lowres_seg import LowresSegError, Segmentation, Segmenter


class Service:
    """Answers requests until it is closed."""

    def __init__(self, bundle: Path, *, callers: int = 4, max_ram_bytes: int | None = None) -> None:
        self._segmenter = Segmenter.load(bundle, max_ram_bytes=max_ram_bytes)
        self._pool = ThreadPoolExecutor(callers)

    def segment(self, scans: Iterable[Path], *, deadline_s: float = 600) -> Iterator[tuple[Path, Segmentation | str]]:
        """Yield each scan with its result, or with what was wrong, as they get done."""
        waiting = {self._pool.submit(self._segmenter.predict, scan, deadline_s=deadline_s): scan for scan in scans}
        for done in as_completed(waiting):
            try:
                yield waiting[done], done.result()
            except LowresSegError as error:
                yield waiting[done], str(error)

    def close(self) -> None:
        """Take no more requests, and end when those that run are done."""
        self._pool.shutdown(cancel_futures=True)


def main() -> None:
    """Segment the scans of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--max-ram-bytes", type=int)
    arguments = parser.parse_args()
    service = Service(arguments.bundle, max_ram_bytes=arguments.max_ram_bytes)
    try:
        for scan, result in service.segment(arguments.scans):
            if isinstance(result, str):
                print("failed", result)
            else:
                print(scan.name, *(f"{name} {ml:.1f} ml" for name, ml in result.volumes_ml().items()), *result.doubts)
    finally:
        service.close()


if __name__ == "__main__":
    main()

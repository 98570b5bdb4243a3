"""A folder that is watched: each scan that appears gets a mask in another folder.

    python folder_watcher.py BUNDLE INBOX OUTBOX [--seconds 60]

A scan is taken when its size has not changed between two looks. A mask appears whole or not at all, so that a scan with
a mask is done, also after a restart. SIGINT and SIGTERM end it between two windows.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path

from lowres_seg import CancelledError, LowresSegError, Segmenter


def watch(
    bundle: Path, inbox: Path, outbox: Path, stop: threading.Event, *, seconds: float, every_s: float = 0.2
) -> None:
    """Segment what appears in `inbox` until `stop` is set, or for some seconds."""
    segmenter = Segmenter.load(bundle)
    sizes: dict[Path, int] = {}
    failed: set[Path] = set()
    end = time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < end:
        for scan in sorted(inbox.glob("*.nii.gz")):
            mask = outbox / scan.name
            before, size = sizes.get(scan), scan.stat().st_size
            sizes[scan] = size
            if mask.exists() or scan in failed or before != size:
                continue
            try:
                segmenter.predict(scan, cancelled=stop.is_set).labels.save(mask)
                print("done", scan.name, flush=True)
            except CancelledError:
                return
            except LowresSegError as error:
                failed.add(scan)
                print("failed", error, flush=True)
        stop.wait(every_s)


def main() -> None:
    """Watch the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inbox", type=Path)
    parser.add_argument("outbox", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    watch(arguments.bundle, arguments.inbox, arguments.outbox, stop, seconds=arguments.seconds)


if __name__ == "__main__":
    main()

"""A folder that is watched: each scan that appears gets a mask in another folder.

    python folder_watcher.py BUNDLE INBOX OUTBOX [--seconds 60]

A scan is taken when its size and its time of change are the same in two looks. One that failed is taken again when they
change, as after an upload that paused. A mask appears whole or not at all, so that a scan with a mask is done, after a
restart too. What cannot be written is tried again later. SIGINT and SIGTERM end it between two windows.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path

from lowres_seg import CancelledError, LowresSegError, Segmenter


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a file; None if it is gone, or a link that leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def watch(
    bundle: Path,
    inbox: Path,
    outbox: Path,
    stop: threading.Event,
    *,
    seconds: float,
    every_s: float = 0.2,
    pause_s: float = 5,
) -> None:
    """Segment what appears in `inbox` until `stop` is set, or for some seconds."""
    outbox.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.load(bundle)
    seen: dict[Path, tuple[int, int] | None] = {}
    failed: dict[Path, tuple[int, int] | None] = {}
    end = time.monotonic() + seconds
    while not stop.is_set() and time.monotonic() < end:
        for scan in sorted(inbox.glob("*.nii.gz")):
            mask, before, now = outbox / scan.name, seen.get(scan), stamp(scan)
            seen[scan] = now
            if now is None or now != before or now == failed.get(scan) or mask.exists():
                continue
            try:
                labels = segmenter.predict(scan, cancelled=stop.is_set).labels
            except CancelledError:
                return
            except LowresSegError as error:
                failed[scan] = now
                print("failed", error, flush=True)
                continue
            if stamp(scan) != now:  # it was written meanwhile
                continue
            try:
                outbox.mkdir(parents=True, exist_ok=True)
                labels.save(mask)
                print("done", scan.name, flush=True)
            except (LowresSegError, OSError) as error:
                print("not written", error, flush=True)
                stop.wait(pause_s)
        stop.wait(every_s)


def main() -> None:
    """Watch the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("inbox", type=Path)
    parser.add_argument("outbox", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    if not arguments.inbox.is_dir():
        parser.error(f"{arguments.inbox}: is no folder")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    watch(arguments.bundle, arguments.inbox, arguments.outbox, stop, seconds=arguments.seconds)


if __name__ == "__main__":
    main()

"""The command line from another program: JSON out, and exit codes that tell broken from doubtful.

    python subprocess_json.py BUNDLE SCAN MASK

It needs nothing of the package in the process that calls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def segment(bundle: Path, scan: Path, mask: Path, *, timeout_s: float = 600) -> dict[str, Any]:
    """Segment a scan in a process of its own, and give what it found.

    Raises
    ------
    RuntimeError
        If it fails. The message is the one line of the command.
    """
    command = [sys.executable, "-m", "lowres_seg", "predict", bundle, scan, "-o", mask, "--force", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode == 2 or not done.stdout:
        raise RuntimeError(done.stderr.strip())
    case: dict[str, Any] = json.loads(done.stdout)["cases"][0]
    if done.returncode != 0:
        raise RuntimeError(case["error"])
    return case


def main() -> None:
    """Segment the scan of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("scan", type=Path)
    parser.add_argument("mask", type=Path)
    arguments = parser.parse_args()
    case = segment(arguments.bundle, arguments.scan, arguments.mask)
    print(case["mask"], *(f"{name} {ml:.1f} ml" for name, ml in case["volumes_ml"].items()), *case["doubt_names"])


if __name__ == "__main__":
    main()

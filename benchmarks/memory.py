"""What `--max-ram` estimates against what `predict` takes.

    .venv-dev/bin/python benchmarks/memory.py BUNDLE [CHANNEL=]SCAN...

One process segments the scan, with one network at a time in memory; the estimate comes from the bundle and the grid.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lowres_seg import Bundle, Volume
from lowres_seg.runtime import memory


def main() -> None:
    """Print both and their ratio."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    path, scan = Path(sys.argv[1]), sys.argv[2:]
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    grid = Volume.load(scan[0].rpartition("=")[2]).grid
    heads = {name: network.output_shape[1] for name, network in manifest.networks.items()}
    networks = max(memory.bytes_of_networks(manifest, bundle.network_files()))
    estimate = networks + memory.bytes_of_scan(manifest, grid, heads, lean=True)
    out = Path(tempfile.mkdtemp()) / "mask.nii.gz"
    command = [sys.executable, "-m", "lowres_seg", "predict", str(path), *scan, "-o", str(out), "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    taken = answer["peak_rss_bytes"]
    print(
        f"{path.name}: estimated {estimate / 1e9:.2f} GB (networks {networks / 1e9:.2f}), "
        f"taken {taken / 1e9:.2f} GB, ratio {estimate / taken:.2f}"
    )


if __name__ == "__main__":
    main()

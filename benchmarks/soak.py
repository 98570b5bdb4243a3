"""500 predictions in one process: memory, threads and descriptors by round, and masks against those of fresh processes.

    .venv-dev/bin/python benchmarks/soak.py [BUNDLE] [--rounds 25] [--seed 0] [-o results/soak.json]

A round is 20 inputs in random order: 14 scans of several shapes, orientations and spacings, and six that are refused
(a missing channel, NaN, a flipped bit in a gzip stream, a truncated file, no contrast, no file). Every mask is written.
Exit code 1 where the memory of the last rounds is more than 10 MB above that from the third round on, where there are
more threads or descriptors than after the first, where an input has another outcome in any round, or where a mask is
not a fresh process's. BUNDLE takes one channel; by default it is the small one of the tests. A few minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import run
from typing import Any

import nibabel as nib
import numpy as np
import psutil

from lowres_seg import LowresSegError, Segmenter, Volume
from lowres_seg.export import phantom

CHECKOUT = Path(__file__).resolve().parents[1]
BUNDLE = CHECKOUT / "tests" / "data" / "3b2aec7" / "bundle-fp32"
RESULTS = Path(__file__).parent / "results" / "soak.json"
#: Growth of memory from the third round on, in MB. A leak of the smallest scan would be 160 MB.
GROWTH_MB = 10.0
SHAPES = ((40, 48, 44), (96, 80, 72), (64, 72, 24), (128, 112, 100), (33, 47, 61))


@dataclass
class Found:
    """What a soak found.

    Attributes
    ----------
    predictions : int
        Inputs that were given, refused ones included.
    outcomes : dict of str to set of str
        Of each input: digests of its masks, or messages.
    rss_mb, threads, descriptors : list
        After each round.
    """

    predictions: int = 0
    outcomes: dict[str, set[str]] = field(default_factory=dict)
    rss_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    @property
    def growth_mb(self) -> float:
        """Median memory after the last fifth of the rounds, less that after as many from the third on."""
        count = max(1, len(self.rss_mb) // 5)
        return round(median(self.rss_mb[-count:]) - median(self.rss_mb[2 : 2 + count]), 1)


def scans(folder: Path, seed: int, count: int = 14) -> dict[str, Path]:
    """Write scans of several shapes, orientations, spacings and types: path by name."""
    random, paths = np.random.default_rng(seed), {}
    for index in range(count):
        shape = SHAPES[index % len(SHAPES)]
        head = phantom.head(shape, float(200 / max(shape)), index)
        codes = "".join(
            random.permutation(["RL"[random.integers(2)], "AP"[random.integers(2)], "SI"[random.integers(2)]])
        )
        image = nib.Nifti1Image(head.data, head.grid.affine)
        turned = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
        )
        image = image.as_reoriented(turned)
        image.set_data_dtype([np.int16, np.uint16, np.float32][index % 3])
        name = f"{index:02} {codes} {'×'.join(map(str, image.shape))}"
        paths[name] = folder / f"{index:02}.nii{'.gz' if index % 3 else ''}"
        image.to_filename(paths[name])
    return paths


def refused(folder: Path, good: Path, channel: str) -> dict[str, Any]:
    """Write inputs that must be refused, made from a scan: what is given to `predict`, by name."""
    volume = Volume.load(good)
    data = volume.data.copy()
    data[3, 4, 5] = np.nan
    Volume(data, volume.grid).save(folder / "nan.nii.gz")
    Volume(np.ones_like(data), volume.grid).save(folder / "flat.nii.gz")
    volume.save(folder / "whole.nii.gz")
    flipped = bytearray((folder / "whole.nii.gz").read_bytes())
    flipped[len(flipped) // 2] ^= 4
    (folder / "flipped.nii.gz").write_bytes(flipped)
    volume.save(folder / "whole.nii")
    (folder / "short.nii").write_bytes((folder / "whole.nii").read_bytes()[:-999])
    return {
        "missing channel": {f"not-{channel}": good},
        "NaN": folder / "nan.nii.gz",
        "flipped bit": folder / "flipped.nii.gz",
        "truncated": folder / "short.nii",
        "no contrast": folder / "flat.nii.gz",
        "no file": folder / "none.nii.gz",
    }


def soak(segmenter: Segmenter, inputs: dict[str, Any], rounds: int, seed: int, out: Path) -> Found:
    """Give all inputs to a segmenter in each round, in an order of its own."""
    found, process, random = Found(), psutil.Process(), np.random.default_rng(seed)
    for _ in range(rounds):
        for name in random.permutation(list(inputs)):
            found.predictions += 1
            try:
                labels = segmenter.predict(inputs[name]).labels
            except LowresSegError as error:
                outcome = str(error)
            else:
                labels.save(out / "mask.nii.gz", force=True)
                outcome = digest(labels)
                del labels
            found.outcomes.setdefault(str(name), set()).add(outcome)
        gc.collect()
        _trim()
        found.rss_mb.append(round(process.memory_info().rss / 1e6, 1))
        found.threads.append(process.num_threads())
        found.descriptors.append(process.num_fds())
    return found


def digest(labels: Volume) -> str:
    """Digest of the voxels of a mask."""
    return hashlib.sha256(np.ascontiguousarray(labels.data, np.uint8)).hexdigest()


def fresh(bundle: Path, scan: Path, out: Path) -> str:
    """Digest of the mask that a process of its own makes of a scan."""
    words = ["predict", bundle, scan, "-o", out, "--force"]
    run([sys.executable, "-m", "lowres_seg", *map(str, words)], check=True, capture_output=True)
    return digest(Volume.load(out))


def faults(found: Found, expected: dict[str, str]) -> list[str]:
    """What should not be, in words."""
    told = []
    if found.growth_mb > GROWTH_MB:
        told.append(f"memory grew by {found.growth_mb} MB from the third round on")
    for what, counts in (("threads", found.threads), ("descriptors", found.descriptors)):
        if max(counts) > counts[0]:
            told.append(f"{counts[0]} {what} after the first round, {max(counts)} later")
    told += [f"{name}: {len(outcomes)} outcomes" for name, outcomes in found.outcomes.items() if len(outcomes) != 1]
    told += [
        f"{name}: not the mask of a fresh process" for name, one in expected.items() if found.outcomes[name] != {one}
    ]
    return told


def _trim() -> None:
    """Give free memory back to the system, so that what counts is what is held."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def main() -> None:
    """Soak, print a table, keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    kinds = {}
    for kind, lean in (("resident engines", False), ("lean engines", True)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            good = scans(folder, given.seed)
            segmenter = Segmenter.load(given.bundle, threads=2, lean=lean)
            bad = refused(folder, next(iter(good.values())), segmenter.pipeline.channels[0])
            found = soak(segmenter, good | bad, given.rounds, given.seed, folder)
            expected = {name: fresh(given.bundle, path, folder / "fresh.nii.gz") for name, path in good.items()}
        told = faults(found, expected)
        outcomes = Counter(name in bad for name in found.outcomes)
        kinds[kind] = {
            "predictions": found.predictions,
            "scans": outcomes[False],
            "refused_inputs": outcomes[True],
            "rss_mb": found.rss_mb,
            "growth_mb": found.growth_mb,
            "threads": found.threads,
            "descriptors": found.descriptors,
            "equal_to_fresh": sum(found.outcomes[name] == {one} for name, one in expected.items()),
            "faults": told,
        }
        print(f"{kind}: {found.predictions} predictions; MB after each round {found.rss_mb}")
        print(f"threads {found.threads}\ndescriptors {found.descriptors}\nfaults {told}", flush=True)
    content = {"schema_version": 1, "bundle": given.bundle.name, "seed": given.seed, "kinds": kinds}
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(kind["faults"] for kind in kinds.values()))


if __name__ == "__main__":
    main()
